//! VMs that come and go: nothing of one that is no more is kept, and nothing of one that is still
//! needed is dropped.

use std::time::Duration;

use hostd::board::Happening;
use hostd::daemon::VmHandle;
use hostd::service::ServiceError;
use hostd::store::AdmitError;
use nic_lifecycle::{NicState, RefusalKind};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::support::hypervisor::{Events, LONGER_THAN_ANY_LOOK};
use crate::support::stage::{Call, Fault, Times};
use crate::support::{
    Setup, World, at_once, attach_request, two_hypervisors, until_everybody_waits, vm,
};

impl World {
    fn knows(&self, name: &str) -> bool {
        let handle = |_: &VmHandle| true;
        let is_seen = |ledger: &nic_lifecycle::Ledger| ledger.hardware(&vm(name)).is_some();
        let service = self.service();
        service.vms.with(&vm(name), handle) || service.store.read(is_seen)
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_kept_of_a_vm_that_is_not_listed_any_more() {
    let mut world = World::with(Setup {
        vms: Vec::new(),
        ..Setup::default()
    })
    .await;
    let nic = world.create().await;
    until_everybody_waits().await;
    let tasks_before = Handle::current().metrics().num_alive_tasks();
    world.begin_vm("vm1");
    world.until_known(&["vm1"]).await;
    world.until_agent_is_ready("vm1").await;

    world.end_vm("vm1");
    world.until_gone("vm1").await;

    assert!(!world.knows("vm1"));
    let refused = world.attach(&nic, "vm1", "netns:c1").await;
    let Err(ServiceError::Admit(AdmitError::Refused(refusal))) = refused else {
        panic!("not refused: {refused:?}");
    };
    assert_eq!(refusal.kind, RefusalKind::NotFound);
    until_everybody_waits().await;
    let tasks_after = Handle::current().metrics().num_alive_tasks();
    assert_eq!(tasks_after, tasks_before, "its worker or its agent's line");
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_goes_without_a_word_is_missed_at_the_next_look() {
    let mut world = World::start().await;
    drop(world.guests.remove(&vm("vm1")));

    world.hypervisor.remove_vm(&vm("vm1"), Events::Lost);

    world.until_gone("vm1").await;
    assert!(!world.knows("vm1"));
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_goes_with_nics_in_use_is_dropped_once_they_are_cleaned_up() {
    let mut world = World::with(Setup {
        vms: vec!["vm1", "vm2"],
        ..Setup::default()
    })
    .await;
    let nics = [world.attached("vm1").await, world.attached("vm1").await];
    until_everybody_waits().await;

    let began = Instant::now();
    world.end_vm("vm1");
    world.until_gone("vm1").await;

    assert!(began.elapsed() < Duration::from_secs(5), "at once");
    for nic in &nics {
        assert_eq!(world.record(nic).state, NicState::Available);
        assert!(!world.hypervisor.uses(nic));
    }
    assert!(!world.knows("vm1"));
    assert!(world.knows("vm2"));
}

#[tokio::test(start_paused = true)]
async fn a_nic_that_cannot_be_cut_off_keeps_the_worker_of_its_vm() {
    let mut world = World::start().await;
    let nic = world.attached("vm1").await;
    let call = Call::IsolatePort;
    world.stage.fail(call, None, Fault::Refused, Times::Always);

    world.end_vm("vm1");
    // tidy: sleep because paused time passes at once
    tokio::time::sleep(LONGER_THAN_ANY_LOOK).await;
    assert!(world.knows("vm1"));
    world.stage.heal();
    world.until_gone("vm1").await;

    assert_eq!(world.record(&nic).state, NicState::Available);
}

#[tokio::test(start_paused = true)]
async fn a_vm_is_not_dropped_under_a_request_and_is_when_that_comes_to_nothing() {
    let mut world = World::start().await;
    let nic = world.create().await;
    world.journal.gate.forget_permits(Semaphore::MAX_PERMITS);
    let service = world.service().clone();
    let ask = at_once();
    let request = attach_request("vm1", "netns:c1");
    let mut attach = std::pin::pin!(service.attach(&ask, &nic, request));
    assert!(futures::poll!(&mut attach).is_pending());

    world.end_vm("vm1");
    until_everybody_waits().await;
    assert!(world.knows("vm1"), "a place in it is reserved");
    let call = Call::Commit;
    world.stage.fail(call, None, Fault::Refused, Times::Once);
    let began = Instant::now();
    world.journal.gate.add_permits(Semaphore::MAX_PERMITS);
    attach.await.unwrap_err();
    world.until_gone("vm1").await;

    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(world.record(&nic).state, NicState::Available);
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_comes_back_under_its_old_name_is_a_new_one() {
    let mut world = World::start().await;
    world.attached("vm1").await;
    world.end_vm("vm1");
    world.until_gone("vm1").await;

    world.begin_vm("vm1");
    world.until_known(&["vm1"]).await;

    world.until_agent_is_ready("vm1").await;
    let nic = world.attached("vm1").await;
    world.assert_plugged(&nic, "vm1");
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_is_back_before_its_nics_are_cleaned_up_keeps_its_worker() {
    let mut world = World::start().await;
    let nic = world.attached("vm1").await;
    let call = Call::IsolatePort;
    world.stage.fail(call, None, Fault::Refused, Times::Always);
    world.end_vm("vm1");
    until_everybody_waits().await;

    world.begin_vm("vm1");
    world.stage.heal();
    world.until_state(&nic, NicState::Available).await;
    until_everybody_waits().await;

    assert!(world.knows("vm1"));
    let again = world.attached("vm1").await;
    world.assert_plugged(&again, "vm1");
}

#[tokio::test(start_paused = true)]
async fn a_vm_named_by_records_alone_is_dropped_once_they_do_not() {
    let mut world = World::start().await;
    let nic = world.attached("vm1").await;
    drop(world.guests.remove(&vm("vm1")));
    world.hypervisor.remove_vm(&vm("vm1"), Events::Lost);

    world.restart().await;
    world.until_gone("vm1").await;

    assert_eq!(world.record(&nic).state, NicState::Available);
    assert!(!world.knows("vm1"));
}

#[tokio::test(start_paused = true)]
async fn a_hypervisor_does_not_drop_the_vms_of_another() {
    let (daemon, hypervisors) = two_hypervisors();
    let service = &daemon.service;
    until_everybody_waits().await;
    assert_eq!(service.vms.ids(), [vm("one"), vm("two")]);
    let mut events = service.board.subscribe(None).future;

    for hypervisor in &hypervisors {
        hypervisor.tell_of_the_list();
    }
    until_everybody_waits().await;
    assert_eq!(service.vms.ids(), [vm("one"), vm("two")]);
    hypervisors[1].remove_vm(&vm("two"), Events::Sent);
    until_everybody_waits().await;

    assert_eq!(service.vms.ids(), [vm("one")]);
    let mut gone = Vec::new();
    while let Ok(event) = events.try_recv() {
        if matches!(event.what, Happening::VmGone) {
            gone.extend(event.vm);
        }
    }
    assert_eq!(gone, [vm("two")]);
    daemon.stop();
}
