//! A site with two VMs and one network, for the tests of this crate.

#![expect(clippy::unwrap_used, reason = "set-up that fails is a failed test")]

use nic_lifecycle::{
    HostQuota, Ledger, Network, NewNic, NicRecord, RequestedAddressing, RequestedPlacement, Site,
    VmClass,
};
use nic_model::{
    HotplugMode, MacAddr, Mtu, NicId, PowerState, RateLimits, Slot, SlotId, SlotOccupant,
    VmHardware, VmRunId,
};

/// A ledger with VMs `vm1` and `vm2`, each with `slots` empty slots and room for `max_nics`.
pub(crate) fn ledger(slots: u8, max_nics: u64, quota: HostQuota) -> Ledger {
    let class = VmClass {
        max_nics,
        ..class()
    };
    let subnets = ["10.77.0.0/16", "fd77::/64"];
    ledger_of(slots, class, &subnets, quota)
}

/// The class that all VMs are of.
pub(crate) fn class() -> VmClass {
    VmClass {
        name: "standard".parse().unwrap(),
        max_nics: 8,
        max_addresses_per_nic: 4,
        max_queues: 2,
        rates: RateLimits::default(),
    }
}

/// A ledger with VMs `vm1` and `vm2` of one class, and a network with some subnets.
pub(crate) fn ledger_of(slots: u8, class: VmClass, subnets: &[&str], quota: HostQuota) -> Ledger {
    let network = Network {
        name: "blue".parse().unwrap(),
        subnets: subnets.iter().map(|net| net.parse().unwrap()).collect(),
        mtu: Mtu::ETHERNET,
    };
    let mut ledger = Ledger::new(Site {
        networks: [(network.name.clone(), network)].into(),
        default_class: Some(class.name.clone()),
        classes: [(class.name.clone(), class)].into(),
        quota,
        ..Site::default()
    });
    for vm in ["vm1", "vm2"] {
        ledger.observe(&vm.parse().unwrap(), hardware(slots));
    }
    ledger
}

/// A running VM with empty slots `rp0`, `rp1`, ….
pub(crate) fn hardware(slots: u8) -> VmHardware {
    let slot = |number: u8| Slot {
        id: SlotId(format!("rp{number}")),
        path: format!("{:02x}.0/00.0", number + 2).parse().unwrap(),
        occupant: SlotOccupant::Empty,
    };
    VmHardware {
        power: PowerState::Running,
        run: Some(VmRunId("1".to_owned())),
        hotplug: HotplugMode::Acpi,
        slots: (0..slots).map(slot).collect(),
        nics: Vec::new(),
        channel: None,
    }
}

/// The NIC with a given number.
pub(crate) fn nic_id(number: u16) -> NicId {
    format!("nic-{number:010}").parse().unwrap()
}

/// A request for the NIC with a given number, everything left to be allocated.
pub(crate) fn new_nic(number: u16) -> NewNic {
    let [high, low] = number.to_be_bytes();
    NewNic {
        id: nic_id(number),
        tenant: "acme".parse().unwrap(),
        network: "blue".parse().unwrap(),
        mac: None,
        mac_candidates: vec![MacAddr::local([0, 0, 0, high, low])],
        addressing: RequestedAddressing::Allocate,
        mtu: None,
        routes: Vec::new(),
        limits: RateLimits::default(),
        queue_count: 1,
        now_ms: 0,
    }
}

/// A place in a VM, in a target of its own for each number.
pub(crate) fn place(vm: &str, number: u16) -> RequestedPlacement {
    RequestedPlacement {
        vm: vm.parse().unwrap(),
        target: format!("netns:c{number}").parse().unwrap(),
        link_name: "eth0".parse().unwrap(),
        boot_id: None,
    }
}

/// Creates and stores the NIC with a given number.
pub(crate) fn create(ledger: &mut Ledger, number: u16) -> NicRecord {
    let record = ledger.admit_create(new_nic(number)).unwrap();
    ledger.put(record.clone());
    record
}
