//! A task that panics does not leave a VM stuck in silence: hostd ends and is started again. And a
//! hostd that has ended does nothing any more.

use hypervisor::EventKind;
use tokio::runtime::Handle;

use crate::support::stage::{Call, Fault, Times};
use crate::support::{World, two_vms, until_everybody_waits, vm};

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

#[tokio::test(start_paused = true)]
async fn nothing_of_a_stopped_hostd_goes_on() {
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let mut world = World::with(two_vms()).await;
    let nic = world.attached("vm1").await;
    world.begin_detach(&nic).await;
    assert!(tasks() > before);

    world.stop();
    drop(world);
    until_everybody_waits().await;

    assert_eq!(tasks(), before);
}
