//! From any state of a small simulated guest, following the decisions ends at the goal, or at a
//! failure with the link in the holding namespace. A released link may rest disarmed where it was,
//! but not for good.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a few actions of many are special here"
)]

use std::time::Duration;

use nic_model::NetnsInode;
use proptest::prelude::*;

use super::tests::{
    bound, dhcp_binding, fresh_link, identity, lease, present, static_binding, wanted,
};
use super::*;
use crate::sight::NameInTarget;

/// A guest kernel with one NIC, which refuses the steps it is told to refuse.
#[derive(Debug, Clone)]
struct SimulatedGuest {
    place: LinkPlace,
    target: TargetSight,
    refuses: Option<(BindStep, StepFailure)>,
    /// How often the refusal is still to come.
    refusals: u32,
    grants_lease: bool,
    /// Whether a DHCP client keeps the lease.
    client_runs: bool,
}

impl SimulatedGuest {
    fn look(&self) -> Sight {
        Sight {
            place: self.place.clone(),
            target: self.target,
        }
    }

    fn perform(&mut self, action: &Action) -> Result<(), StepFailure> {
        let moves = match action {
            Action::Hold | Action::Disarm | Action::Release => true,
            Action::Enter { .. } => !matches!(self.place, LinkPlace::Target(_)),
            _ => false,
        };
        self.client_runs &= !moves;
        let step = action.step();
        if let Some((refused, failure)) = &self.refuses
            && Some(*refused) == step
            && self.refusals > 0
        {
            self.refusals -= 1;
            if *failure == StepFailure::LinkVanished {
                self.place = LinkPlace::Nowhere;
            }
            return Err(failure.clone());
        }
        if matches!(action, Action::Enter { .. }) {
            match self.target {
                TargetSight::Present {
                    name: NameInTarget::Free,
                    ..
                } => {}
                TargetSight::Present { .. } => return Err(StepFailure::NameTaken),
                _ => return Err(StepFailure::TargetGone),
            }
        }
        self.place = place_after(&self.place, action);
        Ok(())
    }
}

/// Runs until nothing is left to do, at rest over two looks, as the agent's timer would.
fn settle(nic: &mut NicBinding, guest: &mut SimulatedGuest) -> usize {
    let mut looks = 0;
    for count in 0..200 {
        match nic.next() {
            Action::Wait if looks >= 4 => return count,
            Action::Wait | Action::Look => {
                looks += 1;
                nic.see(guest.look());
            }
            Action::Verify => {
                let found = guest.place.link().cloned();
                nic.verified(found, Duration::ZERO);
            }
            Action::StartLease => {
                nic.complete(&Action::StartLease, Ok(()), Duration::ZERO);
                guest.client_runs = guest.grants_lease;
                nic.see_lease(if guest.grants_lease {
                    LeaseSight::Granted(lease(50))
                } else {
                    LeaseSight::Refused { waited_ms: 15_000 }
                });
            }
            action => {
                let result = guest.perform(&action);
                nic.complete(&action, result, Duration::ZERO);
            }
        }
    }
    panic!("no end: {:?} in {guest:?}", nic.next());
}

/// What a container can do to a link it has not been rid of.
fn use_again(guest: &mut SimulatedGuest) {
    if let LinkPlace::Target(link) | LinkPlace::Elsewhere(link) = &mut guest.place {
        link.admin = Admin::Up;
        link.addresses = vec!["198.51.100.7/32".parse().unwrap()];
    }
}

fn any_link() -> impl Strategy<Value = LinkSeen> {
    let address = prop::sample::subsequence(
        vec!["192.0.2.10/24", "2001:db8::10/64", "198.51.100.7/32"],
        0..=3,
    );
    (
        prop::sample::select(vec!["ens5", "eth0", "dev7"]),
        prop::sample::select(vec![1400_u32, 1500]),
        prop::sample::select(vec![Admin::Up, Admin::Down]),
        address,
    )
        .prop_map(|(name, mtu, admin, addresses)| LinkSeen {
            name: name.into(),
            mtu,
            admin,
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            ..fresh_link()
        })
}

fn any_place() -> impl Strategy<Value = LinkPlace> {
    (0..6, any_link()).prop_map(|(place, link)| match place {
        0 => LinkPlace::Nowhere,
        1 => LinkPlace::Hidden,
        2 => LinkPlace::Guest(link),
        3 => LinkPlace::Holding(link),
        4 => LinkPlace::Target(link),
        _ => LinkPlace::Elsewhere(link),
    })
}

fn any_target() -> impl Strategy<Value = TargetSight> {
    prop_oneof![
        4 => Just(present()),
        1 => Just(TargetSight::Gone),
        1 => Just(TargetSight::IsGuest),
        1 => Just(TargetSight::Changed { found: NetnsInode(1) }),
        1 => Just(TargetSight::Present { identity: identity(), name: NameInTarget::Taken }),
    ]
}

fn any_refusal() -> impl Strategy<Value = Option<(BindStep, StepFailure)>> {
    use BindStep::{Announce, Enter, Hold, Lease, Release, SetAddresses, SetMtu, SetRoutes, SetUp};
    let steps = vec![
        Hold,
        Enter,
        SetMtu,
        SetAddresses,
        SetUp,
        SetRoutes,
        Lease,
        Announce,
        Release,
    ];
    let failures = vec![
        StepFailure::LinkVanished,
        StepFailure::NameTaken,
        StepFailure::TargetGone,
        StepFailure::Kernel("no".into()),
    ];
    prop::option::of((prop::sample::select(steps), prop::sample::select(failures)))
}

prop_compose! {
    fn any_guest()(
        place in any_place(),
        target in any_target(),
        refuses in any_refusal(),
        refusals in 1_u32..3,
        grants_lease in any::<bool>(),
    ) -> SimulatedGuest {
        SimulatedGuest {
            place, target, refuses, refusals, grants_lease, client_runs: false,
        }
    }
}

fn any_wish() -> impl Strategy<Value = Goal> {
    let goal = |binding| Goal::Bound {
        binding: Box::new(binding),
    };
    prop_oneof![
        Just(goal(static_binding())),
        Just(goal(dhcp_binding())),
        Just(Goal::Released),
    ]
}

fn check_rest(nic: &NicBinding, guest: &SimulatedGuest) -> Result<(), TestCaseError> {
    let place = &guest.place;
    match nic.phase() {
        Phase::Bound { .. } => {
            let LinkPlace::Target(link) = place else {
                return Err(TestCaseError::fail(format!("bound, but {place:?}")));
            };
            prop_assert_eq!(nic.deviation(link), None);
            let alive = matches!(guest.target, TargetSight::Present { .. });
            prop_assert!(alive, "bound in a target that is gone");
            let kept = guest.client_runs || !nic.uses_lease();
            prop_assert!(kept, "bound with a lease that nobody renews");
        }
        Phase::Failed { .. } | Phase::Returned => {
            let safe = match place {
                LinkPlace::Nowhere => true,
                LinkPlace::Holding(link) => link.admin == Admin::Down,
                _ => false,
            };
            prop_assert!(safe, "{:?}, but {:?}", nic.phase(), place);
        }
        Phase::Released => {
            let safe = match place {
                LinkPlace::Holding(_) => true,
                LinkPlace::Target(link) | LinkPlace::Elsewhere(link) => {
                    nic.is_disarmed() && link.admin == Admin::Down && link.addresses.is_empty()
                }
                _ => false,
            };
            prop_assert!(safe, "released, but {:?}", place);
        }
        Phase::Absent => prop_assert_eq!(place, &LinkPlace::Nowhere),
        Phase::Awaited => {
            prop_assert!(matches!(place, LinkPlace::Nowhere | LinkPlace::Hidden));
        }
        Phase::Binding => prop_assert!(false, "at rest while binding: {:?}", place),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn every_state_converges(mut guest in any_guest(), goal in any_wish()) {
        // A hidden link that a look cannot find may have left the phase where it was.
        prop_assume!(guest.place != LinkPlace::Hidden);
        let mut nic = NicBinding::new(wanted(goal));

        settle(&mut nic, &mut guest);

        check_rest(&nic, &guest)?;
    }

    #[test]
    fn a_released_link_leaves_its_container_in_the_end(
        mut guest in any_guest(),
        used_again in any::<bool>(),
        agent_restarts in any::<bool>(),
    ) {
        prop_assume!(guest.place != LinkPlace::Hidden);
        let mut nic = NicBinding::new(wanted(Goal::Released));
        settle(&mut nic, &mut guest);
        if agent_restarts {
            nic = NicBinding::new(wanted(Goal::Released));
            settle(&mut nic, &mut guest);
        }
        if used_again {
            use_again(&mut guest);
        }

        nic.disarmed_for(STAY);
        settle(&mut nic, &mut guest);

        check_rest(&nic, &guest)?;
        let left = matches!(guest.place, LinkPlace::Holding(_) | LinkPlace::Nowhere);
        prop_assert!(left, "{:?}", guest.place);
    }

    #[test]
    fn every_change_of_mind_converges(
        mut guest in any_guest(),
        wishes in prop::collection::vec(
            (any_wish(), prop::option::of(any_place()), any_target()), 1..5,
        ),
    ) {
        let mut nic = NicBinding::new(bound(static_binding()));
        settle(&mut nic, &mut guest);
        for (generation, (goal, place, target)) in (2..).zip(wishes) {
            // Half of the time the link is where the last wish has left it.
            if let Some(place) = place {
                guest.place = place;
            }
            guest.target = target;
            nic.see(guest.look());
            nic.declare(WantedNic { generation, ..wanted(goal) });
            settle(&mut nic, &mut guest);
            if guest.place != LinkPlace::Hidden {
                check_rest(&nic, &guest)?;
            }
        }
    }

    #[test]
    fn a_healthy_guest_binds(link in any_link(), place in 0..4, dhcp in any::<bool>()) {
        let place = match place {
            0 => LinkPlace::Guest(link),
            1 => LinkPlace::Holding(link),
            2 => LinkPlace::Target(link),
            _ => LinkPlace::Elsewhere(link),
        };
        let mut guest = SimulatedGuest {
            place, target: present(), refuses: None, refusals: 0, grants_lease: true,
            client_runs: false,
        };
        let binding = if dhcp { dhcp_binding() } else { static_binding() };
        let mut nic = NicBinding::new(bound(binding));

        settle(&mut nic, &mut guest);

        prop_assert!(matches!(nic.phase(), Phase::Bound { .. }), "{:?}", nic.phase());
        check_rest(&nic, &guest)?;
    }
}
