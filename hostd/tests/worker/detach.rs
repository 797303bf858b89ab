//! Detaching and moving: guests that cling, containers that die, devices nobody asked for.

use std::time::Duration;

use hypervisor::EventKind;
use nic_lifecycle::{Blocked, NicState};
use nic_model::{HotplugMode, NicId, SlotOccupant};
use port::AdminState;
use tokio::time::Instant;

use crate::support::hypervisor::{Events, Kernel, LONGER_THAN_ANY_LOOK};
use crate::support::stage::{Call, Deed, Effect, Fault, Times};
use crate::support::{
    PATIENCE, Setup, World, failure_code, target, two_vms, until_everybody_waits, vm,
};

#[tokio::test(start_paused = true)]
async fn a_dead_container_degrades_its_nic_and_a_move_heals_it() {
    let world = World::start().await;
    let nic = world.create().await;
    world.attach(&nic, "vm1", "netns:c1").await.unwrap();

    world.guest("vm1").container_died(&target("netns:c1"));
    world
        .until("degraded", &nic, |_, live| live.degraded.is_some())
        .await;
    assert_eq!(world.record(&nic).state, NicState::InUse);
    let moved = world.relocate(&nic, "vm1", "netns:c2").await.unwrap();

    assert_eq!(moved.state, NicState::InUse);
    assert_eq!(world.live(&nic).degraded, None);
    assert!(!world.stage.deeds(&nic).contains(&Deed::AskedToLetGo));
    world.assert_plugged(&nic, "vm1");
}

#[tokio::test(start_paused = true)]
async fn nothing_observed_of_a_nic_outlives_its_detach() {
    let world = World::start().await;
    let nic = world.create().await;
    world.attach(&nic, "vm1", "netns:c1").await.unwrap();
    assert_ne!(world.live(&nic).addresses, []);
    world.guest("vm1").container_died(&target("netns:c1"));
    world
        .until("degraded", &nic, |_, live| live.degraded.is_some())
        .await;

    world.detach(&nic).await.unwrap();

    assert_eq!(world.live(&nic).degraded, None);
    assert_eq!(world.live(&nic).blocked, None);
    world.attach(&nic, "vm1", "netns:c2").await.unwrap();
    world.detach(&nic).await.unwrap();
    assert_eq!(world.live(&nic).addresses, []);
}

#[tokio::test(start_paused = true)]
async fn a_move_to_another_vm_keeps_what_the_nic_is() {
    let world = World::with(two_vms()).await;
    let nic = world.attached("vm1").await;
    let before = world.record(&nic);

    let after = world.relocate(&nic, "vm2", "netns:c2").await.unwrap();

    assert_eq!(after.state, NicState::InUse);
    assert_eq!(
        (after.mac, &after.addressing),
        (before.mac, &before.addressing)
    );
    assert_eq!(after.placement.unwrap().vm, vm("vm2"));
    assert_eq!(world.hypervisor.hardware(&vm("vm1")).nics, []);
    assert_eq!(world.guest("vm1").wanted(&nic), None);
    assert!(!world.stage.deeds(&nic).contains(&Deed::PortRemoved));
    world.assert_plugged(&nic, "vm2");
}

#[tokio::test(start_paused = true)]
async fn a_move_that_fails_at_the_new_place_goes_back() {
    for (to, new_target) in [("vm1", "netns:gone"), ("vm2", "netns:gone")] {
        let world = World::with(two_vms()).await;
        let nic = world.create().await;
        let before = world.attach(&nic, "vm1", "netns:c1").await.unwrap();
        world.guest(to).remove_container(&target(new_target));

        let outcome = world.relocate(&nic, to, new_target).await;

        assert_eq!(failure_code(outcome), "target_gone");
        let after = world.record(&nic);
        assert_eq!(after.state, NicState::InUse);
        assert_eq!(after.placement, before.placement);
        assert_eq!(after.transit, None);
        assert_eq!(
            (after.mac, &after.addressing),
            (before.mac, &before.addressing)
        );
        assert_eq!(world.hypervisor.hardware(&vm("vm2")).nics, []);
        world.assert_plugged(&nic, "vm1");
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_keeps_its_device_is_cut_off_and_its_slot_stays_taken() {
    for kernel in [Kernel::Refuses, Kernel::IsSilent] {
        let world = World::with(Setup {
            slots: 1,
            ..Setup::default()
        })
        .await;
        let nic = world.attached("vm1").await;
        let other = world.create().await;
        world.hypervisor.set_kernel(&vm("vm1"), kernel);

        world.begin_detach(&nic).await;
        world
            .until("blocked", &nic, |_, live| keeps_device(live))
            .await;

        assert_eq!(world.record(&nic).state, NicState::Detaching);
        assert_eq!(world.ports.admin(&nic), Some(AdminState::Down));
        assert!(world.live(&nic).blocked.unwrap().next_retry_ms.is_some());
        let refused = world.attach(&other, "vm1", "netns:c2").await;
        assert!(refused.unwrap_err().to_string().contains("hotplug_slots"));
        world.hypervisor.set_kernel(&vm("vm1"), Kernel::LetsGo);
        world.until_state(&nic, NicState::Available).await;
        world.assert_gone(&nic).await;
    }
}

/// A look takes several commands, and a guest that refuses does so again and again.
#[tokio::test(start_paused = true)]
async fn a_guest_that_refuses_is_no_reason_to_look_at_its_vm() {
    let world = World::start().await;
    let nic = world.attached("vm1").await;
    let look_fails = Fault::Disconnected(Effect::Missing);
    world
        .stage
        .fail(Call::Inspect, None, look_fails, Times::Always);
    world.hypervisor.set_kernel(&vm("vm1"), Kernel::Refuses);

    world.begin_detach(&nic).await;
    let asked = Deed::AskedToLetGo;
    world.stage.until_done(&nic, asked, 2).await;
    until_everybody_waits().await;

    assert!(keeps_device(&world.live(&nic)), "{:?}", world.live(&nic));
}

/// The event may be that of an earlier device of the same name. In the native way a second request
/// within five seconds takes back the first.
#[tokio::test(start_paused = true)]
async fn a_device_that_is_there_after_all_is_asked_for_again_only_where_that_does_no_harm() {
    for (hotplug, requests) in [(HotplugMode::Acpi, 2), (HotplugMode::Native, 1)] {
        let world = World::with(Setup {
            hotplug,
            ..Setup::default()
        })
        .await;
        let nic = world.attached("vm1").await;
        world.hypervisor.set_kernel(&vm("vm1"), Kernel::IsSilent);
        world.begin_detach(&nic).await;
        let asked = Deed::AskedToLetGo;
        world.stage.until_done(&nic, asked, 1).await;

        let gone = EventKind::DeviceGone(nic.clone());
        world.hypervisor.tell(&vm("vm1"), gone);
        until_everybody_waits().await;

        let entries = world.stage.entries(&nic);
        let count = entries.iter().filter(|entry| entry.deed == asked).count();
        assert_eq!(count, requests, "{hotplug:?}");
        assert_eq!(world.record(&nic).state, NicState::Detaching);
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_is_asked_again_on_a_schedule_that_its_hotplug_mode_allows() {
    let schedules = [
        (HotplugMode::Acpi, [1, 2, 4, 8, 16, 30, 30]),
        (HotplugMode::Native, [6, 12, 24, 30, 30, 30, 30]),
    ];
    for (hotplug, seconds) in schedules {
        let world = World::with(Setup {
            hotplug,
            ..Setup::default()
        })
        .await;
        let nic = world.attached("vm1").await;
        world.hypervisor.set_kernel(&vm("vm1"), Kernel::IsSilent);

        world.begin_detach(&nic).await;
        let asked = Deed::AskedToLetGo;
        world.stage.until_done(&nic, asked, seconds.len() + 1).await;

        let entries = world.stage.entries(&nic);
        let times = entries.iter().filter(|entry| entry.deed == asked);
        let times: Vec<_> = times.map(|entry| entry.at).collect();
        let pauses = times.windows(2).map(|pair| pair[1] - pair[0]);
        let rounded: Vec<_> = pauses.map(|pause| pause.as_secs()).collect();
        assert_eq!(rounded, seconds, "{hotplug:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_lets_go_late_ends_the_detach_at_once() {
    for events in [Events::Sent, Events::Lost] {
        let world = World::start().await;
        let nic = world.attached("vm1").await;
        world.hypervisor.set_kernel(&vm("vm1"), Kernel::IsSilent);
        world.begin_detach(&nic).await;
        world
            .until("blocked", &nic, |_, live| keeps_device(live))
            .await;

        world.hypervisor.let_go(&vm("vm1"), &nic, events);
        world.until_state(&nic, NicState::Available).await;

        world.assert_gone(&nic).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_clings_to_a_link_is_not_waited_for_for_ever() {
    let world = World::start().await;
    let nic = world.attached("vm1").await;
    world.guest("vm1").cling(&nic);
    let began = Instant::now();

    world.detach(&nic).await.unwrap();

    assert!(began.elapsed() >= PATIENCE.release);
    assert!(began.elapsed() < PATIENCE.release + Duration::from_secs(5));
    world.assert_gone(&nic).await;
}

#[tokio::test(start_paused = true)]
async fn a_detach_gets_through_whatever_fails_once() {
    let faults = [
        Fault::Refused,
        Fault::TimedOut(Effect::Happened),
        Fault::TimedOut(Effect::Missing),
        Fault::Disconnected(Effect::Happened),
        Fault::Hangs,
    ];
    let calls = [
        Call::IsolatePort,
        Call::SetLink,
        Call::Unplug,
        Call::RemovePort,
        Call::Inspect,
        Call::Commit,
    ];
    for (call, fault) in calls
        .into_iter()
        .flat_map(|call| faults.into_iter().map(move |fault| (call, fault)))
    {
        let world = World::start().await;
        let nic = world.attached("vm1").await;
        world.begin_detach(&nic).await;
        world.stage.fail(call, None, fault, Times::Once);

        world.until_state(&nic, NicState::Available).await;

        world.assert_gone(&nic).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_without_a_record_is_cut_off_at_once_and_removed_after_its_quarantine() {
    let world = World::start().await;
    let stray: NicId = "nic-stray00001".parse().unwrap();
    let foreign = SlotOccupant::Foreign(Some("disk7".to_owned()));
    world.hypervisor.change_hardware(&vm("vm1"), |hardware| {
        hardware.slots[3].occupant = foreign.clone();
    });
    world.hypervisor.put_device(&vm("vm1"), &stray, 1);

    world.stage.until_done(&stray, Deed::CarrierDown, 1).await;
    world.stage.until_done(&stray, Deed::BackendGone, 1).await;

    let entries = world.stage.entries(&stray);
    let at = |deed| entries.iter().find(|entry| entry.deed == deed).unwrap().at;
    let quarantine = at(Deed::AskedToLetGo) - at(Deed::CarrierDown);
    assert!(quarantine >= PATIENCE.quarantine);
    assert!(quarantine < PATIENCE.quarantine + LONGER_THAN_ANY_LOOK);
    let hardware = world.hypervisor.hardware(&vm("vm1"));
    assert_eq!(hardware.slots[3].occupant, foreign);
    world.assert_gone(&stray).await;
}

#[tokio::test(start_paused = true)]
async fn a_port_without_a_record_is_isolated_at_once_and_removed_after_its_quarantine() {
    let world = World::start().await;
    let owned = world.attached("vm1").await;
    let stray: NicId = "nic-stray00001".parse().unwrap();
    let began = Instant::now();
    world.ports.put(&stray);
    world
        .stage
        .fail(Call::IsolatePort, None, Fault::Refused, Times::Once);

    world.stage.until_done(&stray, Deed::PortIsolated, 1).await;
    assert!(began.elapsed() < Duration::from_secs(15));
    world.stage.until_done(&stray, Deed::PortRemoved, 1).await;

    assert!(began.elapsed() >= PATIENCE.quarantine);
    assert_eq!(world.ports.count(), 1);
    world.assert_plugged(&owned, "vm1");
}

#[tokio::test(start_paused = true)]
async fn a_port_without_a_record_stays_while_a_device_uses_it() {
    let world = World::start().await;
    let stray: NicId = "nic-stray00001".parse().unwrap();
    world.ports.put(&stray);
    world.hypervisor.set_kernel(&vm("vm1"), Kernel::IsSilent);
    world.hypervisor.put_device(&vm("vm1"), &stray, 1);

    world.stage.until_done(&stray, Deed::AskedToLetGo, 3).await;
    assert_eq!(world.ports.admin(&stray), Some(AdminState::Down));
    world.hypervisor.set_kernel(&vm("vm1"), Kernel::LetsGo);
    world.stage.until_done(&stray, Deed::PortRemoved, 1).await;

    world.assert_gone(&stray).await;
}

#[tokio::test(start_paused = true)]
async fn a_stray_device_that_cannot_be_cut_off_is_tried_again() {
    let world = World::start().await;
    let stray: NicId = "nic-stray00001".parse().unwrap();
    let lost = Fault::Disconnected(Effect::Missing);
    world.stage.fail(Call::SetLink, None, lost, Times::Once);

    world.hypervisor.put_device(&vm("vm1"), &stray, 1);
    world.stage.until_done(&stray, Deed::CarrierDown, 1).await;

    assert!(!world.stage.deeds(&stray).contains(&Deed::AskedToLetGo));
}

fn keeps_device(live: &hostd::board::LiveNic) -> bool {
    let reason = live.blocked.as_ref().map(|blocked| blocked.reason);
    reason == Some(Blocked::GuestKeepsDevice)
}
