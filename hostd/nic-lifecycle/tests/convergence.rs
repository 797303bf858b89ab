//! Whatever fails and whoever dies in between, the steps lead to the goal or back to nothing.
//!
//! The model world below obeys the real preconditions: a device needs a port, an agent reports
//! only what it was told of, a guest may refuse, a hostd may forget everything but its journal.

#![expect(clippy::unwrap_used, reason = "set-up that fails is a failed test")]

mod support;

use agent_protocol::{BindError, Phase};
use nic_lifecycle::{
    Action, AgentSeen, HostQuota, Next, NicEvent, NicRecord, NicState, Patience, PortSeen, Seen,
    UnplugSeen, step,
};
use nic_model::{Backend, NetnsInode, PluggedNic, PowerState, TargetIdentity};
use proptest::prelude::*;
use support::{create, ledger, place};

/// Something that goes wrong, or right, between two steps.
#[derive(Debug, Clone, Copy)]
enum Happening {
    GuestWorks,
    BindFails,
    ContainerDies,
    AgentStops,
    AgentStarts,
    HostdForgets,
    HypervisorHangs,
    HypervisorAnswers,
    VmStops,
    DeviceVanishes,
    PortIsTamperedWith,
    PatienceEnds,
    ResendFallsDue,
}

struct World {
    record: NicRecord,
    seen: Seen,
    power: PowerState,
    agent_runs: bool,
    told: Option<(u64, Phase)>,
}

impl World {
    fn attaching() -> Self {
        let mut ledger = ledger(1, 1, HostQuota::default());
        let record = create(&mut ledger, 1);
        let record = ledger.admit_attach(&record, place("vm1", 1), 0).unwrap();
        Self {
            record,
            power: PowerState::Running,
            agent_runs: true,
            told: None,
            seen: Seen {
                power: Some(PowerState::Running),
                device: None,
                port: PortSeen::Absent,
                agent: AgentSeen::Untold,
                unplug: UnplugSeen::NotAsked,
                patience: Patience::Left,
            },
        }
    }

    fn look(&self) -> Seen {
        let agent = match &self.told {
            _ if !self.agent_runs => AgentSeen::Unreachable,
            Some((generation, phase)) if *generation == self.record.generation => {
                AgentSeen::Told(Some(phase.clone()))
            }
            _ => AgentSeen::Untold,
        };
        Seen {
            agent,
            ..self.seen.clone()
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::MakePort => self.seen.port = PortSeen::Ready,
            Action::Quiesce => self.seen.port = PortSeen::Isolated,
            Action::Declare => {
                assert!(self.agent_runs, "declared to nobody");
                self.told = Some((self.record.generation, Phase::Awaited));
            }
            Action::Forget => self.told = None,
            Action::Plug => {
                assert_eq!(self.seen.port, PortSeen::Ready, "plugged without a port");
                self.seen.device = Some(self.device());
            }
            Action::Unplug => {
                assert!(self.passes_no_frames(), "unplugged while frames pass");
                self.seen.unplug = UnplugSeen::Asked;
            }
        }
    }

    fn device(&self) -> PluggedNic {
        PluggedNic {
            nic: self.record.id.clone(),
            slot: self
                .record
                .placement
                .as_ref()
                .map(|place| place.slot.clone()),
            mac: Some(self.record.mac),
            backend: Backend::Present,
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::GuestWorks => self.guest_works(),
            Happening::BindFails => {
                self.report(Phase::Failed {
                    error: BindError::NoLease { waited_ms: 1 },
                });
            }
            Happening::ContainerDies => self.report(Phase::Returned),
            Happening::AgentStops => self.agent_runs = false,
            Happening::AgentStarts => {
                self.agent_runs = true;
                self.told = None;
            }
            Happening::HostdForgets => {
                self.seen.unplug = UnplugSeen::NotAsked;
                self.seen.patience = Patience::Left;
                self.told = None;
            }
            Happening::HypervisorHangs => self.seen.power = None,
            Happening::HypervisorAnswers => self.seen.power = Some(self.power),
            Happening::VmStops => {
                self.power = PowerState::Off;
                self.seen.power = Some(PowerState::Off);
                self.seen.device = None;
                self.agent_runs = false;
            }
            Happening::DeviceVanishes => self.seen.device = None,
            Happening::PortIsTamperedWith => {
                if self.record.placement.is_some() && self.seen.port != PortSeen::Absent {
                    self.seen.port = PortSeen::Amiss;
                }
            }
            Happening::PatienceEnds => self.seen.patience = Patience::Spent,
            Happening::ResendFallsDue => {
                if self.seen.unplug == UnplugSeen::Asked {
                    self.seen.unplug = UnplugSeen::AskAgain;
                }
            }
        }
    }

    fn report(&mut self, phase: Phase) {
        if let (Some((_, told)), true) = (&mut self.told, self.seen.device.is_some()) {
            *told = phase;
        }
    }

    fn guest_works(&mut self) {
        if self.agent_runs {
            match self.record.state {
                NicState::Attaching => self.report(Phase::Bound {
                    target: identity(),
                    addresses: Vec::new(),
                }),
                NicState::Detaching => self.report(Phase::Released),
                NicState::Available | NicState::InUse | NicState::Deleting => {}
            }
        }
        if self.seen.unplug != UnplugSeen::NotAsked {
            self.seen.device = None;
        }
    }

    /// Steps until nothing more can be done without the outside.
    fn run(&mut self) {
        for _ in 0..64 {
            match step(&self.record, &self.look()) {
                Next::Do(action) => self.perform(action),
                Next::Settle(event, _) => {
                    self.record.apply(event, 0).unwrap();
                    self.seen.patience = Patience::Left;
                    self.seen.unplug = UnplugSeen::NotAsked;
                }
                Next::Wait(_) | Next::Rest => return,
            }
        }
        panic!(
            "the steps never come to rest: {:?} {:?}",
            self.record.state, self.seen
        );
    }

    fn passes_no_frames(&self) -> bool {
        matches!(self.seen.port, PortSeen::Absent | PortSeen::Isolated)
    }

    fn assert_nothing_left(&self) {
        assert!(self.passes_no_frames(), "{:?}", self.seen.port);
        assert_eq!(self.seen.device, None);
        assert_eq!(self.record.placement, None);
    }
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => Just(Happening::GuestWorks),
        1 => Just(Happening::BindFails),
        1 => Just(Happening::ContainerDies),
        1 => Just(Happening::AgentStops),
        1 => Just(Happening::AgentStarts),
        2 => Just(Happening::HostdForgets),
        1 => Just(Happening::HypervisorHangs),
        1 => Just(Happening::HypervisorAnswers),
        1 => Just(Happening::VmStops),
        1 => Just(Happening::DeviceVanishes),
        1 => Just(Happening::PortIsTamperedWith),
        1 => Just(Happening::PatienceEnds),
        1 => Just(Happening::ResendFallsDue),
    ]
}

#[test]
fn an_undisturbed_attach_and_detach_leaves_nothing() {
    let mut world = World::attaching();
    world.run();
    world.happen(Happening::GuestWorks);
    world.run();
    assert_eq!(world.record.state, NicState::InUse);

    world.record.apply(NicEvent::DetachAdmitted, 0).unwrap();
    for _ in 0..3 {
        world.run();
        world.happen(Happening::GuestWorks);
    }
    world.run();

    assert_eq!(world.record.state, NicState::Available);
    world.assert_nothing_left();
}

#[test]
fn a_guest_that_refuses_is_asked_again_and_never_loses_its_port_meanwhile() {
    let mut world = World::attaching();
    world.run();
    world.happen(Happening::GuestWorks);
    world.run();
    world.record.apply(NicEvent::DetachAdmitted, 0).unwrap();
    world.happen(Happening::AgentStops);
    world.run();
    assert_eq!(
        world.seen.unplug,
        UnplugSeen::NotAsked,
        "the agent may come back"
    );
    world.happen(Happening::PatienceEnds);

    world.run();
    world.happen(Happening::ResendFallsDue);
    world.run();

    assert_eq!(world.record.state, NicState::Detaching);
    assert_eq!(
        (world.seen.port, world.seen.unplug),
        (PortSeen::Isolated, UnplugSeen::Asked)
    );
    assert!(world.seen.device.is_some());
}

/// A NIC that moves within its slot, released by an agent behind a port that looks like `port`.
fn leaving_released(port: PortSeen) -> Next {
    let mut ledger = ledger(1, 1, HostQuota::default());
    let mut record = create(&mut ledger, 1);
    record = ledger.admit_attach(&record, place("vm1", 1), 0).unwrap();
    record.apply(NicEvent::Bound, 0).unwrap();
    record = ledger.admit_move(&record, place("vm1", 2), 0).unwrap();
    let mut world = World::attaching();
    world.record = record;
    world.perform(Action::MakePort);
    world.perform(Action::Declare);
    world.perform(Action::Plug);
    let seen = Seen {
        port,
        agent: AgentSeen::Told(Some(Phase::Released)),
        ..world.look()
    };
    step(&world.record, &seen)
}

#[test]
fn a_device_that_its_guest_may_have_been_asked_for_is_not_put_to_use_again() {
    assert_eq!(
        leaving_released(PortSeen::Ready),
        Next::Settle(NicEvent::Relocated, None)
    );
    assert_eq!(
        leaving_released(PortSeen::Isolated),
        Next::Do(Action::Unplug)
    );
}

proptest! {
    #[test]
    fn whatever_happens_the_end_is_the_goal_or_nothing(
        happenings in prop::collection::vec(happening(), 0..40),
        detach_after in 0_usize..40,
    ) {
        let mut world = World::attaching();
        for (index, happening) in happenings.into_iter().enumerate() {
            world.run();
            if index == detach_after {
                let _too_late = world.record.apply(NicEvent::DetachAdmitted, 0);
            }
            world.happen(happening);
        }

        // Faults stop; the guest works and the hypervisor answers.
        for _ in 0..8 {
            world.happen(Happening::HypervisorAnswers);
            if world.power == PowerState::Running && !world.agent_runs {
                world.happen(Happening::AgentStarts);
            }
            world.run();
            world.happen(Happening::GuestWorks);
        }
        world.run();

        prop_assert!(world.record.state.is_settled(), "{:?} {:?}", world.record.state, world.seen);
        if world.record.state == NicState::Available {
            world.assert_nothing_left();
        } else {
            prop_assert_eq!(world.seen.port, PortSeen::Ready);
        }
    }
}

fn identity() -> TargetIdentity {
    TargetIdentity {
        boot_id: "00000000-0000-4000-8000-000000000001".parse().unwrap(),
        netns_inode: NetnsInode(1),
        process_started: None,
    }
}
