//! Attaching: the order of things, and what comes of each way to fail.

use std::time::Duration;

use hostd::board::TimedStep;
use nic_lifecycle::{Action, Blocked, NicState, Step};
use port::AdminState;
use tokio::time::Instant;

use crate::support::hypervisor::Events;
use crate::support::stage::{Call, Deed, Effect, Fault, Times};
use crate::support::{Agents, PATIENCE, Setup, World, failure_code, target, vm};

#[tokio::test(start_paused = true)]
async fn a_nic_comes_and_goes_in_order() {
    let world = World::start().await;

    let nic = world.attached("vm1").await;
    world.assert_plugged(&nic, "vm1");
    let detached = world.detach(&nic).await.unwrap();
    world.until_no_port(&nic).await;

    assert_eq!(detached.state, NicState::Available);
    assert_eq!(
        world.stage.deeds(&nic),
        [
            Deed::PortMade,
            Deed::Plugged,
            Deed::PortIsolated,
            Deed::CarrierDown,
            Deed::AskedToLetGo,
            Deed::DeviceGone,
            Deed::BackendGone,
            Deed::PortRemoved,
        ]
    );
    world.assert_gone(&nic).await;
}

/// A look at everything takes more commands than the attach itself.
#[tokio::test(start_paused = true)]
async fn what_the_hypervisor_answers_needs_no_look_at_everything() {
    let world = World::start().await;
    world.until_agent_is_ready("vm1").await;
    let look = Call::Inspect;
    world.stage.fail(look, None, Fault::Refused, Times::Always);

    let nic = world.attached("vm1").await;
    world.assert_plugged(&nic, "vm1");
    world.detach(&nic).await.unwrap();

    assert_eq!(world.live(&nic).blocked, None);
    world.stage.heal();
    world.assert_gone(&nic).await;
}

#[tokio::test(start_paused = true)]
async fn the_agent_is_told_before_the_device_is_plugged() {
    let world = World::start().await;
    world.until_agent_is_ready("vm1").await;

    let nic = world.attached("vm1").await;

    let timings = world.live(&nic).timings;
    let actions: Vec<_> = timings
        .iter()
        .filter_map(|timing| match timing.step {
            TimedStep::Host(Step::Act(action)) => Some(action),
            TimedStep::Host(_) | TimedStep::Guest(_) => None,
        })
        .collect();
    assert_eq!(actions, [Action::MakePort, Action::Declare, Action::Plug]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_plug_is_undone_and_named() {
    let world = World::start().await;
    let nic = world.create().await;
    world
        .stage
        .fail(Call::Plug, None, Fault::Refused, Times::Once);

    let outcome = world.attach(&nic, "vm1", "netns:c1").await;

    assert_eq!(failure_code(outcome), "hypervisor_refused");
    assert_eq!(world.record(&nic).state, NicState::Available);
    assert!(world.stage.deeds(&nic).contains(&Deed::PortIsolated));
    world.assert_gone(&nic).await;
    assert_eq!(world.guest("vm1").wanted(&nic), None);
}

#[tokio::test(start_paused = true)]
async fn a_port_that_cannot_be_made_is_named_and_nothing_is_plugged() {
    let world = World::start().await;
    let nic = world.create().await;
    world
        .stage
        .fail(Call::MakePort, None, Fault::Refused, Times::Once);

    let outcome = world.attach(&nic, "vm1", "netns:c1").await;

    assert_eq!(failure_code(outcome), "port_failed");
    assert!(!world.stage.deeds(&nic).contains(&Deed::Plugged));
    world.assert_gone(&nic).await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_attach_can_be_tried_again() {
    let world = World::start().await;
    let nic = world.create().await;
    world
        .stage
        .fail(Call::Plug, None, Fault::Refused, Times::Once);
    failure_code(world.attach(&nic, "vm1", "netns:c1").await);

    let record = world.attach(&nic, "vm1", "netns:c1").await.unwrap();

    assert_eq!(record.state, NicState::InUse);
    assert_eq!(record.last_failure, None);
    world.assert_plugged(&nic, "vm1");
}

#[tokio::test(start_paused = true)]
async fn a_plug_that_happened_without_an_answer_is_adopted() {
    for fault in [
        Fault::TimedOut(Effect::Happened),
        Fault::Disconnected(Effect::Happened),
    ] {
        let world = World::start().await;
        world.stage.fail(Call::Plug, None, fault, Times::Once);

        let nic = world.attached("vm1").await;

        world.assert_plugged(&nic, "vm1");
        let plugs = world.stage.deeds(&nic);
        assert_eq!(
            plugs.iter().filter(|deed| **deed == Deed::Plugged).count(),
            1
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_plug_that_timed_out_without_happening_is_tried_again() {
    let world = World::start().await;
    let fault = Fault::TimedOut(Effect::Missing);
    world.stage.fail(Call::Plug, None, fault, Times::Once);

    let nic = world.attached("vm1").await;

    world.assert_plugged(&nic, "vm1");
}

#[tokio::test(start_paused = true)]
async fn an_attach_continues_when_a_lost_hypervisor_is_back() {
    let world = World::start().await;
    let nic = world.create().await;
    let lost = Fault::Disconnected(Effect::Missing);
    for call in [Call::Plug, Call::Inspect] {
        world.stage.fail(call, None, lost, Times::Always);
    }

    world.begin_attach(&nic, "vm1", "netns:c1").await;
    let unreachable = |live: &hostd::board::LiveNic| {
        let reason = live.blocked.as_ref().map(|blocked| blocked.reason);
        reason == Some(Blocked::HypervisorUnreachable)
    };
    world
        .until("unreachable", &nic, |_, live| unreachable(live))
        .await;
    world.stage.heal();
    world.until_state(&nic, NicState::InUse).await;

    world.assert_plugged(&nic, "vm1");
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_hangs_delays_nobody_else() {
    let world = World::with(Setup {
        vms: vec!["stuck", "healthy"],
        ..Setup::default()
    })
    .await;
    let stuck = world.create().await;
    for call in [Call::Plug, Call::Unplug, Call::SetLink, Call::Inspect] {
        world
            .stage
            .fail(call, Some("stuck"), Fault::Hangs, Times::Always);
    }
    world.begin_attach(&stuck, "stuck", "netns:c1").await;
    world.stage.until_done(&stuck, Deed::PortMade, 1).await;
    let began = Instant::now();

    let healthy = world.attached("healthy").await;

    // Paused time moves on only when nobody can go on: the hang was not waited for.
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(world.record(&stuck).state, NicState::Attaching);
    world.assert_plugged(&healthy, "healthy");
}

#[tokio::test(start_paused = true)]
async fn an_attach_without_an_agent_gives_up_in_time_and_leaves_nothing() {
    let world = World::with(Setup {
        agents: Agents::Nowhere,
        ..Setup::default()
    })
    .await;
    let nic = world.create().await;
    let began = Instant::now();

    world.begin_attach(&nic, "vm1", "netns:c1").await;
    world
        .until("blocked by the agent", &nic, |_, live| {
            let reason = live.blocked.as_ref().map(|blocked| blocked.reason);
            reason == Some(Blocked::AgentUnreachable)
        })
        .await;
    world.until_state(&nic, NicState::Available).await;

    assert!(began.elapsed() >= PATIENCE.attach);
    assert!(began.elapsed() < PATIENCE.attach + Duration::from_secs(5));
    assert_eq!(world.record(&nic).last_failure.unwrap().code, "timed_out");
    assert!(!world.stage.deeds(&nic).contains(&Deed::Plugged));
    world.assert_gone(&nic).await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_comes_late_is_not_too_late() {
    let mut world = World::with(Setup {
        agents: Agents::Nowhere,
        ..Setup::default()
    })
    .await;
    let nic = world.create().await;
    world.begin_attach(&nic, "vm1", "netns:c1").await;
    world.stage.until_done(&nic, Deed::PortMade, 1).await;

    world.start_agent("vm1");
    world.until_state(&nic, NicState::InUse).await;

    world.assert_plugged(&nic, "vm1");
}

#[tokio::test(start_paused = true)]
async fn a_failed_binding_is_undone_and_named() {
    let world = World::start().await;
    let nic = world.create().await;
    world.guest("vm1").remove_container(&target("netns:gone"));

    let outcome = world.attach(&nic, "vm1", "netns:gone").await;

    assert_eq!(failure_code(outcome), "target_gone");
    world.assert_gone(&nic).await;
}

#[tokio::test(start_paused = true)]
async fn a_device_that_vanishes_from_a_nic_in_use_is_noticed_and_cleaned_up() {
    for events in [Events::Sent, Events::Lost] {
        let world = World::start().await;
        let nic = world.attached("vm1").await;
        let began = Instant::now();

        world.hypervisor.let_go(&vm("vm1"), &nic, events);
        world.until_state(&nic, NicState::Available).await;

        let noticed_at_once = began.elapsed() < Duration::from_secs(1);
        assert_eq!(noticed_at_once, events == Events::Sent);

        assert_eq!(
            world.record(&nic).last_failure.unwrap().code,
            "device_removed"
        );
        world.assert_gone(&nic).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_tap_taken_from_a_nic_in_use_is_noticed_and_cleaned_up() {
    let world = World::start().await;
    let nic = world.attached("vm1").await;

    world.ports.take_away(&nic);
    world.until_state(&nic, NicState::Available).await;

    let failure = world.record(&nic).last_failure.unwrap();
    assert_eq!(failure.code, "port_removed");
    world.assert_gone(&nic).await;
}

#[tokio::test(start_paused = true)]
async fn a_tap_taken_out_of_its_bridge_is_put_back() {
    let world = World::start().await;
    let nic = world.attached("vm1").await;

    world.ports.take_out_of_bridge(&nic);
    world.stage.until_done(&nic, Deed::PortMade, 2).await;

    assert_eq!(world.record(&nic).state, NicState::InUse);
    world.assert_plugged(&nic, "vm1");
}

#[tokio::test(start_paused = true)]
async fn a_tap_switched_off_under_a_nic_in_use_is_switched_on_again() {
    let world = World::start().await;
    let nic = world.attached("vm1").await;

    world.ports.switch_off(&nic);
    world.stage.until_done(&nic, Deed::PortMade, 2).await;

    assert_eq!(world.ports.admin(&nic), Some(AdminState::Up));
    assert_eq!(world.record(&nic).state, NicState::InUse);
}
