//! The back end against a real QEMU that runs no guest.

#![expect(clippy::unwrap_used, reason = "set-up that fails is a failed test")]

mod support;

use std::num::NonZeroU16;

use hypervisor::{Carrier, Descriptor, EventKind, Hypervisor, Trouble, Unplugging};
use hypervisor_qmp::QmpHypervisor;
use hypervisor_qmp::client::Command;
use linux_network::tap::TapSpec;
use linux_network::{Netlink, Netns};
use nic_model::{Backend, HotplugMode, PluggedNic, PowerState, SlotId, SlotOccupant, VmHardware};
use rustix::process::Signal;
use serde_json::json;
use support::{
    PATIENT, Qemu, connect, hypervisor, nic, request, request_over, request_without_queues, reset,
    run, until, until_on, vm,
};
use tokio::time::timeout;

fn slots(hardware: &VmHardware) -> Vec<String> {
    hardware
        .slots
        .iter()
        .map(|slot| format!("{} {} {:?}", slot.id, slot.path, slot.occupant))
        .collect()
}

fn plugged(slot: Option<&str>, backend: Backend) -> PluggedNic {
    PluggedNic {
        nic: nic(),
        slot: slot.map(|slot| SlotId(slot.to_owned())),
        mac: slot.map(|_| "5a:00:00:00:00:01".parse().unwrap()),
        backend,
    }
}

#[tokio::test]
async fn a_plugged_nic_is_seen_in_its_slot_with_its_backend() {
    let qemu = Qemu::start(&[]);
    let (hypervisor, vm) = hypervisor(&qemu).await;
    let before = hypervisor.inspect(&vm).await.unwrap();
    assert_eq!(
        slots(&before),
        ["rp1 02.0/00.0 Empty", "rp2 03.0/00.0 Empty"]
    );

    hypervisor.plug(&vm, request("rp2", 1)).await.unwrap();

    let after = hypervisor.inspect(&vm).await.unwrap();
    assert_eq!(
        slots(&after),
        [
            "rp1 02.0/00.0 Empty",
            "rp2 03.0/00.0 Nic(NicId(nic-aaaaaaaaaa))"
        ]
    );
    assert_eq!(after.nics, [plugged(Some("rp2"), Backend::Present)]);
    assert_eq!(
        (after.power, after.hotplug, after.run),
        (PowerState::Paused, HotplugMode::Acpi, before.run)
    );
}

#[tokio::test]
async fn ports_behind_a_switch_are_slots_and_those_of_a_second_root_bus_are_not() {
    let qemu = Qemu::start(&[
        "-device",
        "x3130-upstream,id=up,bus=rp2",
        "-device",
        "xio3130-downstream,id=down,bus=up,addr=01.0,chassis=9,slot=1",
        "-device",
        "pxb-pcie,id=pxb,bus_nr=64",
        "-device",
        "pcie-root-port,id=far,bus=pxb,chassis=10",
    ]);
    let (hypervisor, vm) = hypervisor(&qemu).await;

    hypervisor.plug(&vm, request("down", 1)).await.unwrap();

    let hardware = hypervisor.inspect(&vm).await.unwrap();
    assert_eq!(
        slots(&hardware),
        [
            "rp1 02.0/00.0 Empty",
            "rp2 03.0/00.0 Foreign(Some(\"up\"))",
            "down 03.0/00.0/01.0/00.0 Nic(NicId(nic-aaaaaaaaaa))",
        ]
    );
}

#[tokio::test]
async fn a_plug_that_is_repeated_changes_nothing() {
    let qemu = Qemu::start(&[]);
    let (hypervisor, vm) = hypervisor(&qemu).await;
    hypervisor.plug(&vm, request("rp1", 1)).await.unwrap();
    let once = hypervisor.inspect(&vm).await.unwrap();

    hypervisor.plug(&vm, request("rp1", 1)).await.unwrap();
    hypervisor
        .plug(&vm, request_without_queues("rp1"))
        .await
        .unwrap();

    assert_eq!(hypervisor.inspect(&vm).await.unwrap(), once);
}

#[tokio::test]
async fn a_device_that_has_lost_its_backend_gets_no_second_one() {
    let qemu = Qemu::start(&[]);
    let (hypervisor, vm) = hypervisor(&qemu).await;
    hypervisor.plug(&vm, request("rp1", 1)).await.unwrap();
    let control = qemu.control().await;
    let removal = Command::new("netdev_del", PATIENT).with("id", nic().netdev_id());
    run(&control, removal).await;

    hypervisor.plug(&vm, request("rp1", 1)).await.unwrap();

    // QEMU goes on showing the removed backend as the device's peer: one line, not two.
    let command = Command::new("human-monitor-command", PATIENT);
    let network = run(&control, command.with("command-line", "info network")).await;
    let lines = network
        .as_str()
        .unwrap()
        .matches(&nic().netdev_id())
        .count();
    assert_eq!(lines, 1, "{network}");
}

#[tokio::test]
async fn several_queues_make_a_multiqueue_device() {
    let qemu = Qemu::start(&[]);
    let (hypervisor, vm) = hypervisor(&qemu).await;

    hypervisor.plug(&vm, request("rp1", 3)).await.unwrap();

    let control = qemu.control().await;
    let property = |name: &'static str| {
        let path = format!("/machine/peripheral/{}", nic().device_id());
        Command::new("qom-get", PATIENT)
            .with("path", path)
            .with("property", name)
    };
    assert_eq!(run(&control, property("mq")).await, json!(true));
    assert_eq!(run(&control, property("vectors")).await, json!(8));
    let hardware = hypervisor.inspect(&vm).await.unwrap();
    assert_eq!(hardware.nics, [plugged(Some("rp1"), Backend::Present)]);
}

#[tokio::test]
async fn a_slot_that_another_device_occupies_refuses_and_leaves_no_backend() {
    let qemu = Qemu::start(&["-device", "virtio-rng-pci,bus=rp1"]);
    let (hypervisor, vm) = hypervisor(&qemu).await;

    let refusal = hypervisor.plug(&vm, request("rp1", 2)).await.unwrap_err();

    assert!(
        matches!(refusal.trouble, Trouble::Refused { .. }),
        "{refusal:?}"
    );
    let hardware = hypervisor.inspect(&vm).await.unwrap();
    assert_eq!(hardware.slots[0].occupant, SlotOccupant::Foreign(None));
    assert_eq!(hardware.nics, []);
}

#[tokio::test]
async fn a_slot_that_does_not_exist_refuses_and_leaves_no_backend() {
    let qemu = Qemu::start(&[]);
    let (hypervisor, vm) = hypervisor(&qemu).await;

    let refusal = hypervisor.plug(&vm, request("rp9", 1)).await.unwrap_err();

    let Trouble::Refused { message } = refusal.trouble else {
        panic!("{refusal:?}");
    };
    assert_eq!(message, "Bus 'rp9' not found");
    assert_eq!(hypervisor.inspect(&vm).await.unwrap().nics, []);
}

#[tokio::test]
async fn a_guest_that_ignores_the_unplug_keeps_the_nic_until_it_is_reset() {
    let qemu = Qemu::start(&[]);
    let (hypervisor, vm) = hypervisor(&qemu).await;
    let mut events = hypervisor.events();
    hypervisor.plug(&vm, request("rp1", 1)).await.unwrap();

    assert_eq!(
        hypervisor.unplug(&vm, &nic()).await.unwrap(),
        Unplugging::Asked
    );
    assert_eq!(
        hypervisor.unplug(&vm, &nic()).await.unwrap(),
        Unplugging::Pending
    );
    let ignored = hypervisor.inspect(&vm).await.unwrap();
    assert_eq!(ignored.nics, [plugged(Some("rp1"), Backend::Present)]);

    reset(&qemu.control().await).await;
    until(&mut events, &EventKind::DeviceGone(nic())).await;
    let let_go = hypervisor.inspect(&vm).await.unwrap();
    assert_eq!(let_go.nics, [plugged(None, Backend::Present)]);
    assert_eq!(let_go.slots[0].occupant, SlotOccupant::Empty);

    assert_eq!(
        hypervisor.unplug(&vm, &nic()).await.unwrap(),
        Unplugging::Gone
    );
    assert_eq!(hypervisor.inspect(&vm).await.unwrap().nics, []);
    assert_eq!(
        hypervisor.unplug(&vm, &nic()).await.unwrap(),
        Unplugging::Gone
    );
}

#[tokio::test]
async fn the_same_nic_goes_into_another_slot_right_after_it_was_let_go() {
    let qemu = Qemu::start(&[]);
    let (hypervisor, vm) = hypervisor(&qemu).await;
    let control = qemu.control().await;
    for slot in ["rp1", "rp2", "rp1", "rp2", "rp1", "rp2"] {
        hypervisor.plug(&vm, request(slot, 1)).await.unwrap();
        let hardware = hypervisor.inspect(&vm).await.unwrap();
        assert_eq!(hardware.nics, [plugged(Some(slot), Backend::Present)]);

        let mut step = hypervisor.unplug(&vm, &nic()).await.unwrap();
        reset(&control).await;
        while step != Unplugging::Gone {
            step = hypervisor.unplug(&vm, &nic()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn an_empty_slot_gives_a_device_back_at_once_when_hotplug_is_native() {
    let native = "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off";
    let qemu = Qemu::start(&["-global", native]);
    let (hypervisor, vm) = hypervisor(&qemu).await;
    let mut events = hypervisor.events();
    hypervisor.plug(&vm, request("rp1", 1)).await.unwrap();

    let asked = hypervisor.unplug(&vm, &nic()).await.unwrap();

    assert_eq!(asked, Unplugging::Asked);
    until(&mut events, &EventKind::DeviceGone(nic())).await;
    assert_eq!(
        hypervisor.unplug(&vm, &nic()).await.unwrap(),
        Unplugging::Gone
    );
    let hardware = hypervisor.inspect(&vm).await.unwrap();
    assert_eq!(
        (hardware.hotplug, hardware.nics),
        (HotplugMode::Native, vec![])
    );
}

#[tokio::test]
async fn the_carrier_of_a_nic_is_set_and_that_of_no_nic_is_refused() {
    let qemu = Qemu::start(&[]);
    let (hypervisor, vm) = hypervisor(&qemu).await;
    hypervisor.plug(&vm, request("rp1", 1)).await.unwrap();

    hypervisor
        .set_link(&vm, &nic(), Carrier::Down)
        .await
        .unwrap();
    hypervisor.set_link(&vm, &nic(), Carrier::Up).await.unwrap();
    let other = "nic-bbbbbbbbbb".parse().unwrap();
    let refusal = hypervisor
        .set_link(&vm, &other, Carrier::Down)
        .await
        .unwrap_err();

    assert!(
        matches!(refusal.trouble, Trouble::Refused { .. }),
        "{refusal:?}"
    );
}

#[tokio::test]
async fn a_vm_that_migrates_is_called_so_and_takes_no_nic() {
    let qemu = Qemu::start(&[]);
    let (hypervisor, vm) = hypervisor(&qemu).await;
    let control = qemu.control().await;
    let crawl = Command::new("migrate-set-parameters", PATIENT).with("max-bandwidth", 4096);
    run(&control, crawl).await;
    let migrate = Command::new("migrate", PATIENT).with("uri", "exec:cat >/dev/null");
    run(&control, migrate).await;

    let refusal = hypervisor.plug(&vm, request("rp1", 1)).await.unwrap_err();

    assert!(matches!(refusal.trouble, Trouble::Migrating), "{refusal:?}");
    let hardware = hypervisor.inspect(&vm).await.unwrap();
    assert_eq!(
        (hardware.power, hardware.nics),
        (PowerState::Migrating, vec![])
    );
    run(&control, Command::new("migrate_cancel", PATIENT)).await;
}

#[tokio::test]
async fn a_killed_qemu_is_off_and_its_successor_is_another_run_without_the_nic() {
    let mut qemu = Qemu::start(&[]);
    let (hypervisor, vm) = hypervisor(&qemu).await;
    hypervisor.plug(&vm, request("rp1", 1)).await.unwrap();
    let first = hypervisor.inspect(&vm).await.unwrap();
    let mut events = hypervisor.events();

    qemu.kill();
    until(&mut events, &EventKind::Connection).await;
    let off = hypervisor.inspect(&vm).await.unwrap();
    assert_eq!(
        (off.power, off.run, off.nics),
        (PowerState::Off, None, vec![])
    );
    let refusal = hypervisor.plug(&vm, request("rp1", 1)).await.unwrap_err();
    assert!(
        matches!(refusal.trouble, Trouble::NotRunning),
        "{refusal:?}"
    );

    qemu.restart();
    let second = until_on(&hypervisor, &vm).await;
    assert_eq!(second.nics, []);
    assert!(
        second.run.is_some() && second.run != first.run,
        "{second:?}"
    );
}

/// A tap that stays without a holder, and the way to look at it.
async fn tap_in_sight() -> (Vec<Descriptor>, Netlink) {
    let netns = Netns::unnamed().unwrap();
    let spec = TapSpec {
        name: nic().tap_name().parse().unwrap(),
        queue_count: NonZeroU16::MIN,
        owner: None,
    };
    let queues = linux_network::tap::attach(&netns, spec).await.unwrap();
    let queues = queues.into_iter().map(Descriptor::from).collect();
    (queues, Netlink::connect(&netns).await.unwrap())
}

async fn far_end(netlink: &Netlink) -> linux_network::Carrier {
    let name = nic().tap_name().parse().unwrap();
    netlink.link_by_name(&name).await.unwrap().unwrap().far_end
}

async fn until_let_go(netlink: &Netlink) {
    let let_go = async {
        while far_end(netlink).await == linux_network::Carrier::Present {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENT, let_go).await.unwrap();
}

#[tokio::test]
async fn a_vm_whose_socket_is_gone_looks_off_and_holds_its_tap_until_it_dies() {
    let mut qemu = Qemu::start(&[]);
    let (hypervisor, vm) = hypervisor(&qemu).await;
    let (queues, netlink) = tap_in_sight().await;
    let request = request_over("rp1", queues);
    hypervisor.plug(&vm, request).await.unwrap();

    std::fs::remove_file(qemu.socket()).unwrap();
    let anew = QmpHypervisor::new(vec![qemu.vm("vm")]);
    let seen = anew.inspect(&vm).await.unwrap();
    let held = far_end(&netlink).await;
    qemu.kill();

    assert_eq!(seen.power, PowerState::Off);
    assert_eq!(held, linux_network::Carrier::Present);
    until_let_go(&netlink).await;
}

#[tokio::test]
async fn a_tap_is_held_by_nobody_once_its_nic_is_unplugged() {
    let qemu = Qemu::start(&[]);
    let (hypervisor, vm) = hypervisor(&qemu).await;
    let (queues, netlink) = tap_in_sight().await;
    let request = request_over("rp1", queues);
    hypervisor.plug(&vm, request).await.unwrap();
    let held = far_end(&netlink).await;

    let mut step = hypervisor.unplug(&vm, &nic()).await.unwrap();
    reset(&qemu.control().await).await;
    while step != Unplugging::Gone {
        step = hypervisor.unplug(&vm, &nic()).await.unwrap();
    }

    assert_eq!(held, linux_network::Carrier::Present);
    until_let_go(&netlink).await;
}

#[tokio::test]
async fn a_backend_that_an_earlier_run_left_gets_its_device() {
    let qemu = Qemu::start(&[]);
    let (hypervisor, vm) = hypervisor(&qemu).await;
    let control = qemu.control().await;
    let tap = request("rp1", 1).tap.queues.remove(0);
    let getfd = Command::new("getfd", PATIENT).with("fdname", "left");
    run(&control, getfd.passing(tap)).await;
    let backend = Command::new("netdev_add", PATIENT)
        .with("type", "tap")
        .with("id", nic().netdev_id())
        .with("fd", "left");
    run(&control, backend).await;
    let left = hypervisor.inspect(&vm).await.unwrap();
    assert_eq!(left.nics, [plugged(None, Backend::Present)]);

    hypervisor
        .plug(&vm, request_without_queues("rp1"))
        .await
        .unwrap();

    let hardware = hypervisor.inspect(&vm).await.unwrap();
    assert_eq!(hardware.nics, [plugged(Some("rp1"), Backend::Present)]);
}

#[tokio::test]
async fn a_descriptor_that_an_earlier_run_left_becomes_the_backend() {
    let qemu = Qemu::start(&[]);
    let earlier = connect(qemu.socket()).await;
    let tap = request("rp1", 1).tap.queues.remove(0);
    let name = format!("{}-q0", nic().netdev_id());
    let getfd = Command::new("getfd", PATIENT).with("fdname", name);
    run(&earlier, getfd.passing(tap)).await;
    drop(earlier);
    let (hypervisor, vm) = hypervisor(&qemu).await;

    hypervisor
        .plug(&vm, request_without_queues("rp1"))
        .await
        .unwrap();

    let hardware = hypervisor.inspect(&vm).await.unwrap();
    assert_eq!(hardware.nics, [plugged(Some("rp1"), Backend::Present)]);
}

#[tokio::test]
async fn an_unplug_closes_descriptors_that_an_earlier_run_left() {
    let qemu = Qemu::start(&[]);
    let earlier = connect(qemu.socket()).await;
    let tap = request("rp1", 1).tap.queues.remove(0);
    let name = format!("{}-q0", nic().netdev_id());
    let getfd = Command::new("getfd", PATIENT).with("fdname", name);
    run(&earlier, getfd.passing(tap)).await;
    drop(earlier);
    let (hypervisor, vm) = hypervisor(&qemu).await;

    assert_eq!(
        hypervisor.unplug(&vm, &nic()).await.unwrap(),
        Unplugging::Gone
    );

    let without = request_without_queues("rp1");
    let refusal = hypervisor.plug(&vm, without).await.unwrap_err();
    assert!(
        matches!(refusal.trouble, Trouble::Refused { .. }),
        "{refusal:?}"
    );
}

#[tokio::test]
async fn a_qemu_that_hangs_delays_no_other_vm() {
    let (hung, lively) = (Qemu::start(&[]), Qemu::start(&[]));
    let hypervisor = QmpHypervisor::new(vec![hung.vm("hung"), lively.vm("lively")]);
    let (hung_vm, lively_vm) = ("hung".parse().unwrap(), "lively".parse().unwrap());
    until_on(&hypervisor, &hung_vm).await;
    until_on(&hypervisor, &lively_vm).await;
    hung.signal(Signal::STOP);

    tokio::select! {
        biased;
        answer = hypervisor.inspect(&hung_vm) => panic!("a stopped process answered: {answer:?}"),
        answer = hypervisor.inspect(&lively_vm) => assert!(answer.is_ok(), "{answer:?}"),
    }

    let answer = hypervisor.inspect(&hung_vm).await.unwrap_err();
    assert!(
        matches!(answer.trouble, Trouble::TimedOut { .. }),
        "{answer:?}"
    );
    hung.signal(Signal::CONT);
    assert!(hypervisor.inspect(&hung_vm).await.is_ok());
}

#[tokio::test]
async fn a_vm_that_was_not_given_is_unknown() {
    let hypervisor = QmpHypervisor::new(Vec::new());

    let refusal = hypervisor.inspect(&vm()).await.unwrap_err();

    assert!(matches!(refusal.trouble, Trouble::NoSuchVm));
    assert_eq!(hypervisor.vms().await.unwrap(), []);
}
