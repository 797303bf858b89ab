//! The decisions one by one: this was seen, that is to be done.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a few actions of many are special here"
)]

use std::time::Duration;

use nic_model::{Addressing, NetnsInode, ProcessStart, Route, Target};

use super::*;
use crate::sight::NameInTarget;

pub(super) fn identity() -> TargetIdentity {
    TargetIdentity {
        boot_id: "00000000-0000-4000-8000-000000000001".parse().unwrap(),
        netns_inode: NetnsInode(4_026_532_000),
        process_started: Some(ProcessStart(4711)),
    }
}

pub(super) const TOOK: Duration = Duration::from_micros(250);

pub(super) fn static_binding() -> Binding {
    Binding {
        target: "netns:blue".parse().unwrap(),
        link_name: "eth0".parse().unwrap(),
        mtu: 1400.try_into().unwrap(),
        addressing: Addressing::Static {
            addresses: vec![
                "192.0.2.10/24".parse().unwrap(),
                "2001:db8::10/64".parse().unwrap(),
            ],
        },
        routes: vec![default_route("192.0.2.1")],
    }
}

pub(super) fn dhcp_binding() -> Binding {
    Binding {
        addressing: Addressing::Dhcp { addresses: vec![] },
        routes: vec![],
        ..static_binding()
    }
}

pub(super) fn default_route(gateway: &str) -> Route {
    Route {
        destination: "0.0.0.0/0".parse().unwrap(),
        gateway: Some(gateway.parse().unwrap()),
        metric: None,
    }
}

pub(super) fn lease(last: u8) -> Lease {
    Lease {
        address: format!("192.0.2.{last}/24").parse().unwrap(),
        routes: vec![default_route("192.0.2.1")],
    }
}

pub(super) fn wanted(goal: Goal) -> WantedNic {
    WantedNic {
        nic: "nic-abc0123xyz".parse().unwrap(),
        generation: 1,
        path: "02.0/00.0".parse().unwrap(),
        mac: "5a:00:00:00:00:01".parse().unwrap(),
        goal,
        known_target: None,
    }
}

pub(super) fn bound(binding: Binding) -> WantedNic {
    wanted(Goal::Bound {
        binding: Box::new(binding),
    })
}

pub(super) fn fresh_link() -> LinkSeen {
    LinkSeen {
        name: "ens5".into(),
        mac: Some("5a:00:00:00:00:01".parse().unwrap()),
        mtu: 1500,
        admin: Admin::Down,
        addresses: vec![],
        routes: vec![],
    }
}

pub(super) fn configured_link() -> LinkSeen {
    let binding = static_binding();
    LinkSeen {
        name: "eth0".into(),
        mtu: 1400,
        admin: Admin::Up,
        addresses: binding.addressing.addresses().to_vec(),
        routes: binding.routes,
        ..fresh_link()
    }
}

pub(super) fn present() -> TargetSight {
    TargetSight::Present {
        identity: identity(),
        name: NameInTarget::Free,
    }
}

pub(super) fn sight(place: LinkPlace) -> Sight {
    Sight {
        place,
        target: present(),
    }
}

/// Follows the decisions, everything succeeding, until nothing is left to do; says what was done.
pub(super) fn run(nic: &mut NicBinding) -> Vec<String> {
    let mut done = Vec::new();
    for _ in 0..40 {
        let action = nic.next();
        done.push(match &action {
            Action::Report(report) => format!("Report({:?})", report.phase),
            other => format!("{other:?}"),
        });
        match &action {
            Action::Wait | Action::Look => break,
            Action::Verify => {
                let link = nic.sight.as_ref().and_then(|sight| sight.place.link());
                nic.verified(link.cloned(), TOOK);
            }
            _ => nic.complete(&action, Ok(()), TOOK),
        }
    }
    done.iter()
        .map(|text| text.split([' ', '(', '{']).next().unwrap_or_default())
        .zip(&done)
        .map(|(name, text)| {
            let phase = text.strip_prefix("Report(").map(|rest| {
                let end = rest.find([' ', ')']).unwrap_or(rest.len());
                format!("Report {}", &rest[..end])
            });
            phase.unwrap_or_else(|| name.to_owned())
        })
        .collect()
}

pub(super) fn bound_nic() -> NicBinding {
    let mut nic = NicBinding::new(bound(static_binding()));
    nic.see(sight(LinkPlace::Guest(fresh_link())));
    run(&mut nic);
    assert!(matches!(nic.phase(), Phase::Bound { .. }));
    nic
}

#[test]
fn an_arriving_link_is_reported_before_it_is_touched_and_then_bound() {
    let mut nic = NicBinding::new(bound(static_binding()));
    assert_eq!(nic.next(), Action::Look);
    nic.see(sight(LinkPlace::Nowhere));
    assert_eq!(run(&mut nic), ["Report Awaited", "Wait"]);

    nic.see(sight(LinkPlace::Guest(fresh_link())));

    assert_eq!(
        run(&mut nic),
        [
            "Report Binding",
            "Enter",
            "SetAddresses",
            "SetUp",
            "SetRoutes",
            "Announce",
            "Verify",
            "Report Bound",
            "Wait"
        ]
    );
}

#[test]
fn what_is_done_already_is_not_done_again() {
    let half = |change: fn(&mut LinkSeen)| {
        let mut link = configured_link();
        change(&mut link);
        link
    };
    let cases: [(LinkSeen, &[&str]); 6] = [
        (configured_link(), &[]),
        (half(|link| link.mtu = 1500), &["SetMtu"]),
        (half(|link| link.routes.clear()), &["SetRoutes"]),
        (half(|link| link.addresses.truncate(1)), &["SetAddresses"]),
        (
            half(|link| {
                link.admin = Admin::Down;
                link.routes.clear();
            }),
            &["SetUp", "SetRoutes"],
        ),
        (
            half(|link| link.name = "ens5".into()),
            &["Enter", "SetAddresses", "SetUp", "SetRoutes"],
        ),
    ];
    for (link, steps) in cases {
        let mut nic = NicBinding::new(bound(static_binding()));
        nic.see(sight(LinkPlace::Target(link)));

        let done = run(&mut nic);

        let expected = [
            &["Report Binding"],
            steps,
            &["Announce", "Verify", "Report Bound", "Wait"],
        ]
        .concat();
        assert_eq!(done, expected);
    }
}

#[test]
fn a_target_that_cannot_be_used_fails_and_the_link_is_held() {
    let target: Target = "netns:blue".parse().unwrap();
    let found = NetnsInode(7);
    let taken = TargetSight::Present {
        identity: identity(),
        name: NameInTarget::Taken,
    };
    let cases = [
        (
            TargetSight::Gone,
            BindError::TargetGone {
                target: target.clone(),
            },
        ),
        (
            TargetSight::Changed { found },
            BindError::TargetChanged {
                target: target.clone(),
                found,
            },
        ),
        (TargetSight::IsGuest, BindError::TargetIsGuest { target }),
        (
            taken,
            BindError::NameTaken {
                name: "eth0".parse().unwrap(),
            },
        ),
    ];
    for (target, error) in cases {
        let mut nic = NicBinding::new(bound(static_binding()));
        let place = LinkPlace::Guest(fresh_link());
        nic.see(Sight { place, target });

        assert_eq!(run(&mut nic), ["Hold", "Report Failed", "Wait"]);
        assert_eq!(nic.phase(), Phase::Failed { error });
    }
}

#[test]
fn a_foreign_device_at_the_declared_place_is_never_touched() {
    let foreign = LinkSeen {
        mac: Some("5a:00:00:00:00:02".parse().unwrap()),
        ..fresh_link()
    };
    let mut nic = NicBinding::new(bound(static_binding()));
    nic.see(sight(LinkPlace::Guest(foreign.clone())));
    assert_eq!(run(&mut nic), ["Report Failed", "Wait"]);
    assert!(matches!(
        nic.phase(),
        Phase::Failed {
            error: BindError::MacMismatch { .. }
        }
    ));

    let mut released = NicBinding::new(wanted(Goal::Released));
    released.see(sight(LinkPlace::Guest(foreign)));
    assert_eq!(run(&mut released), ["Report Absent", "Wait"]);
}

#[test]
fn a_dead_container_gives_the_link_to_the_holding_namespace() {
    let gone = |place| Sight {
        place,
        target: TargetSight::Gone,
    };
    let cases = [
        sight(LinkPlace::Guest(fresh_link())),
        gone(LinkPlace::Guest(fresh_link())),
        gone(LinkPlace::Target(configured_link())),
        gone(LinkPlace::Elsewhere(configured_link())),
    ];
    for seen in cases {
        let mut nic = bound_nic();
        nic.see(seen);

        assert_eq!(run(&mut nic), ["Hold", "Report Returned", "Wait"]);

        nic.see(gone(LinkPlace::Holding(fresh_link())));
        assert_eq!(run(&mut nic), ["Wait"]);
        assert_eq!(nic.phase(), Phase::Returned);
    }
}

#[test]
fn an_address_changed_by_a_container_is_restored_when_it_is_bound_again() {
    let mut nic = bound_nic();
    let mac = Some("5a:00:00:00:00:99".parse().unwrap());
    nic.see(sight(LinkPlace::Guest(LinkSeen {
        mac,
        ..fresh_link()
    })));
    run(&mut nic);
    nic.declare(WantedNic {
        generation: 2,
        ..bound(static_binding())
    });
    nic.see(sight(LinkPlace::Holding(LinkSeen {
        mac,
        ..fresh_link()
    })));

    nic.complete(&nic.next(), Ok(()), TOOK);

    let Action::Enter { mac: restored, .. } = nic.next() else {
        panic!("{:?}", nic.next());
    };
    assert_eq!(restored, Some(nic.wanted().mac));
}

#[test]
fn a_vanished_device_is_a_failure_when_bound_and_a_success_when_released() {
    let mut nic = bound_nic();
    nic.see(sight(LinkPlace::Nowhere));
    assert_eq!(run(&mut nic), ["Report Failed", "Wait"]);
    let error = BindError::LinkVanished {
        step: BindStep::Verify,
    };
    assert_eq!(nic.phase(), Phase::Failed { error });

    nic.declare(WantedNic {
        generation: 2,
        ..wanted(Goal::Released)
    });
    nic.see(sight(LinkPlace::Nowhere));
    assert_eq!(run(&mut nic), ["Report Absent", "Wait"]);
}

#[test]
fn a_device_that_vanishes_midway_names_the_step() {
    let mut nic = NicBinding::new(bound(static_binding()));
    nic.see(sight(LinkPlace::Guest(fresh_link())));
    while !matches!(nic.next(), Action::SetUp) {
        nic.complete(&nic.next(), Ok(()), TOOK);
    }
    let failure = Err(StepFailure::LinkVanished);
    nic.complete(&Action::SetUp, failure, TOOK);
    assert_eq!(nic.next(), Action::Look);
    nic.see(sight(LinkPlace::Nowhere));

    assert_eq!(run(&mut nic), ["Report Failed", "Wait"]);
    let error = BindError::LinkVanished {
        step: BindStep::SetUp,
    };
    assert_eq!(nic.phase(), Phase::Failed { error });
}

#[test]
fn a_failure_stays_until_a_new_generation() {
    let mut nic = NicBinding::new(bound(static_binding()));
    let gone = Sight {
        place: LinkPlace::Guest(fresh_link()),
        target: TargetSight::Gone,
    };
    nic.see(gone);
    run(&mut nic);
    let held = sight(LinkPlace::Holding(fresh_link()));
    nic.see(held.clone());
    nic.declare(bound(static_binding()));
    assert_eq!(run(&mut nic), ["Wait"]);

    nic.declare(WantedNic {
        generation: 2,
        ..bound(static_binding())
    });
    nic.see(held);

    assert_eq!(run(&mut nic).last().unwrap(), "Wait");
    assert!(matches!(nic.phase(), Phase::Bound { .. }));
}

#[test]
fn another_binding_begins_from_the_holding_namespace() {
    let mut nic = bound_nic();
    let mut binding = static_binding();
    binding.link_name = "net1".parse().unwrap();
    nic.declare(WantedNic {
        generation: 2,
        ..bound(binding)
    });
    nic.see(sight(LinkPlace::Target(configured_link())));

    let done = run(&mut nic);

    assert_eq!(done[..3], ["Report Binding", "Hold", "Enter"]);
    assert!(matches!(nic.phase(), Phase::Bound { .. }));
}

#[test]
fn a_link_in_an_earlier_target_is_moved_into_the_new_one_at_once() {
    let mut nic = bound_nic();
    let mut binding = static_binding();
    binding.target = "netns:green".parse().unwrap();
    nic.declare(WantedNic {
        generation: 2,
        ..bound(binding)
    });
    nic.see(sight(LinkPlace::Elsewhere(configured_link())));

    let done = run(&mut nic);

    assert_eq!(done[..3], ["Report Binding", "Enter", "SetAddresses"]);
    assert!(matches!(nic.phase(), Phase::Bound { .. }));
}

#[test]
fn the_same_binding_with_a_new_generation_is_only_read_back() {
    let mut nic = bound_nic();
    nic.declare(WantedNic {
        generation: 2,
        ..bound(static_binding())
    });
    nic.see(sight(LinkPlace::Target(configured_link())));

    let done = run(&mut nic);
    assert_eq!(done, ["Report Binding", "Verify", "Report Bound", "Wait"]);
}

#[test]
fn a_link_that_reads_back_differently_is_not_bound() {
    let mut nic = NicBinding::new(bound(static_binding()));
    nic.see(sight(LinkPlace::Target(configured_link())));
    while nic.next() != Action::Verify {
        nic.complete(&nic.next(), Ok(()), TOOK);
    }
    let mut found = configured_link();
    found.addresses.pop();

    nic.verified(Some(found), TOOK);

    let Phase::Failed {
        error: BindError::Kernel { step, message },
    } = nic.phase()
    else {
        panic!("{:?}", nic.phase());
    };
    assert_eq!(step, BindStep::Verify);
    assert_eq!(message, "address 2001:db8::10/64 is missing");
}

#[test]
fn a_new_session_is_told_everything_again() {
    let mut nic = bound_nic();

    nic.forget_reports();

    let Action::Report(report) = nic.next() else {
        panic!("{:?}", nic.next());
    };
    assert!(matches!(report.phase, Phase::Bound { .. }));
    assert!(
        report
            .steps
            .iter()
            .any(|timing| { timing.step == BindStep::Enter && timing.duration_us == 250 })
    );
}

#[test]
fn a_container_that_died_while_no_agent_ran_is_told_as_one_that_died() {
    let found = NetnsInode(7);
    for target in [TargetSight::Gone, TargetSight::Changed { found }] {
        let mut nic = NicBinding::new(WantedNic {
            known_target: Some(KnownTarget::BoundIn { target: identity() }),
            ..bound(static_binding())
        });
        let place = LinkPlace::Guest(fresh_link());
        nic.see(Sight { place, target });

        let done = run(&mut nic);

        assert_eq!(done, ["Hold", "Report Returned", "Wait"], "{target:?}");
    }
}

#[test]
fn what_becomes_known_of_the_target_disturbs_nothing() {
    let mut nic = NicBinding::new(bound(static_binding()));
    nic.see(sight(LinkPlace::Guest(fresh_link())));
    run(&mut nic);

    nic.declare(WantedNic {
        known_target: Some(KnownTarget::BoundIn { target: identity() }),
        ..bound(static_binding())
    });

    assert!(nic.is_bound());
    assert_eq!(nic.next(), Action::Wait);
}
