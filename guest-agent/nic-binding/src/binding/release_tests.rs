//! The decisions of a release: what is done at once, and what once the link has stayed too long.

use agent_protocol::{Goal, Phase, WantedNic};
use nic_model::IpNet;

use super::super::tests::{
    TOOK, bound, bound_nic, configured_link, fresh_link, run, sight, static_binding, wanted,
};
use super::*;
use crate::action::StepFailure;

fn unwanted(place: LinkPlace) -> Sight {
    Sight {
        place,
        target: TargetSight::NotWanted,
    }
}

fn bare_link() -> LinkSeen {
    LinkSeen {
        name: "eth0".into(),
        ..fresh_link()
    }
}

/// Disarmed in its container and reported as released.
fn disarmed_nic() -> NicBinding {
    let mut nic = NicBinding::new(wanted(Goal::Released));
    nic.see(unwanted(LinkPlace::Elsewhere(configured_link())));
    run(&mut nic);
    assert!(nic.is_disarmed());
    nic
}

#[test]
fn a_link_in_a_container_is_disarmed_and_any_other_one_moved() {
    let cases = [
        (LinkPlace::Target(configured_link()), "Disarm"),
        (LinkPlace::Elsewhere(configured_link()), "Disarm"),
        // As an agent that was killed in mid-release finds it.
        (LinkPlace::Elsewhere(bare_link()), "Disarm"),
        (LinkPlace::Guest(fresh_link()), "Release"),
        (LinkPlace::Holding(configured_link()), "Release"),
    ];
    for (place, step) in cases {
        let mut nic = NicBinding::new(wanted(Goal::Released));
        nic.see(unwanted(place));

        assert_eq!(run(&mut nic), [step, "Report Released", "Wait"]);
    }
}

#[test]
fn a_disarmed_link_is_left_alone_until_its_time_is_over() {
    let mut nic = disarmed_nic();

    nic.see(unwanted(LinkPlace::Elsewhere(bare_link())));
    nic.disarmed_for(STAY.saturating_sub(Duration::from_millis(1)));
    assert_eq!(run(&mut nic), ["Wait"]);
    nic.disarmed_for(STAY);

    assert_eq!(run(&mut nic), ["Release", "Wait"]);
    assert_eq!(nic.phase(), Phase::Released);
    assert!(!nic.is_disarmed());
}

#[test]
fn a_disarmed_link_is_moved_when_its_container_dies_or_uses_it_again() {
    let address: IpNet = "192.0.2.99/24".parse().unwrap();
    let switched_on = LinkSeen {
        admin: Admin::Up,
        ..bare_link()
    };
    let addressed = LinkSeen {
        addresses: vec![address],
        ..bare_link()
    };
    let dead = Sight {
        place: LinkPlace::Target(bare_link()),
        target: TargetSight::Gone,
    };
    let cases = [
        dead,
        unwanted(LinkPlace::Elsewhere(switched_on)),
        unwanted(LinkPlace::Target(addressed)),
        unwanted(LinkPlace::Guest(bare_link())),
    ];
    for seen in cases {
        let mut nic = disarmed_nic();

        nic.see(seen.clone());

        assert_eq!(run(&mut nic), ["Release", "Wait"], "{seen:?}");
        assert_eq!(nic.phase(), Phase::Released);
    }
}

#[test]
fn a_disarmed_link_that_is_unplugged_is_absent() {
    let mut nic = disarmed_nic();

    // The kernel takes the link away a moment before its device.
    nic.see(unwanted(LinkPlace::Hidden));
    assert_eq!(run(&mut nic), ["Wait"]);
    nic.see(unwanted(LinkPlace::Nowhere));

    assert_eq!(run(&mut nic), ["Report Absent", "Wait"]);
    assert!(!nic.is_disarmed());
}

#[test]
fn a_link_that_cannot_be_disarmed_is_moved() {
    let mut nic = NicBinding::new(wanted(Goal::Released));
    nic.see(unwanted(LinkPlace::Elsewhere(configured_link())));
    let refused = Err(StepFailure::Kernel("busy".into()));
    nic.complete(&Action::Disarm, refused, TOOK);
    assert_eq!(nic.next(), Action::Look);

    nic.see(unwanted(LinkPlace::Elsewhere(configured_link())));

    assert_eq!(run(&mut nic), ["Release", "Report Released", "Wait"]);
}

#[test]
fn a_disarmed_link_enters_its_next_target_in_one_move() {
    let mut nic = disarmed_nic();
    nic.declare(WantedNic {
        generation: 2,
        ..bound(static_binding())
    });
    nic.see(sight(LinkPlace::Elsewhere(bare_link())));

    let done = run(&mut nic);

    assert_eq!(done[..3], ["Report Binding", "Enter", "SetAddresses"]);
    assert!(matches!(nic.phase(), Phase::Bound { .. }));
    nic.disarmed_for(STAY);
    assert_eq!(run(&mut nic), ["Wait"]);
}

#[test]
fn a_disarmed_link_that_is_wanted_where_it_is_begins_from_the_holding_namespace() {
    let mut nic = disarmed_nic();
    nic.declare(WantedNic {
        generation: 2,
        ..bound(static_binding())
    });
    nic.see(sight(LinkPlace::Target(bare_link())));

    let done = run(&mut nic);

    assert_eq!(done[..3], ["Report Binding", "Hold", "Enter"]);
    assert!(matches!(nic.phase(), Phase::Bound { .. }));
}

#[test]
fn a_bound_link_that_is_released_is_disarmed_whatever_was_known_of_it() {
    let mut nic = bound_nic();
    nic.declare(WantedNic {
        generation: 2,
        ..wanted(Goal::Released)
    });
    assert_eq!(nic.next(), Action::Look);
    nic.see(unwanted(LinkPlace::Target(configured_link())));

    assert_eq!(run(&mut nic), ["Disarm", "Report Released", "Wait"]);
}

#[test]
fn a_link_that_cannot_be_reached_is_not_reported_released() {
    let mut nic = NicBinding::new(wanted(Goal::Released));
    nic.see(sight(LinkPlace::Hidden));

    assert_eq!(nic.next(), Action::Wait);
}

#[test]
fn a_refused_release_is_reported_and_tried_again_at_the_next_look() {
    let mut nic = NicBinding::new(wanted(Goal::Released));
    nic.see(sight(LinkPlace::Guest(fresh_link())));
    let refused = Err(StepFailure::Kernel("busy".into()));
    nic.complete(&Action::Release, refused, TOOK);
    assert_eq!(run(&mut nic), ["Report Failed", "Wait"]);

    nic.see(sight(LinkPlace::Guest(fresh_link())));

    assert_eq!(run(&mut nic), ["Release", "Report Released", "Wait"]);
}
