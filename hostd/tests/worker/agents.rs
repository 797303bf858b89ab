//! Agents that come late, come back or begin anew.

use std::sync::atomic::{AtomicUsize, Ordering};

use agent_protocol::{AgentMessage, KnownTarget, VersionRange};
use hostd::agent_link::AgentState;
use hypervisor::EventKind;
use nic_lifecycle::{Blocked, NicState};
use nic_model::NicId;
use tokio::time::Instant;

use crate::support::guest::boot_id;
use crate::support::hostile::{Attacker, Line};
use crate::support::stage::Deed;
use crate::support::{Agents, PATIENCE, Setup, World, target, two_vms, until_everybody_waits, vm};

#[tokio::test(start_paused = true)]
async fn a_pid_is_declared_as_the_process_it_was_even_after_a_restart() {
    let mut world = World::start().await;
    let nic = world.create().await;
    world.attach(&nic, "vm1", "pid:42").await.unwrap();
    let known = world.record(&nic).placement.unwrap().known_target;
    assert!(matches!(known, Some(KnownTarget::BoundIn { .. })));

    world.restart().await;
    world.until_agent_is_ready("vm1").await;
    until_everybody_waits().await;

    let declared = world.guest("vm1").wanted(&nic).unwrap();
    assert_eq!(declared.known_target, known);
}

/// Between the caller's asking and the first binding, a hostd that restarts and a guest that
/// reboots must not take the pid for one of the new boot.
#[tokio::test(start_paused = true)]
async fn a_pid_is_declared_as_of_the_boot_it_was_asked_in_even_after_a_restart() {
    let mut world = World::start().await;
    world.until_agent_is_ready("vm1").await;
    let nic = world.create().await;

    world.begin_attach(&nic, "vm1", "pid:42").await;
    world.restart().await;

    let known = world.record(&nic).placement.unwrap().known_target;
    let boot_id = boot_id();
    assert_eq!(known, Some(KnownTarget::AskedIn { boot_id }));
}

/// Its guest may be reset before the agent is there again, and the pid be another process then.
#[tokio::test(start_paused = true)]
async fn a_pid_asked_for_while_the_agent_is_silent_is_one_of_the_boot_it_was_last_heard_in() {
    let world = without_agents().await;
    let rounds = AtomicUsize::new(0);
    let first_only = move |mut line: Line| {
        let is_first = rounds.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            if is_first {
                line.open().await?;
            }
            line.until_closed().await
        }
    };
    let _silent = Attacker::start(&world.channel("vm1"), first_only);
    world.until_agent_is_ready("vm1").await;
    let connecting = |state: &AgentState| *state == AgentState::Connecting;
    world.until_agent("vm1", connecting).await;
    let (before, after) = (world.create().await, world.create().await);

    world.begin_attach(&before, "vm1", "pid:42").await;
    world.hypervisor.tell(&vm("vm1"), EventKind::Reset);
    world.until_boot_is_unknown("vm1").await;
    world.begin_attach(&after, "vm1", "pid:43").await;

    let known = |nic: &NicId| world.record(nic).placement.unwrap().known_target;
    let boot_id = boot_id();
    assert_eq!(known(&before), Some(KnownTarget::AskedIn { boot_id }));
    assert_eq!(known(&after), None);
}

#[tokio::test(start_paused = true)]
async fn a_nic_that_comes_back_from_a_failed_move_is_wanted_in_the_process_it_left() {
    let world = World::with(two_vms()).await;
    let nic = world.create().await;
    world.attach(&nic, "vm1", "pid:42").await.unwrap();
    let before = world.record(&nic).placement.unwrap();
    world.guest("vm2").remove_container(&target("netns:gone"));

    world.relocate(&nic, "vm2", "netns:gone").await.unwrap_err();

    world.until_state(&nic, NicState::InUse).await;
    assert!(before.known_target.is_some());
    assert_eq!(world.record(&nic).placement.unwrap(), before);
    let declared = world.guest("vm1").wanted(&nic).unwrap();
    assert_eq!(declared.known_target, before.known_target);
}

async fn without_agents() -> World {
    let setup = Setup {
        agents: Agents::Nowhere,
        ..Setup::default()
    };
    World::with(setup).await
}

/// One whose Pongs bear no counts: it is left alone until it is updated, and not called a liar.
#[tokio::test(start_paused = true)]
async fn an_agent_of_the_first_version_is_incompatible_until_it_is_updated() {
    let mut world = without_agents().await;
    let versions = VersionRange {
        oldest: 1,
        newest: 1,
    };
    let refusal = move |mut line: Line| async move {
        line.until_greeted().await?;
        line.send(&AgentMessage::Incompatible { versions }).await?;
        line.until_closed().await
    };
    let old = Attacker::start(&world.channel("vm1"), refusal);
    let incompatible = AgentState::Incompatible { versions };
    world
        .until_agent("vm1", |state| *state == incompatible)
        .await;

    drop(old);
    world.start_agent("vm1");

    world.until_agent_is_ready("vm1").await;
}

#[tokio::test(start_paused = true)]
async fn a_detach_right_after_a_restart_lets_the_guest_go_first() {
    let mut world = World::start().await;
    let nic = world.attached("vm1").await;
    world.guests.remove(&vm("vm1"));
    world.restart().await;
    world.begin_detach(&nic).await;
    world
        .until("waiting for its agent", &nic, |_, live| {
            let blocked = live.blocked.as_ref();
            blocked.is_some_and(|blocked| blocked.reason == Blocked::AgentUnreachable)
        })
        .await;
    assert!(!world.stage.deeds(&nic).contains(&Deed::AskedToLetGo));
    let began = Instant::now();

    world.start_agent("vm1");

    world.until_state(&nic, NicState::Available).await;
    assert!(began.elapsed() < PATIENCE.release);
    world.assert_gone(&nic).await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_stays_away_is_not_waited_for_for_ever() {
    let mut world = World::start().await;
    let nic = world.attached("vm1").await;
    world.guests.remove(&vm("vm1"));
    let began = Instant::now();

    world.detach(&nic).await.unwrap();

    assert!(began.elapsed() >= PATIENCE.release);
    world.assert_gone(&nic).await;
}

#[tokio::test(start_paused = true)]
async fn a_link_that_is_bound_again_is_degraded_meanwhile() {
    let world = World::start().await;
    let nic = world.attached("vm1").await;

    world.guest("vm1").begin_binding_again(&nic);

    world
        .until("degraded", &nic, |_, live| live.degraded.is_some())
        .await;
    assert_eq!(world.record(&nic).state, NicState::InUse);
    world.guest("vm1").end_binding_again(&nic);
    world
        .until("whole", &nic, |_, live| live.degraded.is_none())
        .await;
}

#[tokio::test(start_paused = true)]
async fn what_an_agent_said_before_a_reset_of_its_guest_counts_no_more() {
    let world = World::start().await;
    world.until_agent_is_ready("vm1").await;

    world.hypervisor.tell(&vm("vm1"), EventKind::Reset);

    world
        .until_agent("vm1", |state| *state == AgentState::Connecting)
        .await;
    world.until_agent_is_ready("vm1").await;
}
