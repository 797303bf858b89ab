//! A task that panics does not leave a VM stuck in silence: hostd ends and is started again.

use hypervisor::EventKind;

use crate::support::stage::{Call, Fault, Times};
use crate::support::{World, vm};

#[tokio::test(start_paused = true)]
async fn a_worker_that_panics_ends_hostd() {
    let world = World::start().await;
    let call = Call::Inspect;
    world.stage.fail(call, None, Fault::Panics, Times::Once);

    world.hypervisor.tell(&vm("vm1"), EventKind::Power);

    let failed = world.failed().await;
    assert_eq!(failed.to_string(), "the worker of VM vm1 panicked");
}

#[tokio::test(start_paused = true)]
async fn a_keeper_that_panics_ends_hostd() {
    let world = World::start().await;
    let call = Call::List;
    world.stage.fail(call, None, Fault::Panics, Times::Once);

    world.hypervisor.tell_of_the_list();

    let failed = world.failed().await;
    assert_eq!(failed.to_string(), "the keeper of a hypervisor panicked");
}
