//! What is not durable yet is acted on by nobody, and what comes to nothing stops nothing.

use agent_protocol::Goal;
use hostd::service::ServiceError;
use hostd::store::AdmitError;
use hypervisor::EventKind;
use nic_lifecycle::NicState;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::support::stage::{CALL_DEADLINE, Call, Deed, Fault, Times};
use crate::support::{Agents, Setup, World, at_once, until_everybody_waits, vm};

#[tokio::test(start_paused = true)]
async fn a_detach_that_is_not_durable_yet_changes_nothing() {
    let world = World::start().await;
    let nic = world.attached("vm1").await;
    let deeds = world.stage.deeds(&nic);
    world.journal.gate.forget_permits(Semaphore::MAX_PERMITS);
    let ask = at_once();
    let mut detach = std::pin::pin!(world.service().detach(&ask, &nic));
    assert!(futures::poll!(&mut detach).is_pending());

    world.hypervisor.tell(&vm("vm1"), EventKind::Connection);
    until_everybody_waits().await;

    let wanted = world.guest("vm1").wanted(&nic).unwrap();
    assert!(matches!(wanted.goal, Goal::Bound { .. }));
    assert!(world.agent("vm1").view().reports.contains_key(&nic));
    assert_eq!(world.stage.deeds(&nic), deeds);
    world.journal.gate.add_permits(Semaphore::MAX_PERMITS);
    detach.await.unwrap();
    world.until_state(&nic, NicState::Available).await;
    world.assert_gone(&nic).await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_in_the_middle_of_an_attach_waits_for_a_detach_to_be_durable() {
    let world = World::start().await;
    world.until_agent_is_ready("vm1").await;
    let nic = world.create().await;
    world
        .stage
        .fail(Call::Plug, None, Fault::Hangs, Times::Once);
    world.begin_attach(&nic, "vm1", "netns:c1").await;
    world.stage.until_done(&nic, Deed::PortMade, 1).await;
    world.journal.gate.forget_permits(Semaphore::MAX_PERMITS);
    let ask = at_once();
    let mut detach = std::pin::pin!(world.service().detach(&ask, &nic));
    assert!(futures::poll!(&mut detach).is_pending());

    // tidy: sleep because paused time passes at once
    tokio::time::sleep(2 * CALL_DEADLINE).await;

    let deeds = world.stage.deeds(&nic);
    assert_eq!(deeds, [Deed::PortMade, Deed::PortLost]);
    let wanted = world.guest("vm1").wanted(&nic).unwrap();
    assert!(matches!(wanted.goal, Goal::Bound { .. }));
    world.journal.gate.add_permits(Semaphore::MAX_PERMITS);
    detach.await.unwrap();
    world.until_state(&nic, NicState::Available).await;
    world.assert_gone(&nic).await;
}

#[tokio::test(start_paused = true)]
async fn an_attach_goes_on_at_once_when_its_detach_cannot_be_journalled() {
    let mut world = World::with(Setup {
        agents: Agents::Nowhere,
        ..Setup::default()
    })
    .await;
    let nic = world.create().await;
    world.begin_attach(&nic, "vm1", "netns:c1").await;
    until_everybody_waits().await;
    world.journal.gate.forget_permits(Semaphore::MAX_PERMITS);
    let service = world.service().clone();
    let ask = at_once();
    let mut detach = std::pin::pin!(service.detach(&ask, &nic));
    assert!(futures::poll!(&mut detach).is_pending());
    world.start_agent("vm1");
    world.until_agent_is_ready("vm1").await;
    until_everybody_waits().await;
    assert!(
        world
            .stage
            .deeds(&nic)
            .iter()
            .all(|deed| *deed == Deed::PortMade)
    );

    world
        .stage
        .fail(Call::Commit, None, Fault::Refused, Times::Once);
    world.journal.gate.add_permits(Semaphore::MAX_PERMITS);
    let refused = detach.await;
    let failed_at = Instant::now();
    world.until_state(&nic, NicState::InUse).await;

    assert!(matches!(
        refused,
        Err(ServiceError::Admit(AdmitError::Journal(_)))
    ));
    assert_eq!(failed_at.elapsed(), std::time::Duration::ZERO);
    world.assert_plugged(&nic, "vm1");
}
