//! A small site for tests: one network, one class of VM with room for eight NICs, and VMs with
//! twice as many empty slots, so that it is the class that runs out first.

use nic_lifecycle::{Network, Site, VmClass};
use nic_model::{HotplugMode, Mtu, PowerState, RateLimits, Slot, SlotId, SlotOccupant, VmHardware};

/// The network `blue` and the class `standard`, which every VM has.
pub(crate) fn site() -> Site {
    let class = VmClass {
        name: "standard".parse().unwrap(),
        max_nics: 8,
        max_addresses_per_nic: 4,
        max_queues: 1,
        rates: RateLimits::default(),
    };
    let network = Network {
        name: "blue".parse().unwrap(),
        subnets: vec!["10.77.0.0/16".parse().unwrap()],
        mtu: Mtu::ETHERNET,
    };
    Site {
        networks: [(network.name.clone(), network)].into(),
        classes: [(class.name.clone(), class.clone())].into(),
        default_class: Some(class.name),
        ..Site::default()
    }
}

/// A running VM with sixteen empty slots.
pub(crate) fn hardware() -> VmHardware {
    let slot = |number: u8| Slot {
        id: SlotId(format!("rp{number}")),
        path: format!("{number:02x}.0/00.0").parse().unwrap(),
        occupant: SlotOccupant::Empty,
    };
    VmHardware {
        power: PowerState::Running,
        run: None,
        hotplug: HotplugMode::Acpi,
        slots: (0..16).map(slot).collect(),
        nics: Vec::new(),
        channel: None,
    }
}
