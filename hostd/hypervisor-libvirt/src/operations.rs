//! What each method of the trait does on a VM's thread.
//!
//! ```text
//!   plug:     read ─► there already? done ─► slot free? ─► attach ─► read: there? done
//!   unplug:   read ─► not there? gone ─► ask by alias ─► asked | pending
//!   set_link: read ─► as wanted? done ─► update ─► read: as wanted? done
//! ```
//!
//! Each begins and ends by reading the live XML, so each may be repeated at any point, and success
//! is what libvirt shows, not what it replied. While QEMU lives, the live XML is what libvirtd
//! believes of it: it re-reads QEMU's device list when it starts (`qemuProcessUpdateDevices`).

use std::fs;

use hypervisor::{Carrier, PlugRequest, Plugged, Trouble, Unplugging};
use nic_model::{NicId, PowerState, SlotOccupant, VmHardware, VmId, VmRunId};
use tokio::time::Instant;
use virt::connect::Connect;
use virt::domain::Domain;
use virt_sys as sys;

use crate::workers::Failure;
use crate::xml::{self, Element};
use crate::{ffi, hardware, interface_xml, trouble};

/// Namespace of the one element hostd writes into a running domain's `<metadata>`.
const RUN_NAMESPACE: &str = "urn:nicferry:run";
/// Its prefix there, which libvirt keeps.
const RUN_PREFIX: &str = "nicferry";
/// The element as libvirt writes it back.
const RUN_ELEMENT: &str = "nicferry:run";

/// Every VM whose name can be a [`VmId`]; the names of the others.
pub(crate) fn vms(connect: &Connect) -> Result<(Vec<VmId>, Vec<String>), Failure> {
    let mut vms = Vec::new();
    let mut unusable = Vec::new();
    for domain in connect.list_all_domains(0)? {
        let name = domain.get_name()?;
        match name.parse() {
            Ok(vm) => vms.push(vm),
            Err(_rule) => unusable.push(name),
        }
    }
    vms.sort();
    Ok((vms, unusable))
}

/// The VM's hardware as it is now.
pub(crate) fn inspect(connect: &Connect, vm: &VmId) -> Result<VmHardware, Failure> {
    let domain = Domain::lookup_by_name(connect, vm.as_str())?;
    let xml = live_xml(&domain)?;
    let power = power(&domain, &xml)?;
    let run = match (xml.attribute("id"), power) {
        (None, _) | (_, PowerState::Off) => None,
        (Some(id), _) => Some(run_id(&domain, &xml, id)?),
    };
    Ok(hardware::read(&xml, power, run))
}

/// Attaches the NIC unless it is attached.
pub(crate) fn plug(
    connect: &Connect,
    vm: &VmId,
    request: &PlugRequest,
) -> Result<Plugged, Failure> {
    let domain = Domain::lookup_by_name(connect, vm.as_str())?;
    let before = running_hardware(&domain)?;
    if let Some(attachment) = attachment(&before, request) {
        attachment?;
        return Ok(Plugged::Before);
    }
    let xml = interface_xml::attachment(request, free_bus(&before, request)?).write();
    let device_asked_at = Instant::now();
    if let Err(error) = domain.attach_device_flags(&xml, sys::VIR_DOMAIN_AFFECT_LIVE)
        && !trouble::is_duplicate_alias(&error)
    {
        return Err(error.into());
    }
    match attachment(&running_hardware(&domain)?, request) {
        Some(attachment) => {
            attachment?;
            Ok(Plugged::Now { device_asked_at })
        }
        None => Err(unconfirmed("the interface is not in the domain after its attachment").into()),
    }
}

/// Asks the guest to let go of the NIC.
pub(crate) fn unplug(connect: &Connect, vm: &VmId, nic: &NicId) -> Result<Unplugging, Failure> {
    let domain = Domain::lookup_by_name(connect, vm.as_str())?;
    if !is_attached(&domain, nic)? {
        return Ok(Unplugging::Gone);
    }
    match ffi::detach_by_alias(&domain, &nic.device_id()) {
        Ok(()) => Ok(Unplugging::Asked),
        Err(error) if trouble::is_unplug_in_progress(&error) => Ok(Unplugging::Pending),
        // The guest may have let go, or the VM stopped, between the two calls.
        Err(_) if !is_attached(&domain, nic)? => Ok(Unplugging::Gone),
        Err(error) => Err(error.into()),
    }
}

/// Shows the guest a carrier or none.
pub(crate) fn set_link(
    connect: &Connect,
    vm: &VmId,
    nic: &NicId,
    carrier: Carrier,
) -> Result<(), Failure> {
    let domain = Domain::lookup_by_name(connect, vm.as_str())?;
    let before = attached_interface(&domain, nic)?;
    if interface_xml::carrier(&before) == carrier {
        return Ok(());
    }
    let wanted = interface_xml::with_carrier(&before, carrier).write();
    domain.update_device_flags(&wanted, sys::VIR_DOMAIN_AFFECT_LIVE)?;
    if interface_xml::carrier(&attached_interface(&domain, nic)?) == carrier {
        Ok(())
    } else {
        Err(unconfirmed("the carrier is unchanged after its update").into())
    }
}

/// `None` when nothing of the NIC is there; an error when it is there in another way.
fn attachment(hardware: &VmHardware, request: &PlugRequest) -> Option<Result<(), Trouble>> {
    let plugged = hardware.nic(&request.nic)?;
    if plugged.slot.as_ref() != Some(&request.slot) {
        return Some(Err(refused("the NIC is plugged into another slot already")));
    }
    if plugged.mac != Some(request.mac) {
        return Some(Err(refused("the NIC is plugged with another MAC already")));
    }
    Some(Ok(()))
}

fn free_bus(hardware: &VmHardware, request: &PlugRequest) -> Result<u8, Trouble> {
    if !request.tap.queues.is_empty() {
        return Err(refused(
            "libvirt opens the tap by its name, not by descriptors",
        ));
    }
    let slot = hardware
        .slots
        .iter()
        .find(|slot| slot.id == request.slot)
        .ok_or_else(|| refused("the VM has no such hot-plug slot"))?;
    match &slot.occupant {
        SlotOccupant::Empty => {}
        SlotOccupant::Nic(nic) => return Err(refused(&format!("{nic} sits in the slot"))),
        SlotOccupant::Foreign(_) => return Err(refused("another device sits in the slot")),
    }
    hardware::slot_bus(&slot.id).ok_or_else(|| refused("the slot has no bus number"))
}

fn running_hardware(domain: &Domain) -> Result<VmHardware, Failure> {
    let xml = live_xml(domain)?;
    let power = power(domain, &xml)?;
    match power {
        PowerState::Off => Err(Trouble::NotRunning.into()),
        PowerState::Running | PowerState::Paused | PowerState::Migrating => {
            Ok(hardware::read(&xml, power, None))
        }
    }
}

fn is_attached(domain: &Domain, nic: &NicId) -> Result<bool, Failure> {
    let xml = live_xml(domain)?;
    Ok(xml.attribute("id").is_some() && hardware::interface(&xml, nic).is_some())
}

fn attached_interface(domain: &Domain, nic: &NicId) -> Result<Element, Failure> {
    let xml = live_xml(domain)?;
    if xml.attribute("id").is_none() {
        return Err(Trouble::NotRunning.into());
    }
    hardware::interface(&xml, nic)
        .cloned()
        .ok_or_else(|| refused("the NIC is not plugged").into())
}

fn live_xml(domain: &Domain) -> Result<Element, Failure> {
    let text = domain.get_xml_desc(0)?;
    xml::parse(&text).map_err(|error| {
        Trouble::Protocol {
            message: format!("the domain's XML: {error}"),
        }
        .into()
    })
}

/// Only a domain with QEMU behind it has an id. A running migration does not show here: asking for
/// it waits behind whatever job holds the VM (`qemuDomainGetJobStats`), so that one VM's trouble
/// would hang every look at it; a plug that meets one says [`Trouble::Migrating`].
fn power(domain: &Domain, xml: &Element) -> Result<PowerState, Failure> {
    if xml.attribute("id").is_none() {
        return Ok(PowerState::Off);
    }
    let (state, reason) = domain.get_state()?;
    let reason = sys::virDomainPausedReason::try_from(reason).unwrap_or_default();
    Ok(match (state, reason) {
        (sys::VIR_DOMAIN_SHUTOFF, _) => PowerState::Off,
        (sys::VIR_DOMAIN_PAUSED, sys::VIR_DOMAIN_PAUSED_MIGRATION) => PowerState::Migrating,
        (sys::VIR_DOMAIN_PAUSED | sys::VIR_DOMAIN_PMSUSPENDED | sys::VIR_DOMAIN_CRASHED, _) => {
            PowerState::Paused
        }
        _ => PowerState::Running,
    })
}

/// The host's boot, the domain's id and a mark of our own together name one life of a VM.
///
/// The id alone does not: libvirtd counts on from the highest id *in use* when it starts
/// (`qemuDomainFindMaxID` in src/qemu/qemu_driver.c; seen with 9.0: stop the VM, restart libvirtd,
/// start the VM, and the id is the same). The mark lives in the running domain's metadata, so it
/// survives libvirtd and ends with QEMU. The mark alone does not either: a domain restored from a
/// file brings its metadata along.
fn run_id(domain: &Domain, xml: &Element, id: &str) -> Result<VmRunId, Failure> {
    let mark = match mark(xml) {
        Some(mark) => mark.to_owned(),
        None => make_mark(domain)?,
    };
    let boot = read_kernel_uuid("boot_id")?;
    Ok(VmRunId(format!("{boot}/{id}/{mark}")))
}

fn mark(xml: &Element) -> Option<&str> {
    xml.child("metadata")?.child_attribute(RUN_ELEMENT, "id")
}

/// Read back, since another process may have been first.
fn make_mark(domain: &Domain) -> Result<String, Failure> {
    let element = Element::new("run").with("id", read_kernel_uuid("uuid")?);
    let kind = i32::try_from(sys::VIR_DOMAIN_METADATA_ELEMENT).expect("the kind is 2");
    domain.set_metadata(
        kind,
        Some(&element.write()),
        Some(RUN_PREFIX),
        Some(RUN_NAMESPACE),
        sys::VIR_DOMAIN_AFFECT_LIVE,
    )?;
    mark(&live_xml(domain)?)
        .map(str::to_owned)
        .ok_or_else(|| unconfirmed("the run's mark is not in the domain's metadata").into())
}

/// `boot_id` is made at boot, `uuid` at every read (Documentation/admin-guide/sysctl/kernel.rst).
fn read_kernel_uuid(name: &str) -> Result<String, Trouble> {
    fs::read_to_string(format!("/proc/sys/kernel/random/{name}"))
        .map(|uuid| uuid.trim().to_owned())
        .map_err(|error| Trouble::Protocol {
            message: format!("the kernel's {name} cannot be read: {error}"),
        })
}

fn refused(message: &str) -> Trouble {
    Trouble::Refused {
        message: message.to_owned(),
    }
}

fn unconfirmed(message: &str) -> Trouble {
    Trouble::Protocol {
        message: message.to_owned(),
    }
}
