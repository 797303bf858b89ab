//! What a detach leaves of a port: removed behind it, never under the next attach, and never left.

use std::time::Duration;

use nic_lifecycle::NicState;
use nic_model::NicId;
use port::{AdminState, Holder};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::support::hypervisor::LONGER_THAN_ANY_LOOK;
use crate::support::stage::{Call, Deed, Fault, Times};
use crate::support::{Setup, World, at_once, until_everybody_waits, within};

/// Longer than the janitor's round.
const A_ROUND: Duration = Duration::from_secs(6);

/// A NIC that is available again and whose port is being removed, for as long as the test likes.
async fn detached_with_removal_under_way() -> (World, NicId) {
    let world = World::with(Setup {
        vms: vec!["vm1", "vm2"],
        ..Setup::default()
    })
    .await;
    let nic = world.attached("vm1").await;
    world.ports.removals.forget_permits(Semaphore::MAX_PERMITS);
    world.detach(&nic).await.unwrap();
    until_everybody_waits().await;
    (world, nic)
}

fn let_removals_go_on(world: &World) {
    world.ports.removals.add_permits(Semaphore::MAX_PERMITS);
}

#[tokio::test(start_paused = true)]
async fn a_detach_waits_for_its_port_to_be_cut_off_and_not_to_be_removed() {
    let (world, nic) = detached_with_removal_under_way().await;

    assert_eq!(world.record(&nic).state, NicState::Available);
    assert_eq!(world.ports.admin(&nic), Some(AdminState::Down));
    let_removals_go_on(&world);
    world.assert_gone(&nic).await;
}

#[tokio::test(start_paused = true)]
async fn an_attach_waits_for_the_removal_that_is_under_way() {
    for name in ["vm1", "vm2"] {
        let (world, nic) = detached_with_removal_under_way().await;

        world.begin_attach(&nic, name, "netns:c2").await;
        until_everybody_waits().await;
        let before = world.stage.last_port_deed(&nic);
        let_removals_go_on(&world);
        world.until_state(&nic, NicState::InUse).await;

        assert_eq!(before, Some(Deed::PortIsolated));
        assert!(world.stage.deeds(&nic).contains(&Deed::PortRemoved));
        world.assert_plugged(&nic, name);
    }
}

#[tokio::test(start_paused = true)]
async fn a_removal_that_the_kernel_has_yet_to_end_keeps_its_claim() {
    let world = World::start().await;
    let nic = world.attached("vm1").await;
    world.ports.begin_overrunning();
    world.detach(&nic).await.unwrap();
    // tidy: sleep because paused time passes at once
    tokio::time::sleep(A_ROUND * 3).await;
    let begun = world.ports.overrun_count();

    world.begin_attach(&nic, "vm1", "netns:c2").await;
    // tidy: sleep because paused time passes at once
    tokio::time::sleep(A_ROUND).await;
    let before = world.stage.last_port_deed(&nic);
    world.ports.end_overrunning();
    world.until_state(&nic, NicState::InUse).await;

    assert_eq!(begun, 1);
    assert_eq!(before, Some(Deed::PortIsolated));
    world.assert_plugged(&nic, "vm1");
}

#[tokio::test(start_paused = true)]
async fn what_a_detach_leaves_is_not_removed_while_a_process_holds_it() {
    let world = World::start().await;
    let nic = world.attached("vm1").await;
    world.ports.hold(&nic, Holder::Somebody);

    world.detach(&nic).await.unwrap();
    // tidy: sleep because paused time passes at once
    tokio::time::sleep(A_ROUND).await;
    let while_held = world.ports.admin(&nic);
    world.ports.hold(&nic, Holder::Nobody);

    assert_eq!(while_held, Some(AdminState::Down));
    world.assert_gone(&nic).await;
}

#[tokio::test(start_paused = true)]
async fn a_removal_whose_turn_comes_after_the_next_attach_is_dropped() {
    let (world, first) = detached_with_removal_under_way().await;
    let second = world.attached("vm1").await;
    world.detach(&second).await.unwrap();

    world.attach(&second, "vm2", "netns:c2").await.unwrap();
    let_removals_go_on(&world);
    world.until_no_port(&first).await;
    until_everybody_waits().await;

    assert!(!world.stage.deeds(&second).contains(&Deed::PortRemoved));
    world.assert_plugged(&second, "vm2");
}

#[tokio::test(start_paused = true)]
async fn an_attach_takes_over_what_could_not_be_removed() {
    let world = World::start().await;
    let nic = world.attached("vm1").await;
    let refused = Fault::Refused;
    world
        .stage
        .fail(Call::RemovePort, None, refused, Times::Once);
    world.detach(&nic).await.unwrap();

    world.attach(&nic, "vm1", "netns:c2").await.unwrap();
    // tidy: sleep because paused time passes at once
    tokio::time::sleep(A_ROUND).await;

    assert!(!world.stage.deeds(&nic).contains(&Deed::PortRemoved));
    world.assert_plugged(&nic, "vm1");
}

#[tokio::test(start_paused = true)]
async fn a_removal_that_fails_is_tried_again() {
    let world = World::start().await;
    let nic = world.attached("vm1").await;
    let refused = Fault::Refused;
    world
        .stage
        .fail(Call::RemovePort, None, refused, Times::Once);

    world.detach(&nic).await.unwrap();
    let began = Instant::now();

    world.assert_gone(&nic).await;
    assert!(began.elapsed() <= A_ROUND);
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_hostd_left_of_an_available_nic_is_removed_at_once() {
    let (mut world, nic) = detached_with_removal_under_way().await;
    let began = Instant::now();

    world.restart().await;
    let_removals_go_on(&world);

    world.assert_gone(&nic).await;
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_nic_leaves_no_port() {
    let (world, nic) = detached_with_removal_under_way().await;
    let service = world.service().clone();
    let ask = at_once();
    let mut deletion = std::pin::pin!(service.delete(&ask, &nic));

    assert!(futures::poll!(&mut deletion).is_pending());
    until_everybody_waits().await;
    assert!(futures::poll!(&mut deletion).is_pending());
    let_removals_go_on(&world);
    within("a deletion", deletion).await.unwrap();

    assert_eq!(world.ports.admin(&nic), None);
    assert!(world.service().store.nic(&nic).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_deletion_interrupted_at_the_port_is_finished() {
    let (mut world, nic) = detached_with_removal_under_way().await;
    let service = world.service().clone();
    let ask = at_once();
    {
        let mut deletion = std::pin::pin!(service.delete(&ask, &nic));
        assert!(futures::poll!(&mut deletion).is_pending());
        until_everybody_waits().await;
    }

    world.restart().await;
    let_removals_go_on(&world);
    world.until_no_port(&nic).await;
    until_everybody_waits().await;

    assert!(world.service().store.nic(&nic).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_port_of_an_available_nic_stays_cut_off_while_a_process_holds_it() {
    let world = World::start().await;
    let nic = world.create().await;
    world.ports.put(&nic);
    world.ports.hold(&nic, Holder::Somebody);

    world.stage.until_done(&nic, Deed::PortIsolated, 1).await;
    // tidy: sleep because paused time passes at once
    tokio::time::sleep(LONGER_THAN_ANY_LOOK).await;
    assert_eq!(world.ports.admin(&nic), Some(AdminState::Down));
    world.ports.hold(&nic, Holder::Nobody);

    world.assert_gone(&nic).await;
}
