//! What happens when libvirtd or a VM does not answer, and when it is back.

use std::time::Duration;

use anyhow::Result;
use hypervisor::{EventKind, Hypervisor, Trouble, Unplugging};
use hypervisor_libvirt::{LibvirtHypervisor, Options};

use crate::support::{self, Domain, Libvirtd, again, next_event, nic};

/// Long enough for an answer from a libvirtd that is well, on a busy machine.
const SOON: Duration = Duration::from_secs(3);

#[tokio::test]
async fn events_and_calls_work_again_after_libvirtd_was_killed() -> Result<()> {
    let mut libvirtd = Libvirtd::start()?;
    let vm = libvirtd.start_vm(&Domain::plain("vm"))?;
    let hypervisor = libvirtd.hypervisor()?;
    support::connected(&hypervisor).await?;
    let mut events = hypervisor.events();
    let request = libvirtd.request(&nic("one"), "0x03")?;
    hypervisor.plug(&vm, request).await?;
    hypervisor.unplug(&vm, &nic("one")).await?;

    libvirtd.run("kill_libvirtd")?;
    next_event(&mut events, |event| event.kind == EventKind::Connection).await?;
    libvirtd.run("start_libvirtd")?;
    next_event(&mut events, |event| event.kind == EventKind::Connection).await?;
    let still_there = hypervisor.inspect(&vm).await?;
    libvirtd.virsh("reset vm")?;
    let gone = EventKind::DeviceGone(nic("one"));
    next_event(&mut events, |event| event.kind == gone).await?;

    assert!(still_there.nic(&nic("one")).is_some());
    assert_eq!(hypervisor.unplug(&vm, &nic("one")).await?, Unplugging::Gone);
    Ok(())
}

#[tokio::test]
async fn a_call_made_during_an_outage_is_carried_out_when_libvirtd_is_back() -> Result<()> {
    let mut libvirtd = Libvirtd::start()?;
    let vm = libvirtd.start_vm(&Domain::plain("vm"))?;
    let hypervisor = libvirtd.hypervisor()?;
    support::connected(&hypervisor).await?;
    let mut events = hypervisor.events();
    let request = libvirtd.request(&nic("one"), "0x03")?;
    libvirtd.run("kill_libvirtd")?;
    next_event(&mut events, |event| event.kind == EventKind::Connection).await?;

    let (plugged, started) = tokio::join!(hypervisor.plug(&vm, again(&request)), async {
        libvirtd.run("start_libvirtd")
    });

    started?;
    plugged?;
    assert!(hypervisor.inspect(&vm).await?.nic(&nic("one")).is_some());
    Ok(())
}

#[tokio::test]
async fn a_call_that_meets_an_outage_to_its_end_says_so() -> Result<()> {
    let mut libvirtd = Libvirtd::start()?;
    let vm = libvirtd.define(&Domain::plain("vm"))?;
    let hypervisor = libvirtd.impatient_hypervisor(Duration::from_millis(500))?;
    let mut events = hypervisor.events();
    next_event(&mut events, |event| event.kind == EventKind::Connection).await?;
    libvirtd.run("kill_libvirtd")?;
    next_event(&mut events, |event| event.kind == EventKind::Connection).await?;

    let (inspected, listed) = tokio::join!(hypervisor.inspect(&vm), hypervisor.vms());

    let trouble = inspected.unwrap_err().trouble;
    assert!(matches!(trouble, Trouble::Connection(_)), "{trouble:?}");
    let trouble = listed.unwrap_err().0;
    assert!(matches!(trouble, Trouble::Connection(_)), "{trouble:?}");
    Ok(())
}

#[tokio::test]
async fn a_call_in_flight_survives_the_death_of_libvirtd() -> Result<()> {
    let mut libvirtd = Libvirtd::start()?;
    let vm = libvirtd.start_vm(&Domain::plain("vm"))?;
    let hypervisor = libvirtd.hypervisor()?;
    let request = libvirtd.request(&nic("one"), "0x03")?;
    // A QEMU that is stopped keeps the plug in flight.
    libvirtd.signal_qemu(&vm, "STOP")?;

    let (plugged, restarted) = tokio::join!(hypervisor.plug(&vm, again(&request)), async {
        let control = format!("virsh --connect '{}' domcontrol vm", libvirtd.uri());
        libvirtd.run(&format!("until {control} | grep -q occupied; do :; done"))?;
        libvirtd.run("kill_libvirtd")?;
        libvirtd.signal_qemu(&vm, "CONT")?;
        libvirtd.run("start_libvirtd")
    });

    restarted?;
    plugged?;
    assert!(hypervisor.inspect(&vm).await?.nic(&nic("one")).is_some());
    Ok(())
}

#[tokio::test]
async fn a_libvirtd_that_hangs_costs_each_call_its_deadline_and_no_more() -> Result<()> {
    let mut libvirtd = Libvirtd::start()?;
    let vm = libvirtd.define(&Domain::plain("vm"))?;
    let hypervisor = libvirtd.impatient_hypervisor(SOON)?;
    support::connected(&hypervisor).await?;
    hypervisor.inspect(&vm).await?;
    libvirtd.run("signal_libvirtd STOP")?;

    let (inspected, listed) = tokio::join!(hypervisor.inspect(&vm), hypervisor.vms());
    libvirtd.run("signal_libvirtd CONT")?;
    let recovered = hypervisor.inspect(&vm).await;

    let trouble = inspected.unwrap_err().trouble;
    assert!(
        matches!(trouble, Trouble::TimedOut { waited_ms: 3000 }),
        "{trouble:?}"
    );
    let trouble = listed.unwrap_err().0;
    assert!(
        matches!(trouble, Trouble::TimedOut { waited_ms: 3000 }),
        "{trouble:?}"
    );
    recovered?;
    Ok(())
}

#[tokio::test]
async fn a_libvirtd_that_is_silent_for_too_long_counts_as_lost() -> Result<()> {
    let mut libvirtd = Libvirtd::start()?;
    let options = Options {
        keepalive_interval: Duration::from_secs(1),
        keepalive_count: 1,
        ..Options::default()
    };
    let hypervisor = LibvirtHypervisor::connect(&libvirtd.uri(), options)?;
    let mut events = hypervisor.events();
    next_event(&mut events, |event| event.kind == EventKind::Connection).await?;

    libvirtd.run("signal_libvirtd STOP")?;
    next_event(&mut events, |event| event.kind == EventKind::Connection).await?;
    libvirtd.run("signal_libvirtd CONT")?;
    next_event(&mut events, |event| event.kind == EventKind::Connection).await?;

    assert_eq!(hypervisor.vms().await?, []);
    Ok(())
}

/// More VMs hang than libvirtd serves requests of one connection at a time, which is 5.
#[tokio::test]
async fn vms_that_hang_do_not_hold_up_another() -> Result<()> {
    let mut libvirtd = Libvirtd::start()?;
    let well = libvirtd.start_vm(&Domain::plain("vm-well"))?;
    let hypervisor = libvirtd.impatient_hypervisor(SOON)?;
    let mut plugs = Vec::new();
    for name in ["vm-1", "vm-2", "vm-3", "vm-4", "vm-5", "vm-6"] {
        let vm = libvirtd.start_vm(&Domain::plain(name))?;
        let request = libvirtd.request(&nic(&name.replace('-', "")), "0x03")?;
        libvirtd.signal_qemu(&vm, "STOP")?;
        plugs.push((vm, request));
    }
    let request = libvirtd.request(&nic("well"), "0x03")?;

    let hanging = plugs.into_iter().map(|(vm, request)| {
        let hypervisor = &hypervisor;
        async move { hypervisor.plug(&vm, request).await }
    });
    let hanging = futures::future::join_all(hanging);
    let (hung, plugged) = tokio::join!(hanging, hypervisor.plug(&well, request));

    plugged?;
    for result in hung {
        let trouble = result.unwrap_err().trouble;
        assert!(matches!(trouble, Trouble::TimedOut { .. }), "{trouble:?}");
    }
    Ok(())
}

#[tokio::test]
async fn libvirtd_may_come_later_than_its_client() -> Result<()> {
    let mut libvirtd = Libvirtd::start()?;
    libvirtd.run("kill_libvirtd")?;
    let hypervisor = libvirtd.hypervisor()?;

    let (listed, started) = tokio::join!(hypervisor.vms(), async {
        tokio::task::yield_now().await;
        libvirtd.run("start_libvirtd")
    });

    started?;
    assert_eq!(listed?, []);
    Ok(())
}

#[tokio::test]
async fn a_uri_that_cannot_be_one_is_an_error_at_once() {
    let result = LibvirtHypervisor::connect("qemu:///\0", Options::default());

    assert!(result.is_err());
}

#[tokio::test]
async fn what_was_queued_behind_a_hanging_call_is_not_done_after_its_deadline() -> Result<()> {
    let mut libvirtd = Libvirtd::start()?;
    let vm = libvirtd.start_vm(&Domain::plain("vm"))?;
    let hypervisor = libvirtd.impatient_hypervisor(SOON)?;
    support::connected(&hypervisor).await?;
    let first = libvirtd.request(&nic("first"), "0x02")?;
    let second = libvirtd.request(&nic("second"), "0x03")?;
    libvirtd.signal_qemu(&vm, "STOP")?;

    let plugged = tokio::join!(hypervisor.plug(&vm, first), hypervisor.plug(&vm, second));
    libvirtd.signal_qemu(&vm, "CONT")?;
    let hardware = hypervisor.inspect(&vm).await?;

    for result in [plugged.0, plugged.1] {
        let trouble = result.unwrap_err().trouble;
        assert!(matches!(trouble, Trouble::TimedOut { .. }), "{trouble:?}");
    }
    // The first was on its way and is carried out; the second was never sent.
    assert!(hardware.nic(&nic("first")).is_some());
    assert!(hardware.nic(&nic("second")).is_none());
    Ok(())
}
