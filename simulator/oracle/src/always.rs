//! What holds at every moment, also amid a crash: resources have one owner each, limits are kept,
//! and nothing passes frames that should not.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use host_api::{Limit, LimitScope, Nic, NicState, Placement};
use nic_model::{NicId, TenantId, VmId};

use crate::Violation;
use crate::view::{Filters, Reachability, SystemView, VmView};

pub(crate) fn violations(view: &SystemView) -> Vec<Violation> {
    [
        shared_resources(view),
        exceeded_limits(view),
        objects_without_record(view),
        devices_out_of_place(view),
        open_ports(view),
    ]
    .concat()
}

/// MAC addresses are one to a NIC, addresses one to a NIC of a network, slots one to a NIC of a VM.
fn shared_resources(view: &SystemView) -> Vec<Violation> {
    let macs = view.nics.values().map(|nic| (nic.mac.to_string(), nic));
    let addresses = view.nics.values().flat_map(|nic| {
        let addresses = nic.addressing.addresses().iter();
        addresses.map(move |address| (format!("{} on {}", address.addr(), nic.network), nic))
    });
    let slots = view
        .places()
        .map(|(nic, place)| (format!("slot {} of {}", place.slot, place.vm), nic));
    held_twice(macs.chain(addresses).chain(slots))
}

fn held_twice<'a>(held: impl Iterator<Item = (String, &'a Nic)>) -> Vec<Violation> {
    let mut owners: BTreeMap<String, &NicId> = BTreeMap::new();
    let mut found = Vec::new();
    for (what, nic) in held {
        match owners.insert(what.clone(), &nic.id) {
            Some(other) if *other != nic.id => {
                found.push(format!("{other} and {} both hold {what}", nic.id));
            }
            Some(_) | None => {}
        }
    }
    found
}

/// What hostd says of a usage is at stake as much as the limit: it is counted here once more.
fn exceeded_limits(view: &SystemView) -> Vec<Violation> {
    let places = view.places_by_vm();
    let exceeded = view.limits.iter().filter_map(|limit| {
        let value = limit.value?;
        let usage = counted(view, &places, limit)
            .unwrap_or_default()
            .max(limit.usage);
        let (scope, name) = (&limit.scope, &limit.name);
        (usage > value).then(|| format!("{scope}: usage of {name} is {usage}, its limit {value}"))
    });
    exceeded.collect()
}

/// How much of what a limit bounds there is; `None` for what records do not tell of.
fn counted(
    view: &SystemView,
    places: &BTreeMap<&VmId, Vec<(&Nic, &Placement)>>,
    limit: &Limit,
) -> Option<u64> {
    let count = match (&limit.scope, limit.name.as_str()) {
        (LimitScope::Host, "max_nics_per_host") => view.nics.len(),
        (LimitScope::Tenant { tenant }, "max_nics_per_tenant") => nics_of(view, tenant).count(),
        (LimitScope::Tenant { tenant }, "max_addresses_per_tenant") => nics_of(view, tenant)
            .map(|nic| nic.addressing.addresses().len())
            .sum(),
        (LimitScope::Vm { vm }, "max_nics") => {
            let here = places.get(vm).into_iter().flatten();
            let nics: BTreeSet<&NicId> = here.map(|(nic, _)| &nic.id).collect();
            nics.len()
        }
        _ => return None,
    };
    u64::try_from(count).ok()
}

fn nics_of<'a>(view: &'a SystemView, tenant: &'a TenantId) -> impl Iterator<Item = &'a Nic> {
    view.nics.values().filter(move |nic| nic.tenant == *tenant)
}

/// The intent is written before the first side effect, and a record goes after the last object.
fn objects_without_record(view: &SystemView) -> Vec<Violation> {
    let unknown = |nic: &NicId| !view.nics.contains_key(nic);
    let ports = view.host.ports.keys().filter_map(|link| {
        let nic = NicId::from_link_name(link)?;
        unknown(&nic).then(|| format!("host: {link} has no owner"))
    });
    let plugged = view.vms.iter().flat_map(|(vm, state)| {
        let nics = state.plugged().into_iter().filter(unknown);
        nics.map(move |nic| format!("{vm}: QEMU has {nic}, which has no record"))
    });
    ports.chain(plugged).collect()
}

/// A NIC is in one VM at a time, where its record says, and is nowhere when it is available.
fn devices_out_of_place(view: &SystemView) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut seen_in: BTreeMap<NicId, &VmId> = BTreeMap::new();
    for (vm, state) in &view.vms {
        for id in state.plugged() {
            if let Some(nic) = view.nics.get(&id) {
                found.extend(out_of_place(nic, vm));
                found.extend(other_mac(nic, vm, state));
            }
            if let Some(other) = seen_in.insert(id.clone(), vm) {
                found.push(format!("{id} is plugged into {other} and into {vm}"));
            }
        }
    }
    found
}

fn out_of_place(nic: &Nic, vm: &VmId) -> Option<Violation> {
    let places = nic.placement.iter().chain(&nic.moving_to);
    let belongs = places.into_iter().any(|place| place.vm == *vm);
    let at = |what: &dyn Display| format!("{vm}: QEMU has {}, which {what}", nic.id);
    match nic.state {
        NicState::Available | NicState::Deleting => Some(at(&format!("is {}", nic.state))),
        NicState::Attaching | NicState::InUse | NicState::Detaching => {
            (!belongs).then(|| at(&"is placed elsewhere"))
        }
    }
}

fn other_mac(nic: &Nic, vm: &VmId, state: &VmView) -> Option<Violation> {
    let mac = state.devices.get(&nic.id.device_id())?.mac?;
    let (id, own) = (&nic.id, nic.mac);
    (mac != own).then(|| format!("{vm}: the device of {id} has {mac}, the record {own}"))
}

/// No frame passes before the filters are on, and none once a NIC is detached.
fn open_ports(view: &SystemView) -> Vec<Violation> {
    let open = view
        .host
        .ports
        .iter()
        .filter(|(_, port)| port.passes == Reachability::Open);
    let judged = open.flat_map(|(link, port)| {
        let bare = (port.filters == Some(Filters::Missing))
            .then(|| format!("host: {link} passes frames without its filters"));
        let nic = NicId::from_link_name(link).and_then(|nic| view.nics.get(&nic));
        let detached = nic
            .filter(|nic| nic.state == NicState::Available)
            .map(|nic| format!("host: {link} passes frames, {} is {}", nic.id, nic.state));
        [bare, detached]
    });
    judged.flatten().collect()
}
