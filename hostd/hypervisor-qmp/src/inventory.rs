//! From QEMU's devices to the slots and NICs of the VM: pure, so that topologies can be tested.
//!
//! A slot is what sits behind one PCI Express port that takes devices. Its path is the way to it
//! from the main root bus `pcie.0`; ports behind a `pxb-pcie` are left out, since a path without a
//! root bus in it could not tell them from the others.

use std::collections::{BTreeMap, BTreeSet};

use nic_model::{
    Backend, NicId, PciPath, PciSlot, PluggedNic, PowerState, Slot, SlotId, SlotOccupant,
};

use crate::qom::{Device, Devices, Hotplug, device_id, is_port};

/// Every place a NIC can be hot-plugged into, in bus order.
pub(crate) fn slots(devices: &Devices) -> Vec<Slot> {
    let occupants = occupants(devices);
    let mut slots: Vec<Slot> = devices
        .iter()
        .filter_map(|(path, device)| slot(devices, &occupants, path, device))
        .collect();
    slots.sort_by(|left, right| left.path.cmp(&right.path));
    slots
}

fn slot(
    devices: &Devices,
    occupants: &BTreeMap<&str, Vec<&str>>,
    path: &str,
    device: &Device,
) -> Option<Slot> {
    let bridge = device.bridge.as_ref()?;
    if !is_port(&device.kind) || bridge.hotplug == Hotplug::Off {
        return None;
    }
    let mut way = way_to(devices, path)?;
    way.push(PciSlot::new(0, 0).ok()?);
    Some(Slot {
        id: SlotId(device_id(path)?.to_owned()),
        path: PciPath::new(way).ok()?,
        occupant: occupant(occupants.get(path).map_or(&[], Vec::as_slice)),
    })
}

/// Paths of the devices behind each port.
fn occupants(devices: &Devices) -> BTreeMap<&str, Vec<&str>> {
    let mut occupants: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (path, device) in devices {
        if let Some((port, _)) = device.bus.as_deref().and_then(|bus| bus.rsplit_once('/')) {
            occupants.entry(port).or_default().push(path);
        }
    }
    occupants
}

fn occupant(paths: &[&str]) -> SlotOccupant {
    let ids = paths.iter().filter_map(|path| device_id(path));
    if let Some(nic) = ids.clone().find_map(NicId::from_device_id) {
        return SlotOccupant::Nic(nic);
    }
    match paths {
        [] => SlotOccupant::Empty,
        [..] => SlotOccupant::Foreign(ids.map(str::to_owned).next()),
    }
}

/// Slots from the root bus to the bridge at `path`, itself included.
fn way_to(devices: &Devices, path: &str) -> Option<Vec<PciSlot>> {
    let mut way = Vec::new();
    let mut next = path;
    // The bound ends a chain that bites its own tail, which only a broken answer can hold.
    for _ in 0..PciPath::MAX_DEPTH {
        let device = devices.get(next)?;
        way.push(device.bridge?.slot);
        let (parent, bus) = device.bus.as_deref()?.rsplit_once('/')?;
        if bus == "pcie.0" {
            way.reverse();
            return Some(way);
        }
        next = parent;
    }
    None
}

/// Our NICs: each one that has a device, a backend, or both.
pub(crate) fn nics(devices: &Devices, backends: &BTreeSet<NicId>) -> Vec<PluggedNic> {
    let backend = |nic: &NicId| match backends.contains(nic) {
        true => Backend::Present,
        false => Backend::Absent,
    };
    let mut nics: BTreeMap<NicId, PluggedNic> = BTreeMap::new();
    for nic in backends {
        nics.insert(nic.clone(), plugged(nic, None, backend(nic)));
    }
    for (path, device) in devices {
        if let Some(nic) = device_id(path).and_then(NicId::from_device_id) {
            nics.insert(nic.clone(), plugged(&nic, Some(device), backend(&nic)));
        }
    }
    nics.into_values().collect()
}

fn plugged(nic: &NicId, device: Option<&Device>, backend: Backend) -> PluggedNic {
    // A port's bus bears the port's id. A device somewhere else has a slot too, of that bus' name.
    let bus = |device: &Device| device.bus.as_deref()?.rsplit('/').next().map(str::to_owned);
    PluggedNic {
        nic: nic.clone(),
        slot: device.map(|device| SlotId(bus(device).unwrap_or_default())),
        mac: device.and_then(|device| device.mac),
        backend,
    }
}

/// What the virtual CPUs do, from QEMU's run state and the state of its last migration.
pub(crate) fn power(run_state: &str, migration_state: &str) -> PowerState {
    match (run_state, migration_state) {
        ("inmigrate" | "finish-migrate" | "postmigrate", _) => PowerState::Migrating,
        (_, "" | "none" | "completed" | "failed" | "cancelled") => idle_power(run_state),
        // Set up, active, cancelling and what later versions add: hot-plug is refused.
        _ => PowerState::Migrating,
    }
}

fn idle_power(run_state: &str) -> PowerState {
    match run_state {
        "running" => PowerState::Running,
        _ => PowerState::Paused,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::qom::Bridge;

    const NIC: &str = "ua-nic-aaaaaaaaaa";

    fn put(devices: &mut Devices, id: &str, kind: &str, bus: &str, bridge: Option<Bridge>) {
        let device = Device {
            kind: kind.into(),
            bus: Some(bus.into()),
            bridge,
            mac: None,
        };
        devices.insert(format!("/machine/peripheral/{id}"), Arc::new(device));
    }

    fn bridge(device: u8, hotplug: Hotplug) -> Option<Bridge> {
        let slot = PciSlot::new(device, 0).unwrap();
        Some(Bridge { slot, hotplug })
    }

    fn port(devices: &mut Devices, id: &str, device: u8, hotplug: Hotplug) {
        let bus = "/machine/q35/pcie.0";
        put(devices, id, "pcie-root-port", bus, bridge(device, hotplug));
    }

    fn described(devices: &Devices) -> Vec<String> {
        slots(devices)
            .iter()
            .map(|slot| format!("{} {} {:?}", slot.id, slot.path, slot.occupant))
            .collect()
    }

    #[test]
    fn slots_come_in_bus_order_with_their_occupants() {
        let mut devices = Devices::new();
        port(&mut devices, "a", 9, Hotplug::On);
        port(&mut devices, "b", 2, Hotplug::On);
        port(&mut devices, "c", 3, Hotplug::On);
        put(
            &mut devices,
            NIC,
            "virtio-net-pci",
            "/machine/peripheral/a/a",
            None,
        );
        put(
            &mut devices,
            "disk",
            "virtio-blk-pci",
            "/machine/peripheral/b/b",
            None,
        );

        assert_eq!(
            described(&devices),
            [
                "b 02.0/00.0 Foreign(Some(\"disk\"))",
                "c 03.0/00.0 Empty",
                "a 09.0/00.0 Nic(NicId(nic-aaaaaaaaaa))",
            ]
        );
    }

    #[test]
    fn ports_that_take_no_device_and_ports_of_other_root_buses_are_no_slots() {
        let mut devices = Devices::new();
        port(&mut devices, "fixed", 2, Hotplug::Off);
        let far = "/machine/unattached/device[25]/pxb";
        put(
            &mut devices,
            "far",
            "pcie-root-port",
            far,
            bridge(0, Hotplug::On),
        );

        assert_eq!(described(&devices), Vec::<String>::new());
    }

    #[test]
    fn the_way_to_a_downstream_port_leads_through_its_switch() {
        let mut devices = Devices::new();
        port(&mut devices, "rp", 5, Hotplug::On);
        let (root, switch) = ("/machine/peripheral/rp/rp", "/machine/peripheral/up/up");
        put(
            &mut devices,
            "up",
            "x3130-upstream",
            root,
            bridge(0, Hotplug::On),
        );
        put(
            &mut devices,
            "down",
            "xio3130-downstream",
            switch,
            bridge(1, Hotplug::On),
        );

        assert_eq!(
            described(&devices),
            [
                "rp 05.0/00.0 Foreign(Some(\"up\"))",
                "down 05.0/00.0/01.0/00.0 Empty"
            ]
        );
    }

    #[test]
    fn a_chain_of_buses_without_end_is_no_slot() {
        let mut devices = Devices::new();
        let own = "/machine/peripheral/loop/loop";
        put(
            &mut devices,
            "loop",
            "pcie-root-port",
            own,
            bridge(1, Hotplug::On),
        );

        assert_eq!(described(&devices), Vec::<String>::new());
    }

    #[test]
    fn a_nic_is_found_by_its_device_and_by_its_backend_alone() {
        let mut devices = Devices::new();
        put(
            &mut devices,
            NIC,
            "virtio-net-pci",
            "/machine/peripheral/a/a",
            None,
        );
        let backends = BTreeSet::from(["nic-bbbbbbbbbb".parse().unwrap()]);

        let found: Vec<_> = nics(&devices, &backends)
            .into_iter()
            .map(|nic| (nic.nic.to_string(), nic.slot, nic.backend))
            .collect();

        let slot = Some(SlotId("a".into()));
        assert_eq!(
            found,
            [
                ("nic-aaaaaaaaaa".into(), slot, Backend::Absent),
                ("nic-bbbbbbbbbb".into(), None, Backend::Present),
            ]
        );
    }

    #[test]
    fn a_vm_that_is_being_migrated_is_not_called_running() {
        let cases = [
            ("running", "", PowerState::Running),
            ("running", "completed", PowerState::Running),
            ("running", "active", PowerState::Migrating),
            ("running", "wait-unplug", PowerState::Migrating),
            ("inmigrate", "", PowerState::Migrating),
            ("paused", "", PowerState::Paused),
            ("prelaunch", "none", PowerState::Paused),
            ("guest-panicked", "", PowerState::Paused),
        ];
        for (run, migration, expected) in cases {
            assert_eq!(power(run, migration), expected, "{run} {migration}");
        }
    }
}
