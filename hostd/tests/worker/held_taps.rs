//! VMs that look off while a process still holds their taps: nothing of them is given to others.

use std::time::Duration;

use hypervisor::EventKind;
use nic_lifecycle::{Blocked, NicState};
use nic_model::{NicId, PowerState};
use port::Holder;
use tokio::time::Instant;

use crate::support::hypervisor::{Events, LONGER_THAN_ANY_LOOK};
use crate::support::stage::Deed;
use crate::support::{Agents, Setup, World, vm};

/// How a VM comes to look off.
#[derive(Debug, Clone, Copy)]
enum Looks {
    Off,
    Unknown,
}

/// The hypervisor tells that a VM has ended, or that it knows of none; its tap is still held.
fn look_off(world: &World, nic: &NicId, looks: Looks) {
    world.ports.hold(nic, Holder::Somebody);
    match looks {
        Looks::Off => switch_off(world),
        Looks::Unknown => world.hypervisor.remove_vm(&vm("vm1"), Events::Sent),
    }
}

fn switch_off(world: &World) {
    end_unnoticed(world);
    world.hypervisor.tell(&vm("vm1"), EventKind::Power);
}

fn end_unnoticed(world: &World) {
    world.hypervisor.change_hardware(&vm("vm1"), |hardware| {
        hardware.power = PowerState::Off;
        hardware.run = None;
        hardware.slots.clear();
        hardware.nics.clear();
    });
}

#[tokio::test(start_paused = true)]
async fn a_nic_in_use_stays_so_while_a_process_holds_its_tap() {
    for looks in [Looks::Off, Looks::Unknown] {
        let world = World::start().await;
        let nic = world.attached("vm1").await;
        let before = world.record(&nic);

        look_off(&world, &nic, looks);
        // tidy: sleep because paused time passes at once
        tokio::time::sleep(LONGER_THAN_ANY_LOOK).await;

        assert_eq!(world.record(&nic), before, "{looks:?}");
        assert!(!world.stage.deeds(&nic).contains(&Deed::PortIsolated));
        world.ports.hold(&nic, Holder::Nobody);
        let let_go_at = Instant::now();
        world.until_state(&nic, NicState::Available).await;
        assert!(let_go_at.elapsed() <= Duration::from_secs(1));
        let failure = world.record(&nic).last_failure.unwrap();
        assert_eq!(failure.code, "vm_stopped", "{looks:?}");
        world.assert_gone(&nic).await;
    }
}

/// What somebody with `ip link` can do to the tap of a NIC in use that is not a port's absence.
#[derive(Debug, Clone, Copy)]
enum Lost {
    TapAlone,
    ToAnotherTap,
}

#[tokio::test(start_paused = true)]
async fn a_nic_in_use_whose_device_has_lost_its_tap_is_cleaned_up() {
    for lost in [Lost::TapAlone, Lost::ToAnotherTap] {
        let world = World::start().await;
        let nic = world.attached("vm1").await;

        match lost {
            Lost::TapAlone => world.ports.take_tap_away(&nic),
            Lost::ToAnotherTap => world.ports.replace_tap(&nic),
        }
        world.until_state(&nic, NicState::Available).await;

        let failure = world.record(&nic).last_failure.unwrap();
        assert_eq!(failure.code, "port_removed", "{lost:?}");
        world.assert_gone(&nic).await;
        world.attach(&nic, "vm1", "netns:c2").await.unwrap();
        world.assert_plugged(&nic, "vm1");
    }
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_has_ended_unnoticed_is_not_taken_for_one_that_lost_its_tap() {
    let world = World::start().await;
    let nic = world.attached("vm1").await;

    world.ports.replace_tap(&nic);
    end_unnoticed(&world);
    world.until_state(&nic, NicState::Available).await;

    let failure = world.record(&nic).last_failure.unwrap();
    assert_eq!(failure.code, "vm_stopped");
}

#[tokio::test(start_paused = true)]
async fn a_detach_waits_for_whoever_holds_the_tap_and_says_so() {
    for looks in [Looks::Off, Looks::Unknown] {
        let world = World::start().await;
        let nic = world.attached("vm1").await;
        look_off(&world, &nic, looks);

        world.begin_detach(&nic).await;
        world
            .until("blocked", &nic, |record, live| {
                let blocked = live.blocked.as_ref();
                let unreachable =
                    blocked.is_some_and(|blocked| blocked.reason == Blocked::HypervisorUnreachable);
                unreachable && record.placement.is_some()
            })
            .await;

        let detail = world.live(&nic).blocked.unwrap().detail.unwrap();
        assert_eq!(
            detail,
            format!(
                "the VM looks off, but a process still holds tap {}",
                nic.tap_name()
            )
        );
        world.ports.hold(&nic, Holder::Nobody);
        world.until_state(&nic, NicState::Available).await;
        world.assert_gone(&nic).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_has_ended_is_cleaned_up_as_soon_as_it_has_let_go() {
    let world = World::start().await;
    let nic = world.attached("vm1").await;
    let began = Instant::now();

    look_off(&world, &nic, Looks::Off);
    // tidy: sleep because paused time passes at once
    tokio::time::sleep(Duration::from_millis(15)).await;
    world.ports.hold(&nic, Holder::Nobody);
    world.until_state(&nic, NicState::Available).await;

    assert!(began.elapsed() < Duration::from_millis(100));
}

#[tokio::test(start_paused = true)]
async fn hostds_own_descriptors_do_not_keep_a_vm_from_being_off() {
    let world = World::with(Setup {
        agents: Agents::Nowhere,
        ..Setup::default()
    })
    .await;
    let nic = world.create().await;
    world.begin_attach(&nic, "vm1", "netns:c1").await;
    world.stage.until_done(&nic, Deed::PortMade, 1).await;
    let began = Instant::now();

    // As the kernel tells it: hostd is the process that holds the tap until it is plugged.
    look_off(&world, &nic, Looks::Off);
    world.until_state(&nic, NicState::Available).await;

    assert!(began.elapsed() < Duration::from_secs(1));
    let failure = world.record(&nic).last_failure.unwrap();
    assert_eq!(failure.code, "vm_stopped");
}
