//! A domain's XML read as [`VmHardware`].
//!
//! ```text
//!   <controller type='pci' index='3' model='pcie-root-port'>    slot "0x03": the port's own bus
//!     <address bus='0x00' slot='0x01' function='0x2'/>          PCI path 01.2/00.0
//!   <interface> <alias name='ua-nic-…'/> <address bus='0x03'/>  one of ours, in slot "0x03"
//! ```
//!
//! libvirt numbers a controller's bus by the controller's index and writes it as the `bus` of
//! every device behind it. The guest numbers buses for itself, hence the path.

use std::path::PathBuf;

use nic_model::{
    Backend, HotplugMode, NicId, PciPath, PciSlot, PluggedNic, PowerState, Slot, SlotId,
    SlotOccupant, VmHardware, VmRunId,
};

use crate::xml::Element;

/// Name of the virtio-serial port on which the agent in the guest listens.
pub const AGENT_CHANNEL: &str = "org.nicferry.agent.0";

/// The hardware that a `<domain>` describes.
pub(crate) fn read(domain: &Element, power: PowerState, run: Option<VmRunId>) -> VmHardware {
    let none = Element::new("devices");
    let devices = domain.child("devices").unwrap_or(&none);
    let nics = match power {
        PowerState::Off => Vec::new(),
        PowerState::Running | PowerState::Paused | PowerState::Migrating => plugged_nics(devices),
    };
    VmHardware {
        power,
        run,
        hotplug: hotplug_mode(domain),
        slots: slots(devices),
        nics,
        channel: agent_channel(devices),
    }
}

/// The `<interface>` of one of our NICs.
pub(crate) fn interface<'a>(domain: &'a Element, nic: &NicId) -> Option<&'a Element> {
    domain
        .child("devices")?
        .all("interface")
        .find(|interface| owner(interface).as_ref() == Some(nic))
}

/// Name of the slot behind the root port that has this index.
pub(crate) fn slot_id(bus: u8) -> SlotId {
    SlotId(format!("0x{bus:02x}"))
}

/// The index of the root port whose slot has this name.
pub(crate) fn slot_bus(slot: &SlotId) -> Option<u8> {
    hexadecimal(&slot.0)
}

fn owner(device: &Element) -> Option<NicId> {
    NicId::from_device_id(device.child_attribute("alias", "name")?)
}

fn plugged_nics(devices: &Element) -> Vec<PluggedNic> {
    devices
        .all("interface")
        .filter_map(|interface| {
            Some(PluggedNic {
                nic: owner(interface)?,
                slot: Address::of(interface).map(|address| slot_id(address.bus)),
                mac: interface
                    .child_attribute("mac", "address")
                    .and_then(|mac| mac.parse().ok()),
                // libvirt makes and removes QEMU's netdev together with the device: while the
                // interface is in the live XML, so is the netdev (qemuDomainRemoveNetDevice).
                backend: Backend::Present,
            })
        })
        .collect()
}

fn slots(devices: &Element) -> Vec<Slot> {
    let controllers: Vec<Controller> = devices
        .all("controller")
        .filter_map(Controller::of)
        .collect();
    let mut slots: Vec<(u8, Slot)> = controllers
        .iter()
        .filter(|controller| controller.takes_hotplug())
        .filter_map(|port| {
            let slot = Slot {
                id: slot_id(port.index),
                path: path_behind(port, &controllers)?,
                occupant: occupant(devices, port.index),
            };
            Some((port.index, slot))
        })
        .collect();
    slots.sort_by_key(|(bus, _)| *bus);
    slots.dedup_by_key(|(bus, _)| *bus);
    slots.into_iter().map(|(_, slot)| slot).collect()
}

fn occupant(devices: &Element, bus: u8) -> SlotOccupant {
    let sits_there =
        |device: &&Element| Address::of(device).is_some_and(|address| address.bus == bus);
    let Some(device) = devices.children().iter().find(sits_there) else {
        return SlotOccupant::Empty;
    };
    match owner(device) {
        Some(nic) if device.name() == "interface" => SlotOccupant::Nic(nic),
        _ => SlotOccupant::Foreign(device.child_attribute("alias", "name").map(str::to_owned)),
    }
}

/// The way to device 0 behind `port`; `None` when it does not start at the machine's first root
/// bus, where alone the guest's path is known.
fn path_behind(port: &Controller, controllers: &[Controller]) -> Option<PciPath> {
    let mut backwards = vec![PciSlot::new(0, 0).expect("zero is a device and a function")];
    let mut address = port.address?;
    loop {
        backwards.push(PciSlot::new(address.device, address.function).ok()?);
        if address.bus == 0 {
            break;
        }
        if backwards.len() == PciPath::MAX_DEPTH {
            return None;
        }
        let bridge = controllers
            .iter()
            .find(|other| other.index == address.bus)?;
        if bridge.is_root_bus() {
            return None;
        }
        address = bridge.address?;
    }
    backwards.reverse();
    PciPath::new(backwards).ok()
}

/// A `<controller type='pci'>`.
struct Controller<'a> {
    index: u8,
    model: &'a str,
    hotplug: Option<&'a str>,
    address: Option<Address>,
}

impl<'a> Controller<'a> {
    fn of(element: &'a Element) -> Option<Self> {
        if element.attribute("type") != Some("pci") {
            return None;
        }
        Some(Self {
            index: element.attribute("index")?.parse().ok()?,
            model: element.attribute("model")?,
            hotplug: element.child_attribute("target", "hotplug"),
            address: Address::of(element),
        })
    }

    fn takes_hotplug(&self) -> bool {
        self.model == "pcie-root-port" && self.hotplug != Some("off")
    }

    /// Expander buses are root buses of their own in the guest.
    fn is_root_bus(&self) -> bool {
        self.model.ends_with("-expander-bus")
    }
}

/// Where a device sits, by libvirt's numbers.
#[derive(Clone, Copy)]
struct Address {
    bus: u8,
    device: u8,
    function: u8,
}

impl Address {
    /// The direct child only: `<source><address/></source>` is the host's device.
    fn of(device: &Element) -> Option<Self> {
        let address = device
            .all("address")
            .find(|address| address.attribute("type") == Some("pci"))?;
        let number = |name| hexadecimal(address.attribute(name)?);
        if address.attribute("domain").and_then(hexadecimal) != Some(0) {
            return None;
        }
        Some(Self {
            bus: number("bus")?,
            device: number("slot")?,
            function: number("function")?,
        })
    }
}

fn hexadecimal(text: &str) -> Option<u8> {
    u8::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// ACPI is the default of q35 machines since QEMU 6.1 (commit 17858a1695), wherever the guest has
/// ACPI at all. libvirt 9.0 has no element for the choice: the pass-through arguments are the one
/// way to make it (`<features><pci><acpi-bridge-hotplug>` was proposed and not merged).
fn hotplug_mode(domain: &Element) -> HotplugMode {
    let machine = domain
        .child("os")
        .and_then(|os| os.child_attribute("type", "machine"))
        .unwrap_or_default();
    let has_acpi = domain
        .child("features")
        .is_some_and(|features| features.child("acpi").is_some());
    if has_acpi && is_q35_with_acpi_hotplug(machine) && !acpi_hotplug_is_switched_off(domain) {
        HotplugMode::Acpi
    } else {
        HotplugMode::Native
    }
}

fn is_q35_with_acpi_hotplug(machine: &str) -> bool {
    let Some(version) = machine.strip_prefix("pc-q35-") else {
        return machine == "q35";
    };
    let mut numbers = version.split('.').map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (6, 1),
        // A distribution's own numbering, as in `pc-q35-rhel9.0.0`: those with a QEMU before 6.1
        // are out of support.
        _ => true,
    }
}

fn acpi_hotplug_is_switched_off(domain: &Element) -> bool {
    domain.child("qemu:commandline").is_some_and(|arguments| {
        arguments.children().iter().any(|argument| {
            argument
                .attribute("value")
                .is_some_and(|value| value.ends_with("acpi-pci-hotplug-with-bridge-support=off"))
        })
    })
}

fn agent_channel(devices: &Element) -> Option<PathBuf> {
    devices
        .all("channel")
        .filter(|channel| channel.attribute("type") == Some("unix"))
        .find(|channel| channel.child_attribute("target", "name") == Some(AGENT_CHANNEL))
        .and_then(|channel| channel.child_attribute("source", "path"))
        .map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xml;

    /// Written by libvirt 9.0 with QEMU 7.2, as are the other fixtures.
    const PLUGGED: &str = include_str!("../tests/fixtures/plugged-acpi.xml");
    const OFF: &str = include_str!("../tests/fixtures/off.xml");
    const TOPOLOGY: &str = include_str!("../tests/fixtures/topology-native.xml");

    fn hardware(text: &str, power: PowerState) -> VmHardware {
        read(&xml::parse(text).unwrap(), power, None)
    }

    fn nic() -> NicId {
        "nic-abc0123xyz".parse().unwrap()
    }

    fn foreign(alias: &str) -> SlotOccupant {
        SlotOccupant::Foreign(Some(alias.to_owned()))
    }

    #[test]
    fn slots_are_the_root_ports_that_take_hotplug_in_bus_order() {
        let hardware = hardware(TOPOLOGY, PowerState::Running);

        let slots: Vec<(&str, String, SlotOccupant)> = hardware
            .slots
            .iter()
            .map(|slot| {
                (
                    slot.id.0.as_str(),
                    slot.path.to_string(),
                    slot.occupant.clone(),
                )
            })
            .collect();

        assert_eq!(
            slots[..4],
            [
                ("0x01", "01.0/00.0".to_owned(), foreign("virtio-serial0")),
                ("0x02", "01.1/00.0".to_owned(), foreign("net0")),
                ("0x03", "01.2/00.0".to_owned(), SlotOccupant::Nic(nic())),
                ("0x04", "01.3/00.0".to_owned(), foreign("pci.6")),
            ]
        );
        // Port 5 takes no hot-plug, 6 and 7 are other bridges, 8 is behind an expander bus; 9 to 15
        // are libvirt's own, which fills gaps in the numbers.
        assert_eq!(
            slots[4],
            ("0x09", "01.6/00.0".to_owned(), SlotOccupant::Empty)
        );
        assert_eq!(
            slots.last(),
            Some(&("0x10", "01.5/00.0".to_owned(), SlotOccupant::Empty))
        );
    }

    #[test]
    fn our_nic_is_found_by_its_alias_and_nobody_elses() {
        let hardware = hardware(TOPOLOGY, PowerState::Running);

        assert_eq!(
            hardware.nics,
            [PluggedNic {
                nic: nic(),
                slot: Some(SlotId("0x03".to_owned())),
                mac: Some("5a:01:02:03:04:05".parse().unwrap()),
                backend: Backend::Present,
            }]
        );
    }

    #[test]
    fn the_agents_channel_is_told_from_other_channels() {
        let hardware = hardware(TOPOLOGY, PowerState::Running);

        assert_eq!(hardware.channel, Some("/run/agents/topology.sock".into()));
    }

    #[test]
    fn hotplug_is_native_only_where_acpi_is_switched_off_or_older_than_it() {
        let mode = |text: &str| hardware(text, PowerState::Running).hotplug;

        assert_eq!(mode(PLUGGED), HotplugMode::Acpi);
        assert_eq!(mode(TOPOLOGY), HotplugMode::Native);
        assert_eq!(mode(&PLUGGED.replace("<acpi/>", "")), HotplugMode::Native);
        assert_eq!(
            mode(&PLUGGED.replace("q35-7.2", "q35-6.0")),
            HotplugMode::Native
        );
        assert_eq!(
            mode(&PLUGGED.replace("q35-7.2", "q35-10.1")),
            HotplugMode::Acpi
        );
        assert_eq!(
            mode(&PLUGGED.replace("q35-7.2", "q35-rhel9.0.0")),
            HotplugMode::Acpi
        );
        assert_eq!(
            mode(&PLUGGED.replace("pc-q35-7.2", "virt-7.2")),
            HotplugMode::Native
        );
    }

    #[test]
    fn a_vm_that_is_off_has_slots_and_no_nics() {
        let hardware = hardware(OFF, PowerState::Off);

        assert_eq!(hardware.slots.len(), 4);
        assert!(hardware.nics.is_empty());
        assert_eq!(hardware.run, None);
    }

    #[test]
    fn a_nic_that_only_the_stored_definition_has_is_not_plugged() {
        let hardware = hardware(PLUGGED, PowerState::Off);

        assert!(hardware.nics.is_empty());
    }

    #[test]
    fn numbers_out_of_range_and_missing_parts_leave_a_port_out() {
        for (from, to) in [
            ("index='3'", "index='300'"),
            ("slot='0x01' function='0x2'", "slot='0x21' function='0x2'"),
            ("slot='0x01' function='0x2'", "slot='0x01' function='0x9'"),
            ("slot='0x01' function='0x2'", "slot='1' function='0x2'"),
            ("slot='0x01' function='0x2'", ""),
        ] {
            let changed = PLUGGED.replace(from, to);
            assert_ne!(changed, PLUGGED, "{from}");

            let slots = hardware(&changed, PowerState::Running).slots;

            assert!(slots.iter().all(|slot| slot.id.0 != "0x03"), "{to}");
        }
    }

    #[test]
    fn bridges_in_a_circle_end() {
        let circle = "<domain><devices>\
            <controller type='pci' index='1' model='pcie-root-port'>\
            <address type='pci' domain='0x0000' bus='0x02' slot='0x00' function='0x0'/>\
            </controller>\
            <controller type='pci' index='2' model='pcie-switch-downstream-port'>\
            <address type='pci' domain='0x0000' bus='0x02' slot='0x00' function='0x0'/>\
            </controller></devices></domain>";

        assert!(hardware(circle, PowerState::Running).slots.is_empty());
    }

    #[test]
    fn an_empty_domain_is_no_hardware() {
        let hardware = hardware("<domain/>", PowerState::Running);

        assert!(hardware.slots.is_empty() && hardware.channel.is_none());
    }

    proptest::proptest! {
        #[test]
        fn no_damage_to_a_domain_makes_the_reader_panic(
            at in 0..TOPOLOGY.len(),
            removed in 0..40_usize,
            inserted in "[a-z0-9<>/='\"& x-]{0,12}",
        ) {
            let mut damaged = TOPOLOGY.to_owned();
            let end = (at + removed).min(damaged.len());
            damaged.replace_range(at..end, &inserted);

            if let Ok(domain) = xml::parse(&damaged) {
                let hardware = read(&domain, PowerState::Running, None);
                proptest::prop_assert!(hardware.slots.len() <= usize::from(u8::MAX));
            }
        }
    }
}
