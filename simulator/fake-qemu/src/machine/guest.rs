//! What passes between a machine and the guest in it.
//!
//! ```text
//!   machine ── Plugged ─────────► guest: probes, gets a link
//!           ── UnplugRequested ─► guest: lets go … ── Ejected ─► machine: DEVICE_DELETED
//!           ── Carrier, Reset … ►            └ says no ── Refused ─► DEVICE_UNPLUG_GUEST_ERROR
//!           ── Removed ─────────► guest: the device is gone, whatever it was doing
//! ```

use std::time::Duration;

use nic_model::{PciPath, PciSlot};
use serde_json::json;

use super::device::{Device, DeviceKey, SlotPower};
use super::event::Reason;
use super::hardware_address::HardwareAddress;
use super::{Machine, Output};

/// A device as its guest sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestDevice {
    /// Where it sits, from the root bus on.
    pub path: PciPath,
    /// The id it has on the host's side, where it has one.
    pub id: Option<String>,
    /// Its kind, such as `virtio-net-pci`.
    pub driver: &'static str,
    /// Its MAC, where it is a NIC.
    pub mac: Option<HardwareAddress>,
    /// The backend that carries its frames, where it is a NIC.
    pub netdev: Option<String>,
    /// The MTU it tells its guest, in bytes; none is told where it is 0.
    pub mtu_bytes: u16,
}

/// Something a guest notices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestSignal {
    /// A device has been plugged in.
    Plugged(GuestDevice),
    /// It is asked to let go of a device.
    UnplugRequested {
        /// Which.
        path: PciPath,
    },
    /// A device is gone.
    Removed {
        /// Which.
        path: PciPath,
    },
    /// A NIC's carrier has come.
    CarrierUp {
        /// Whose.
        path: PciPath,
    },
    /// A NIC's carrier has gone.
    CarrierDown {
        /// Whose.
        path: PciPath,
    },
    /// It is told to announce its addresses.
    Announce {
        /// Of which NIC.
        path: PciPath,
    },
    /// The virtual CPU stands still.
    Stopped,
    /// The virtual CPU runs again.
    Resumed,
    /// Somebody pressed the power button.
    PowerButton,
    /// The machine has been reset: firmware begins anew.
    Reset,
    /// The machine is no more.
    Gone,
}

/// Something a guest does to its machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestAct {
    /// It has let go of a device, asked or unasked.
    Ejected {
        /// Which.
        path: PciPath,
    },
    /// It will not let go of a device.
    Refused {
        /// Which.
        path: PciPath,
    },
    /// Its native hot-plug driver has given a slot power.
    SlotOn {
        /// The slot's port, on the root bus.
        port: PciSlot,
    },
    /// Its native hot-plug driver is at work on a slot: requests to unplug are refused meanwhile.
    SlotBusy {
        /// The slot's port, on the root bus.
        port: PciSlot,
    },
    /// It has given a NIC another MAC.
    SetMac {
        /// Which.
        path: PciPath,
        /// Its new MAC.
        mac: HardwareAddress,
    },
    /// It resets itself.
    Reset,
    /// It switches itself off, which ends QEMU.
    PowerOff,
    /// Its kernel has panicked.
    Panic,
}

impl<D> Machine<D> {
    /// Does what the guest did. What it says of a device that is not there changes nothing: the
    /// two may cross.
    pub fn guest(&mut self, act: GuestAct, now: Duration) {
        match act {
            GuestAct::Ejected { path } => self.ejected(&path, now),
            GuestAct::Refused { path } => self.refused(&path, now),
            GuestAct::SlotOn { port } => self.slot_power(port, SlotPower::On),
            GuestAct::SlotBusy { port } => self.slot_power(port, SlotPower::Blinking),
            GuestAct::SetMac { path, mac } => self.guest_set_mac(&path, mac, now),
            GuestAct::Reset => {
                self.announce_reset(Reason::GuestReset, now);
                self.reset(now);
            }
            GuestAct::PowerOff => {
                self.announce_quit(Reason::GuestShutdown, now);
                self.quit();
            }
            GuestAct::Panic => self.panic(now),
        }
    }

    fn slot_power(&mut self, port: PciSlot, power: SlotPower) {
        let ports = &self.hardware.root_ports;
        if let Some(port) = ports.iter().position(|known| known.slot == port) {
            self.devices.set_power(port, power);
        }
    }

    fn ejected(&mut self, path: &PciPath, now: Duration) {
        if let Some(key) = self.key_at(path) {
            self.remove_device(&key, now);
        }
    }

    /// The guest has said no (`acpi_device_unplug` … `ACPI_DEVICE_OST` and the like lead to
    /// `qapi_event_send_device_unplug_guest_error` in QEMU since 6.2).
    fn refused(&mut self, path: &PciPath, now: Duration) {
        let Some(device) = self.key_at(path).and_then(|key| self.devices.get_mut(&key)) else {
            return;
        };
        device.asked = None;
        let path = device.key.path();
        let data = match device.key.id() {
            Some(id) => json!({"device": id, "path": path}),
            None => json!({"path": path}),
        };
        self.event("DEVICE_UNPLUG_GUEST_ERROR", Some(data), now);
    }

    pub(super) fn key_at(&self, path: &PciPath) -> Option<DeviceKey> {
        let found = self
            .devices
            .iter()
            .find(|device| self.guest_path(device.port, device.devfn).as_ref() == Some(path));
        found.map(|device| device.key.clone())
    }

    /// Where a guest finds what sits behind a port.
    pub(super) fn guest_path(&self, port: usize, devfn: u8) -> Option<PciPath> {
        let port = self.hardware.root_ports.get(port)?.slot;
        let slot = PciSlot::new(devfn >> 3, devfn & 7).ok()?;
        PciPath::new(vec![port, slot]).ok()
    }

    pub(super) fn guest_device(&self, device: &Device) -> Option<GuestDevice> {
        let mtu = device
            .properties
            .get("host_mtu")
            .and_then(serde_json::Value::as_u64);
        Some(GuestDevice {
            path: self.guest_path(device.port, device.devfn)?,
            id: device.id().map(str::to_owned),
            driver: device.driver_name,
            mac: device.mac,
            netdev: self.network.backend_of(&device.key).map(str::to_owned),
            mtu_bytes: mtu.and_then(|mtu| u16::try_from(mtu).ok()).unwrap_or(0),
        })
    }

    pub(super) fn signal(&mut self, signal: Option<GuestSignal>) {
        self.outputs.extend(signal.map(Output::Guest));
    }
}
