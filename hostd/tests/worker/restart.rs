//! Death at every place: hostd stops before or after each call to hypervisor, port or journal, is
//! started over the same journal and the same world, and ends where it was asked to. The in-process
//! twin of `kill -9`.

use hostd::service::{Ask, ServiceError};
use nic_lifecycle::{NicRecord, NicState};
use nic_model::NicId;
use port::TapAccess;

use crate::support::{Setup, World, attach_request, record_of, vm, waiting, within};

/// More passages than any operation has.
const TOO_MANY: u64 = 200;

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Attach,
    Detach,
    MoveToOtherVm,
    MoveWithinVm,
}

impl Operation {
    /// Asks as clients do: with a token, so that asking again changes nothing. A detach is over
    /// for hostd when the port is removed too.
    async fn ask(self, world: &World, nic: &NicId) -> Result<NicRecord, ServiceError> {
        let ask = Ask {
            token: Some(format!("{self:?}").parse().unwrap()),
            ..waiting()
        };
        let service = world.service();
        let moved_to = |name: &str| host_api::MoveNic {
            vm: vm(name),
            target: "netns:c2".parse().unwrap(),
            link_name: None,
        };
        let to = attach_request("vm1", "netns:c1");
        let answer = match self {
            Self::Attach => service.attach(&ask, nic, to).await,
            Self::Detach => service.detach(&ask, nic).await,
            Self::MoveToOtherVm => service.relocate(&ask, nic, moved_to("vm2")).await,
            Self::MoveWithinVm => service.relocate(&ask, nic, moved_to("vm1")).await,
        };
        let record = answer.map(record_of)?;
        if self == Self::Detach {
            world.until_no_port(nic).await;
        }
        Ok(record)
    }

    async fn assert_done(self, world: &World, nic: &NicId) {
        let record = world.record(nic);
        match self {
            Self::Detach => {
                assert_eq!(record.state, NicState::Available);
                world.assert_gone(nic).await;
                assert_eq!(world.ports.count(), 0);
            }
            Self::Attach | Self::MoveToOtherVm | Self::MoveWithinVm => {
                assert_eq!(record.state, NicState::InUse);
                let placement = record.placement.unwrap();
                world.assert_plugged(nic, placement.vm.as_str());
                let devices = ["vm1", "vm2"].map(|name| world.hypervisor.devices(&vm(name)).len());
                assert_eq!(devices.iter().sum::<usize>(), 1);
                assert_eq!(world.ports.count(), 1);
            }
        }
    }
}

/// How a run of an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Finished,
    Died,
}

async fn run_until_death(world: &World, operation: Operation, nic: &NicId, at: u64) -> End {
    world.stage.die_at(Some(at));
    let end = within("an end", async {
        tokio::select! {
            biased;
            outcome = operation.ask(world, nic) => outcome.map(|_| End::Finished),
            () = world.stage.died() => Ok(End::Died),
        }
    });
    end.await.unwrap()
}

async fn world_for(operation: Operation, access: TapAccess) -> (World, NicId) {
    let world = World::with(Setup {
        vms: vec!["vm1", "vm2"],
        access,
        ..Setup::default()
    })
    .await;
    let nic = world.create().await;
    if operation != Operation::Attach {
        world.attach(&nic, "vm1", "netns:c1").await.unwrap();
    }
    (world, nic)
}

/// Dies at each passage of an operation, and again at each of the first passages after the
/// restart; gives how many passages there are.
async fn die_everywhere(operation: Operation, access: TapAccess, again: u64) -> u64 {
    for first in 1..TOO_MANY {
        for second in 0..=again {
            let (mut world, nic) = world_for(operation, access).await;
            if run_until_death(&world, operation, &nic, first).await == End::Finished {
                operation.assert_done(&world, &nic).await;
                return first - 1;
            }
            world.restart().await;
            if second > 0 && run_until_death(&world, operation, &nic, second).await == End::Died {
                world.restart().await;
            }
            world.stage.die_at(None);
            let outcome = within("the rest", operation.ask(&world, &nic)).await;
            outcome.unwrap_or_else(|error| panic!("died at {first} and {second}: {error:?}"));
            operation.assert_done(&world, &nic).await;
        }
    }
    panic!("{operation:?} does not end");
}

#[tokio::test(start_paused = true)]
async fn an_attach_survives_death_at_every_place() {
    for access in [TapAccess::Descriptors, TapAccess::Name] {
        let passages = die_everywhere(Operation::Attach, access, 8).await;

        // Two commits, a port and a plug, each with a place before and one after.
        assert!(passages >= 8, "{passages}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_detach_survives_death_at_every_place() {
    for access in [TapAccess::Descriptors, TapAccess::Name] {
        let passages = die_everywhere(Operation::Detach, access, 12).await;

        // Two commits, isolation, carrier, two calls to unplug, the port; the place after that is
        // behind the end.
        assert!(passages >= 13, "{passages}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_move_survives_death_at_every_place() {
    for access in [TapAccess::Descriptors, TapAccess::Name] {
        let passages = die_everywhere(Operation::MoveToOtherVm, access, 6).await;
        assert!(passages >= 18, "{passages}");

        let passages = die_everywhere(Operation::MoveWithinVm, access, 6).await;
        assert!(passages >= 6, "{passages}");
    }
}
