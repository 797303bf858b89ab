//! Discovery, plug, unplug and carrier while all is well.

use anyhow::Result;
use hypervisor::{Carrier, EventKind, Hypervisor, PlugRequest, Trouble, Unplugging};
use nic_model::{HotplugMode, PowerState, Slot, SlotId, SlotOccupant, VmHardware, VmId};

use crate::support::{self, Domain, Hotplug, Libvirtd, again, next_event, nic};

fn occupant(hardware: &VmHardware, slot: &str) -> SlotOccupant {
    let is_it = |candidate: &&Slot| candidate.id.0 == slot;
    hardware
        .slots
        .iter()
        .find(is_it)
        .expect("the VM has the slot")
        .occupant
        .clone()
}

/// The words of a refusal; fails on any other trouble.
fn refusal(trouble: Trouble) -> String {
    let Trouble::Refused { message } = trouble else {
        panic!("not a refusal: {trouble:?}");
    };
    message
}

#[tokio::test]
async fn vms_are_discovered_by_name_whether_they_run_or_not() -> Result<()> {
    let mut libvirtd = Libvirtd::start()?;
    libvirtd.start_vm(&Domain::plain("vm-b"))?;
    libvirtd.define(&Domain::plain("vm-a"))?;
    let xml = libvirtd.virsh("dumpxml vm-a")?;
    let spaced = xml.replace("<name>vm-a</name>", "<name>no vm name</name>");
    let spaced = spaced
        .lines()
        .filter(|line| !line.contains("<uuid>"))
        .collect::<String>();
    let file = libvirtd.file("spaced.xml", &spaced)?;
    libvirtd.virsh(&format!("define {file}"))?;

    let vms = libvirtd.hypervisor()?.vms().await?;

    assert_eq!(vms, ["vm-a".parse::<VmId>()?, "vm-b".parse()?]);
    Ok(())
}

#[tokio::test]
async fn inspecting_shows_slots_channel_mode_and_power() -> Result<()> {
    let mut libvirtd = Libvirtd::start()?;
    let vm = libvirtd.start_vm(&Domain::plain("vm"))?;
    let hypervisor = libvirtd.hypervisor()?;

    let running = hypervisor.inspect(&vm).await?;
    libvirtd.virsh("suspend vm")?;
    let paused = hypervisor.inspect(&vm).await?;
    libvirtd.virsh("destroy vm")?;
    let off = hypervisor.inspect(&vm).await?;

    let slots: Vec<_> = running
        .free_slots()
        .map(|slot| slot.id.0.as_str())
        .collect();
    assert_eq!(slots, ["0x02", "0x03", "0x04", "0x05"]);
    assert!(matches!(
        occupant(&running, "0x01"),
        SlotOccupant::Foreign(_)
    ));
    assert_eq!(running.hotplug, HotplugMode::Acpi);
    assert!(
        running
            .channel
            .is_some_and(|path| path.ends_with("vm.sock"))
    );
    assert_eq!(running.power, PowerState::Running);
    assert_eq!(paused.power, PowerState::Paused);
    assert_eq!(off.power, PowerState::Off);
    Ok(())
}

#[tokio::test]
async fn an_unknown_vm_is_named_as_such() -> Result<()> {
    let libvirtd = Libvirtd::start()?;
    let hypervisor = libvirtd.hypervisor()?;

    let error = hypervisor.inspect(&"nobody".parse()?).await.unwrap_err();

    assert!(matches!(error.trouble, Trouble::NoSuchVm), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn a_run_keeps_its_id_over_a_restart_of_libvirtd_and_the_next_run_has_another() -> Result<()>
{
    let mut libvirtd = Libvirtd::start()?;
    let vm = libvirtd.start_vm(&Domain::plain("vm"))?;
    let hypervisor = libvirtd.hypervisor()?;

    let first = hypervisor.inspect(&vm).await?.run;
    libvirtd.run("kill_libvirtd; start_libvirtd")?;
    let after_restart = hypervisor.inspect(&vm).await?.run;
    let id = libvirtd.virsh("domid vm")?;
    libvirtd.virsh("destroy vm")?;
    let off = hypervisor.inspect(&vm).await?.run;
    libvirtd.run("kill_libvirtd; start_libvirtd")?;
    libvirtd.virsh("start vm")?;
    let next = hypervisor.inspect(&vm).await?.run;

    assert!(first.is_some());
    assert_eq!(after_restart, first);
    assert_eq!(off, None);
    assert_eq!(libvirtd.virsh("domid vm")?, id, "libvirt uses the id again");
    assert!(next.is_some() && next != first, "{first:?} {next:?}");
    Ok(())
}

#[tokio::test]
async fn a_plugged_nic_sits_in_its_slot_with_its_mac_and_its_tap_untouched() -> Result<()> {
    let mut libvirtd = Libvirtd::start()?;
    let vm = libvirtd.start_vm(&Domain::plain("vm"))?;
    let hypervisor = libvirtd.hypervisor()?;
    let request = libvirtd.request(&nic("one"), "0x03")?;
    let tap = request.tap.name.clone();
    libvirtd.run(&format!(
        "ip link set {tap} address 02:00:00:00:00:07 mtu 1400"
    ))?;

    hypervisor.plug(&vm, again(&request)).await?;

    let hardware = hypervisor.inspect(&vm).await?;
    assert_eq!(occupant(&hardware, "0x03"), SlotOccupant::Nic(nic("one")));
    let plugged = hardware.nic(&nic("one")).expect("the NIC is plugged");
    assert_eq!(plugged.slot, Some(request.slot));
    assert_eq!(plugged.mac, Some(request.mac));
    let link = libvirtd.run(&format!("ip link show {tap}"))?;
    assert!(
        link.contains("mtu 1400") && link.contains("02:00:00:00:00:07"),
        "{link}"
    );
    assert!(!link.contains(",UP"), "{link}");
    Ok(())
}

#[tokio::test]
async fn plugging_takes_the_taps_root_qdisc_and_unplugging_its_ingress() -> Result<()> {
    let mut libvirtd = Libvirtd::start()?;
    let vm = libvirtd.start_vm(&Domain::plain("vm"))?;
    let hypervisor = libvirtd.hypervisor()?;
    let mut events = hypervisor.events();
    let request = libvirtd.request(&nic("one"), "0x03")?;
    let tap = request.tap.name.clone();
    let shape = format!("tc qdisc replace dev {tap} root tbf rate 8mbit burst 8kb latency 9ms");
    libvirtd.run(&format!("{shape} && tc qdisc add dev {tap} ingress"))?;

    hypervisor.plug(&vm, request).await?;
    let plugged = libvirtd.run(&format!("tc qdisc show dev {tap}"))?;
    libvirtd.run(&shape)?;
    hypervisor.set_link(&vm, &nic("one"), Carrier::Down).await?;
    let set = libvirtd.run(&format!("tc qdisc show dev {tap}"))?;
    hypervisor.unplug(&vm, &nic("one")).await?;
    libvirtd.virsh("reset vm")?;
    next_event(&mut events, |event| {
        event.kind == EventKind::DeviceGone(nic("one"))
    })
    .await?;
    let unplugged = libvirtd.run(&format!("tc qdisc show dev {tap}"))?;

    assert!(
        plugged.contains("noqueue") && plugged.contains("ingress"),
        "{plugged}"
    );
    assert!(set.contains("tbf") && set.contains("ingress"), "{set}");
    assert!(
        !unplugged.contains("tbf") && !unplugged.contains("ingress"),
        "{unplugged}"
    );
    Ok(())
}

#[tokio::test]
async fn plugging_again_changes_nothing_and_elsewhere_is_refused() -> Result<()> {
    let mut libvirtd = Libvirtd::start()?;
    let vm = libvirtd.start_vm(&Domain::plain("vm"))?;
    let hypervisor = libvirtd.hypervisor()?;
    let request = libvirtd.request(&nic("one"), "0x03")?;
    hypervisor.plug(&vm, again(&request)).await?;
    let before = hypervisor.inspect(&vm).await?;

    hypervisor.plug(&vm, again(&request)).await?;
    let elsewhere = PlugRequest {
        slot: SlotId("0x04".to_owned()),
        ..again(&request)
    };
    let moved = hypervisor.plug(&vm, elsewhere).await.unwrap_err();
    let other_mac = PlugRequest {
        mac: "5a:09:09:09:09:09".parse()?,
        ..again(&request)
    };
    let changed = hypervisor.plug(&vm, other_mac).await.unwrap_err();

    assert!(refusal(moved.trouble).contains("another slot"));
    assert!(refusal(changed.trouble).contains("another MAC"));
    assert_eq!(hypervisor.inspect(&vm).await?, before);
    Ok(())
}

#[tokio::test]
async fn a_slot_that_is_missing_or_taken_and_a_tap_that_is_missing_are_refused() -> Result<()> {
    let mut libvirtd = Libvirtd::start()?;
    let vm = libvirtd.start_vm(&Domain::plain("vm"))?;
    let hypervisor = libvirtd.hypervisor()?;
    let missing = libvirtd.request(&nic("missing"), "0x09")?;
    let foreign = libvirtd.request(&nic("foreign"), "0x01")?;
    let first = libvirtd.request(&nic("first"), "0x02")?;
    let second = libvirtd.request(&nic("second"), "0x02")?;
    let mut tapless = again(&libvirtd.request(&nic("tapless"), "0x03")?);
    tapless.tap.name = "nf-nowhere".to_owned();
    hypervisor.plug(&vm, first).await?;

    for (request, words) in [
        (missing, "no such hot-plug slot"),
        (foreign, "another device"),
        (second, "sits in the slot"),
        (tapless, "doesn't exist"),
    ] {
        let error = hypervisor.plug(&vm, request).await.unwrap_err();
        let message = refusal(error.trouble);
        assert!(message.contains(words), "{message}");
    }

    assert_eq!(hypervisor.inspect(&vm).await?.nics.len(), 1);
    Ok(())
}

#[tokio::test]
async fn several_queues_are_taken_from_a_tap_made_for_them() -> Result<()> {
    let mut libvirtd = Libvirtd::start()?;
    let vm = libvirtd.start_vm(&Domain::plain("vm"))?;
    let hypervisor = libvirtd.hypervisor()?;
    let mut request = libvirtd.request(&nic("one"), "0x03")?;
    let tap = request.tap.name.clone();
    libvirtd.run(&format!(
        "ip tuntap del {tap} mode tap && ip tuntap add {tap} mode tap multi_queue"
    ))?;
    request.tap.queue_count = 2;

    hypervisor.plug(&vm, request).await?;

    assert!(libvirtd.virsh("dumpxml vm")?.contains("queues='2'"));
    Ok(())
}

#[tokio::test]
async fn a_vm_that_is_off_takes_no_nic_and_holds_none() -> Result<()> {
    let mut libvirtd = Libvirtd::start()?;
    let vm = libvirtd.define(&Domain::plain("vm"))?;
    let hypervisor = libvirtd.hypervisor()?;
    let request = libvirtd.request(&nic("one"), "0x03")?;

    let plug = hypervisor.plug(&vm, request).await.unwrap_err();
    let set_link = hypervisor
        .set_link(&vm, &nic("one"), Carrier::Down)
        .await
        .unwrap_err();

    assert!(matches!(plug.trouble, Trouble::NotRunning), "{plug:?}");
    assert!(
        matches!(set_link.trouble, Trouble::NotRunning),
        "{set_link:?}"
    );
    assert_eq!(hypervisor.unplug(&vm, &nic("one")).await?, Unplugging::Gone);
    Ok(())
}

#[tokio::test]
async fn an_unplug_that_no_guest_answers_is_completed_by_a_reset() -> Result<()> {
    let mut libvirtd = Libvirtd::start()?;
    let vm = libvirtd.start_vm(&Domain::plain("vm"))?;
    let hypervisor = libvirtd.hypervisor()?;
    support::connected(&hypervisor).await?;
    let mut events = hypervisor.events();
    let request = libvirtd.request(&nic("one"), "0x03")?;
    hypervisor.plug(&vm, request).await?;

    assert_eq!(
        hypervisor.unplug(&vm, &nic("one")).await?,
        Unplugging::Asked
    );
    assert!(hypervisor.inspect(&vm).await?.nic(&nic("one")).is_some());
    libvirtd.virsh("reset vm")?;
    next_event(&mut events, |event| event.kind == EventKind::Reset).await?;
    let gone = EventKind::DeviceGone(nic("one"));
    let event = next_event(&mut events, |event| event.kind == gone).await?;

    assert_eq!(event.vm, Some(vm.clone()));
    assert!(hypervisor.inspect(&vm).await?.nics.is_empty());
    assert_eq!(hypervisor.unplug(&vm, &nic("one")).await?, Unplugging::Gone);
    Ok(())
}

#[tokio::test]
async fn a_second_request_while_one_is_open_is_pending() -> Result<()> {
    let mut libvirtd = Libvirtd::start()?;
    libvirtd.run("ip tuntap add nf-aaaaaacold mode tap")?;
    // A device there from the start has power, so a native port waits for the guest, 5 s long.
    let vm = libvirtd.start_vm(&Domain {
        name: "vm",
        hotplug: Hotplug::Native,
        devices: "<interface type='ethernet'><mac address='5a:00:00:00:00:01'/>\
                  <target dev='nf-aaaaaacold' managed='no'/><model type='virtio'/>\
                  <alias name='ua-nic-aaaaaacold'/>\
                  <address type='pci' bus='0x03' slot='0x00'/></interface>",
    })?;
    let hypervisor = libvirtd.hypervisor()?;
    let cold = "nic-aaaaaacold".parse()?;

    let hardware = hypervisor.inspect(&vm).await?;
    let first = hypervisor.unplug(&vm, &cold).await?;
    let second = hypervisor.unplug(&vm, &cold).await?;

    assert_eq!(hardware.hotplug, HotplugMode::Native);
    assert_eq!((first, second), (Unplugging::Asked, Unplugging::Pending));
    Ok(())
}

#[tokio::test]
async fn a_carrier_goes_down_and_up_again() -> Result<()> {
    let mut libvirtd = Libvirtd::start()?;
    let vm = libvirtd.start_vm(&Domain::plain("vm"))?;
    let hypervisor = libvirtd.hypervisor()?;
    let request = libvirtd.request(&nic("one"), "0x03")?;
    hypervisor.plug(&vm, request).await?;

    hypervisor.set_link(&vm, &nic("one"), Carrier::Down).await?;
    let down = libvirtd.virsh("domif-getlink vm nf-aaaaaaaone")?;
    hypervisor.set_link(&vm, &nic("one"), Carrier::Down).await?;
    hypervisor.set_link(&vm, &nic("one"), Carrier::Up).await?;
    let up = libvirtd.virsh("domif-getlink vm nf-aaaaaaaone")?;
    let stranger = hypervisor
        .set_link(&vm, &nic("two"), Carrier::Up)
        .await
        .unwrap_err();

    assert!(down.ends_with("down"), "{down}");
    assert!(up.ends_with("up"), "{up}");
    assert!(refusal(stranger.trouble).contains("not plugged"));
    Ok(())
}

#[tokio::test]
async fn a_detach_behind_our_back_is_an_event() -> Result<()> {
    let mut libvirtd = Libvirtd::start()?;
    let vm = libvirtd.start_vm(&Domain {
        hotplug: Hotplug::Native,
        ..Domain::plain("vm")
    })?;
    let hypervisor = libvirtd.hypervisor()?;
    let mut events = hypervisor.events();
    let request = libvirtd.request(&nic("one"), "0x03")?;
    hypervisor.plug(&vm, request).await?;

    // Without an operating system the port has no power, and a native one lets go at once.
    libvirtd.virsh("detach-interface vm ethernet --mac 5a:01:02:03:04:05 --live")?;

    let gone = EventKind::DeviceGone(nic("one"));
    let event = next_event(&mut events, |event| event.kind == gone).await?;
    assert_eq!(event.vm, Some(vm));
    Ok(())
}

#[tokio::test]
async fn starting_stopping_and_defining_are_events() -> Result<()> {
    let mut libvirtd = Libvirtd::start()?;
    let hypervisor = libvirtd.hypervisor()?;
    support::connected(&hypervisor).await?;
    let mut events = hypervisor.events();

    let vm = libvirtd.define(&Domain::plain("vm"))?;
    next_event(&mut events, |event| event.kind == EventKind::VmsChanged).await?;
    libvirtd.virsh("start vm")?;
    let started = next_event(&mut events, |event| event.kind == EventKind::Power).await?;

    assert_eq!(started.vm, Some(vm));
    Ok(())
}

/// Whether this process has a thread of this name; the kernel keeps 15 bytes of it.
fn has_thread(name: &str) -> Result<bool> {
    for task in std::fs::read_dir("/proc/self/task")? {
        // A thread may end between being listed and being read.
        let comm = std::fs::read_to_string(task?.path().join("comm")).unwrap_or_default();
        if comm.trim() == name {
            return Ok(true);
        }
    }
    Ok(false)
}

#[tokio::test]
async fn the_thread_of_a_vm_ends_when_the_vm_has_disappeared() -> Result<()> {
    let mut libvirtd = Libvirtd::start()?;
    let vm = libvirtd.define(&Domain::plain("vm-leaving"))?;
    let hypervisor = libvirtd.hypervisor()?;
    hypervisor.inspect(&vm).await?;
    assert!(has_thread("virt-vm-leaving")?);

    libvirtd.virsh("undefine vm-leaving")?;
    let vms = hypervisor.vms().await?;

    assert_eq!(vms, []);
    let ended = async {
        while has_thread("virt-vm-leaving")? {
            tokio::task::yield_now().await;
        }
        Ok(())
    };
    tokio::time::timeout(support::PATIENCE, ended).await?
}
