//! The devices of one machine, and the slots they sit in.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::hardware_address::HardwareAddress;
use crate::catalogue::{Driver, catalogue};
use crate::profile::Expiry;

/// What a device is called within its machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum DeviceKey {
    /// By the id it was given.
    Named(String),
    /// By its number, without one.
    Anonymous(u32),
}

impl DeviceKey {
    pub(super) fn id(&self) -> Option<&str> {
        match self {
            Self::Named(id) => Some(id),
            Self::Anonymous(_) => None,
        }
    }

    /// Path in the object model.
    pub(super) fn path(&self) -> String {
        match self {
            Self::Named(id) => format!("/machine/peripheral/{id}"),
            Self::Anonymous(number) => format!("/machine/peripheral-anon/device[{number}]"),
        }
    }
}

/// A device that has been plugged in.
#[derive(Debug)]
pub struct Device {
    pub(super) key: DeviceKey,
    pub(super) driver_name: &'static str,
    pub(super) driver: &'static Driver,
    /// Which root port it sits behind, by its place in the hardware.
    pub(super) port: usize,
    /// Device and function behind that port, as one number.
    pub(super) devfn: u8,
    /// What differs from a fresh device of its kind.
    pub(super) properties: BTreeMap<&'static str, Value>,
    /// For NICs.
    pub(super) mac: Option<HardwareAddress>,
    /// What the guest has made of it.
    pub(super) guest_mac: Option<HardwareAddress>,
    pub(super) rx_filter: RxFilter,
    /// An open request to let go of it.
    pub(super) asked: Option<Expiry>,
}

impl Device {
    /// The id it was given, if any.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.key.id()
    }

    /// Its kind, such as `virtio-net-pci`.
    #[must_use]
    pub fn driver(&self) -> &'static str {
        self.driver_name
    }

    /// The MAC it was made with, where it is a NIC.
    #[must_use]
    pub fn mac(&self) -> Option<HardwareAddress> {
        self.mac
    }

    /// Whether the guest has been asked to let go of it and has not.
    #[must_use]
    pub fn is_being_unplugged(&self) -> bool {
        self.asked.is_some()
    }

    /// Whether a request to unplug is refused because an earlier one is open.
    pub(super) fn is_busy(&self, clock: Duration) -> bool {
        match self.asked {
            Some(Expiry::At(time)) => clock < time,
            Some(Expiry::Never) => true,
            None => false,
        }
    }
}

/// Whether somebody has asked since the guest last changed what a NIC lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RxFilter {
    Seen,
    Changed,
}

/// Power of a slot, as the guest's native hot-plug driver sets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SlotPower {
    Off,
    /// On, with the indicator that says "wait".
    Blinking,
    On,
}

/// All devices, and what is known of each slot.
#[derive(Debug)]
pub(super) struct Devices {
    by_key: BTreeMap<DeviceKey, Device>,
    anonymous: u32,
    power: Vec<SlotPower>,
    buses: Buses,
}

/// Whether firmware has given the buses their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Buses {
    Numbered,
    Unnumbered,
}

impl Devices {
    pub(super) fn new(ports: usize, running: bool) -> Self {
        Self {
            by_key: BTreeMap::new(),
            anonymous: 0,
            power: vec![SlotPower::Off; ports],
            buses: if running {
                Buses::Numbered
            } else {
                Buses::Unnumbered
            },
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Device> {
        self.by_key.values()
    }

    pub(super) fn get(&self, key: &DeviceKey) -> Option<&Device> {
        self.by_key.get(key)
    }

    pub(super) fn get_mut(&mut self, key: &DeviceKey) -> Option<&mut Device> {
        self.by_key.get_mut(key)
    }

    pub(super) fn named(&self, id: &str) -> Option<&Device> {
        // The key owns its text: a look-up by a borrowed one would need a type of its own.
        self.get(&DeviceKey::Named(id.to_owned()))
    }

    pub(super) fn next_anonymous(&mut self) -> u32 {
        let number = self.anonymous;
        self.anonymous += 1;
        number
    }

    pub(super) fn insert(&mut self, device: Device) {
        self.by_key.insert(device.key.clone(), device);
    }

    pub(super) fn remove(&mut self, key: &DeviceKey) -> Option<Device> {
        self.by_key.remove(key)
    }

    pub(super) fn behind(&self, port: usize) -> impl Iterator<Item = &Device> {
        self.iter().filter(move |device| device.port == port)
    }

    pub(super) fn at(&self, port: usize, devfn: u8) -> Option<&Device> {
        self.behind(port).find(|device| device.devfn == devfn)
    }

    pub(super) fn power(&self, port: usize) -> SlotPower {
        self.power.get(port).copied().unwrap_or(SlotPower::Off)
    }

    pub(super) fn set_power(&mut self, port: usize, power: SlotPower) {
        if let Some(slot) = self.power.get_mut(port) {
            *slot = power;
        }
    }

    /// A reset leaves the slots with a device under power, and no other
    /// (`pcie_cap_slot_reset` in QEMU's `hw/pci/pcie.c`).
    pub(super) fn reset_slots(&mut self) {
        for port in 0..self.power.len() {
            let power = match self.at(port, 0) {
                Some(_) => SlotPower::On,
                None => SlotPower::Off,
            };
            self.set_power(port, power);
        }
    }

    pub(super) fn buses(&self) -> Buses {
        self.buses
    }

    pub(super) fn number_buses(&mut self) {
        self.buses = Buses::Numbered;
    }

    pub(super) fn forget_buses(&mut self) {
        self.buses = Buses::Unnumbered;
    }
}

/// A kind of device by its name.
pub(super) fn driver(name: &str) -> Option<(&'static str, &'static Driver)> {
    let drivers = &catalogue().drivers;
    let (name, driver) = drivers.get_key_value(name)?;
    Some((name, driver))
}
