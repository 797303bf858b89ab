//! What holds when nothing is under way: nothing is left over, and every NIC is where it is said to
//! be or says what stands in its way.

use std::collections::BTreeSet;

use host_api::{Nic, NicState, Placement};
use nic_model::{NicId, PciPath, PowerState, Target};

use crate::Violation;
use crate::records;
use crate::view::{GuestView, Holder, Place, Reachability, Sight, SystemView, VmView};

/// Prefix of the agent's own named namespaces in the guest.
const AGENT_NETNS_PREFIX: &str = "nicferry";

pub(crate) fn violations(view: &SystemView) -> Vec<Violation> {
    let mut found = [silent_waits(view), ports(view)].concat();
    let places = view.places_by_vm();
    for (vm, state) in &view.vms {
        let at = |violation: Violation| format!("{vm}: {violation}");
        let placed = places.get(vm).map_or(&[][..], Vec::as_slice);
        found.extend(in_vm(view, placed, state).into_iter().map(at));
    }
    if let Some(journal) = &view.journal {
        found.extend(records::violations(&view.nics, &view.limits, journal));
    }
    found
}

/// Whatever is not done says why.
fn silent_waits(view: &SystemView) -> Vec<Violation> {
    let waiting = view.nics.values().filter(|nic| !nic.state.is_settled());
    waiting
        .filter(|nic| nic.blocked.is_none() && nic.step.is_none())
        .map(|nic| format!("{} is {} and says nothing of it", nic.id, nic.state))
        .collect()
}

fn ports(view: &SystemView) -> Vec<Violation> {
    let mut found = view.host.disturbed.clone();
    for (link, port) in &view.host.ports {
        let owner = NicId::from_link_name(link).and_then(|nic| view.nics.get(&nic));
        if let Some(nic) = owner.filter(|nic| nic.placement.is_none()) {
            found.push(format!("host: {link} is there, {} is nowhere", nic.id));
        }
        if NicId::from_link_name(link).is_none() {
            let bridge = &port.bridge;
            found.push(format!("host: {link} (in {bridge:?}) has no owner"));
        }
    }
    let whole = view
        .in_use()
        .filter(|(nic, place)| is_whole(view, nic, place));
    for (nic, _) in whole {
        let id = &nic.id;
        let port = view.host.ports.get(&id.tap_name());
        if port.is_none_or(|port| port.passes == Reachability::Closed) {
            found.push(format!(
                "host: {id} is in use without a port in its network"
            ));
        }
        if port.is_some_and(|port| port.holder == Some(Holder::Nobody)) {
            found.push(format!("host: {id} is in use and no QEMU holds its port"));
        }
    }
    found
}

/// Whether a NIC in use is to be found in every place: its VM runs and it is not degraded.
fn is_whole(view: &SystemView, nic: &Nic, place: &Placement) -> bool {
    let vm = view.vms.get(&place.vm);
    nic.degraded.is_none() && vm.is_none_or(|vm| vm.power == PowerState::Running)
}

fn in_vm(view: &SystemView, placed: &[(&Nic, &Placement)], state: &VmView) -> Vec<Violation> {
    let mut found = in_qemu(view, placed, state);
    if let Some(guest) = &state.guest {
        found.extend(in_guest(view, placed, guest));
    }
    found
}

fn in_qemu(view: &SystemView, placed: &[(&Nic, &Placement)], state: &VmView) -> Vec<Violation> {
    let owned = |nic: Option<NicId>| nic.is_some_and(|nic| placed.iter().any(|at| at.0.id == nic));
    let mut found = Vec::new();
    for device in state.devices.keys() {
        if !owned(NicId::from_device_id(device)) {
            found.push(format!("the device {device} has no owner"));
        }
    }
    for netdev in &state.netdevs {
        if !owned(NicId::from_netdev_id(netdev)) {
            found.push(format!("the backend {netdev} has no owner"));
        }
    }
    let in_use = placed
        .iter()
        .filter(|(nic, place)| nic.state == NicState::InUse && is_whole(view, nic, place));
    for (nic, place) in in_use {
        let device = state.devices.get(&nic.id.device_id());
        match device {
            None => found.push(format!("{} is in use, but QEMU does not have it", nic.id)),
            Some(device) => found.extend(elsewhere(nic, place, device.slot.as_deref())),
        }
        if !state.netdevs.contains(&nic.id.netdev_id()) {
            found.push(format!("{} is in use without a backend", nic.id));
        }
    }
    found
}

fn elsewhere(nic: &Nic, place: &Placement, slot: Option<&str>) -> Option<Violation> {
    let slot = slot.filter(|slot| *slot != place.slot.0)?;
    let (id, reserved) = (&nic.id, &place.slot);
    Some(format!("{id} sits in slot {slot}, reserved is {reserved}"))
}

fn in_guest(view: &SystemView, placed: &[(&Nic, &Placement)], guest: &GuestView) -> Vec<Violation> {
    let paths: BTreeSet<&PciPath> = placed.iter().map(|(_, place)| &place.pci_path).collect();
    let mut found = Vec::new();
    for device in guest.devices.iter().flatten() {
        if !paths.contains(device) {
            found.push(format!("the guest's device {device} has no owner"));
        }
    }
    for link in &guest.links {
        if link.place == Place::Own {
            let name = &link.name;
            found.push(format!("the link {name} is in the guest's own namespace"));
        }
    }
    for name in guest.named.iter().filter(|name| is_the_agents(name)) {
        let held = || {
            guest
                .links
                .iter()
                .filter(|link| in_named(&link.place, name))
        };
        if placed.is_empty() && held().next().is_some() {
            let links: Vec<_> = held().map(|link| &link.name).collect();
            found.push(format!("links nobody owns in {name}: {links:?}"));
        }
    }
    let in_use = placed
        .iter()
        .filter(|(nic, place)| nic.state == NicState::InUse && is_whole(view, nic, place));
    found.extend(in_use.filter_map(|(nic, place)| unbound(nic, place, guest)));
    found
}

/// A NIC in use is a link of its name and address, in the namespace that its target names.
fn unbound(nic: &Nic, place: &Placement, guest: &GuestView) -> Option<Violation> {
    let home = home_of(&place.target, guest);
    let is_it = |link: &crate::GuestLink| {
        link.mac == Some(nic.mac)
            && link.name == place.link_name.to_string()
            && home.as_ref() == Some(&link.place)
    };
    let is_missing = guest.sight == Sight::Whole && !guest.links.iter().any(is_it);
    is_missing.then(|| format!("{} is in use, but not in its target", nic.id))
}

/// The namespace that a target names; `None` when its process is no more.
fn home_of(target: &Target, guest: &GuestView) -> Option<Place> {
    match target {
        Target::Pid { pid, .. } => guest.processes.get(pid).cloned(),
        Target::Netns { name } => Some(Place::Named(name.to_string())),
    }
}

fn is_the_agents(name: &str) -> bool {
    name.starts_with(AGENT_NETNS_PREFIX)
}

fn in_named(place: &Place, name: &str) -> bool {
    matches!(place, Place::Named(held) if held == name)
}
