//! The decisions about leases that come, change and go.

use agent_protocol::{Phase, WantedNic};

use super::super::tests::{
    TOOK, bound, configured_link, dhcp_binding, fresh_link, lease, run, sight,
};
use super::*;
use crate::action::StepFailure;
use crate::sight::{Sight, TargetSight};

#[test]
fn a_lease_is_asked_for_applied_and_announced() {
    let mut nic = NicBinding::new(bound(dhcp_binding()));
    nic.see(sight(LinkPlace::Guest(fresh_link())));
    assert_eq!(
        run(&mut nic),
        ["Report Binding", "Enter", "SetUp", "StartLease", "Wait"]
    );

    nic.see_lease(LeaseSight::Granted(lease(50)));

    assert_eq!(
        run(&mut nic),
        [
            "SetAddresses",
            "SetRoutes",
            "Announce",
            "Verify",
            "Report Bound",
            "Wait"
        ]
    );
}

#[test]
fn another_lease_replaces_the_first_and_is_reported() {
    let mut nic = NicBinding::new(bound(dhcp_binding()));
    nic.see(sight(LinkPlace::Guest(fresh_link())));
    run(&mut nic);
    nic.see_lease(LeaseSight::Granted(lease(50)));
    run(&mut nic);

    nic.see_lease(LeaseSight::Granted(lease(50)));
    assert_eq!(run(&mut nic), ["Wait"]);
    nic.see_lease(LeaseSight::Granted(lease(51)));
    let done = run(&mut nic);

    assert_eq!(done[..2], ["Report Binding", "DropLease"]);
    let Phase::Bound { addresses, .. } = nic.phase() else {
        panic!("{:?}", nic.phase());
    };
    assert_eq!(addresses, ["192.0.2.51/24".parse::<IpNet>().unwrap()]);
}

#[test]
fn a_lost_lease_takes_its_address_away_and_waits_for_another() {
    let mut nic = NicBinding::new(bound(dhcp_binding()));
    nic.see(sight(LinkPlace::Guest(fresh_link())));
    run(&mut nic);
    nic.see_lease(LeaseSight::Granted(lease(50)));
    run(&mut nic);

    nic.see_lease(LeaseSight::Pending);

    assert_eq!(
        run(&mut nic),
        ["Report Binding", "DropLease", "SetUp", "Wait"]
    );
}

#[test]
fn an_address_leased_in_an_earlier_life_gives_way_to_the_new_one() {
    let mut link = configured_link();
    link.addresses = vec!["192.0.2.50/24".parse().unwrap()];
    let mut nic = NicBinding::new(bound(dhcp_binding()));
    nic.see(sight(LinkPlace::Target(link)));
    run(&mut nic);

    nic.see_lease(LeaseSight::Granted(lease(51)));
    run(&mut nic);

    let Phase::Bound { addresses, .. } = nic.phase() else {
        panic!("{:?}", nic.phase());
    };
    assert_eq!(addresses, ["192.0.2.51/24".parse::<IpNet>().unwrap()]);
}

#[test]
fn no_lease_in_time_fails_and_the_link_is_held() {
    let mut nic = NicBinding::new(bound(dhcp_binding()));
    nic.see(sight(LinkPlace::Guest(fresh_link())));
    run(&mut nic);

    nic.see_lease(LeaseSight::Refused { waited_ms: 15_000 });
    nic.see(sight(LinkPlace::Target(fresh_link())));

    assert_eq!(run(&mut nic), ["Hold", "Report Failed", "Wait"]);
    let error = BindError::NoLease { waited_ms: 15_000 };
    assert_eq!(nic.phase(), Phase::Failed { error });
}

/// A NIC that has been given a lease, or was refused one, and could not be moved away after that.
fn stuck_in_its_target(last: LeaseSight) -> NicBinding {
    let mut nic = NicBinding::new(bound(dhcp_binding()));
    nic.see(sight(LinkPlace::Guest(fresh_link())));
    run(&mut nic);
    nic.see_lease(last);
    run(&mut nic);
    nic.see(Sight {
        place: LinkPlace::Target(fresh_link()),
        target: TargetSight::Gone,
    });
    let refused = StepFailure::Kernel("no".into());
    assert_eq!(nic.next(), Action::Hold);
    nic.complete(&Action::Hold, Err(refused), TOOK);
    nic
}

#[test]
fn a_link_that_could_not_be_held_asks_for_a_lease_again_when_it_is_wanted_again() {
    let refused = LeaseSight::Refused { waited_ms: 15_000 };
    for last in [refused, LeaseSight::Granted(lease(50))] {
        let mut nic = stuck_in_its_target(last.clone());

        nic.declare(WantedNic {
            generation: 2,
            ..bound(dhcp_binding())
        });
        nic.see(sight(LinkPlace::Target(fresh_link())));

        let done = run(&mut nic);
        assert_eq!(done[done.len() - 2..], ["StartLease", "Wait"], "{last:?}");
    }
}

#[test]
fn a_lease_refused_to_an_earlier_wish_is_asked_for_again() {
    let mut nic = NicBinding::new(bound(dhcp_binding()));
    nic.see(sight(LinkPlace::Guest(fresh_link())));
    run(&mut nic);
    nic.see_lease(LeaseSight::Refused { waited_ms: 15_000 });

    nic.declare(WantedNic {
        generation: 2,
        ..bound(dhcp_binding())
    });
    nic.see(sight(LinkPlace::Target(fresh_link())));

    let done = run(&mut nic);
    assert_eq!(done[done.len() - 2..], ["StartLease", "Wait"]);
}
