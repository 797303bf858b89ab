//! `device_del`, and what becomes of a device that goes.
//!
//! ```text
//!   ACPI:    asked ──► guest ejects ──► gone        reset ──► gone
//!   native:  slot without power ──► gone at once
//!            indicator blinking ──► refused, the guest is at work
//!            otherwise asked for 5 s ──► guest takes power away ──► gone
//! ```

use std::cmp::Reverse;
use std::time::Duration;

use serde_json::json;

use super::Machine;
use super::device::{DeviceKey, SlotPower};
use super::guest::GuestSignal;
use super::refusal::Refusal;
use crate::hardware::PortHotplug;
use crate::profile::HotplugMode;
use nic_model::PciPath;

impl<D> Machine<D> {
    pub(super) fn device_del(&mut self, id: &str, now: Duration) -> Result<(), Refusal> {
        let clock = self.clock.at(now);
        let device = self.device_to_remove(id)?;
        if device.is_busy(clock) {
            let text = format!("Device {id} is already in the process of unplug");
            return Err(Refusal::generic(text));
        }
        if self.is_migrating() {
            return Err(Refusal::generic("device_del not allowed while migrating"));
        }
        let (key, port) = (device.key.clone(), device.port);
        let hotplug = self.hardware.hotplug;
        let power = match hotplug {
            HotplugMode::Acpi => SlotPower::On,
            HotplugMode::Native => self.check_native(port)?,
        };
        let expiry = self.hardware.profile.expiry(hotplug, clock);
        let Some(device) = self.devices.get_mut(&key) else {
            return Ok(());
        };
        device.asked = Some(expiry);
        if power == SlotPower::Off {
            self.leaving.push(key);
            return Ok(());
        }
        let path = self.path_of(&key);
        self.signal(path.map(|path| GuestSignal::UnplugRequested { path }));
        Ok(())
    }

    /// `pcie_cap_slot_unplug_request_cb` in QEMU's `hw/pci/pcie.c`.
    fn check_native(&self, port: usize) -> Result<SlotPower, Refusal> {
        let root_port = &self.hardware.root_ports[port];
        if root_port.hotplug == PortHotplug::Off {
            let text = format!(
                "Hot-unplug failed: unsupported by the port device '{}'",
                root_port.id
            );
            return Err(Refusal::generic(text));
        }
        match self.devices.power(port) {
            SlotPower::Blinking => Err(Refusal::generic(
                "Hot-unplug failed: guest is busy (power indicator blinking)",
            )),
            power @ (SlotPower::On | SlotPower::Off) => Ok(power),
        }
    }

    /// A reset completes what was asked for by ACPI (`acpi_pcihp_reset` in QEMU's
    /// `hw/acpi/pcihp.c`); the native way forgets nothing and completes nothing.
    pub(super) fn complete_removals(&mut self, now: Duration) {
        if self.hardware.hotplug == HotplugMode::Native {
            return;
        }
        let asked = self
            .devices
            .iter()
            .filter(|device| device.is_being_unplugged());
        let mut asked: Vec<_> = asked
            .map(|device| (Reverse(device.port), device.devfn, device.key.clone()))
            .collect();
        // QEMU goes through its buses from the one that was made last.
        asked.sort_unstable();
        for (_, _, key) in asked {
            self.remove_device(&key, now);
        }
    }

    /// The device is gone: its guest's, its NIC's and the monitors' way to know.
    pub(super) fn remove_device(&mut self, key: &DeviceKey, now: Duration) {
        let path = self.path_of(key);
        let Some(device) = self.devices.remove(key) else {
            return;
        };
        self.network.remove_nic(key);
        if self.devices.behind(device.port).next().is_none() {
            self.devices.set_power(device.port, SlotPower::Off);
        }
        self.signal(path.map(|path| GuestSignal::Removed { path }));
        let path = key.path();
        if device.driver.virtio_backend().is_some() {
            let inner = format!("{path}/virtio-backend");
            self.event("DEVICE_DELETED", Some(json!({"path": inner})), now);
        }
        let data = match key.id() {
            Some(id) => json!({"device": id, "path": path}),
            None => json!({"path": path}),
        };
        self.event("DEVICE_DELETED", Some(data), now);
    }

    fn path_of(&self, key: &DeviceKey) -> Option<PciPath> {
        let device = self.devices.get(key)?;
        self.guest_path(device.port, device.devfn)
    }
}
