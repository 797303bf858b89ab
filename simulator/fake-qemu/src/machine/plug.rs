//! `device_add`: from arguments to a device, in the order of QEMU's checks
//! (`qmp_device_add` and `qdev_device_add_from_qdict` in `softmmu/qdev-monitor.c`).
//!
//! ```text
//!   id ─► driver ─► bus ─► takes devices? ─► migrating? ─► id free?
//!      ─► properties ─► slot ─► what the device itself checks
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::Machine;
use super::device::{Device, DeviceKey, RxFilter, driver};
use super::guest::GuestSignal;
use super::hardware_address::HardwareAddress;
use super::network::is_well_formed;
use super::property::{self, Setting};
use super::refusal::Refusal;
use crate::hardware::PortHotplug;
use crate::profile::HotplugMode;

/// Where a device goes.
enum Bus {
    /// Behind a root port.
    Port(usize),
    /// A bus that takes no device.
    Fixed(&'static str),
}

impl<D> Machine<D> {
    pub(super) fn device_add(
        &mut self,
        arguments: &Map<String, Value>,
        now: Duration,
    ) -> Result<(), Refusal> {
        let options = options(arguments)?;
        let option = |name: &str| options.get(name).map(String::as_str);
        let name = option("driver").ok_or_else(|| Refusal::missing("driver"))?;
        let port = self.port_for(name, option("bus"))?;
        if self.is_migrating() {
            return Err(Refusal::generic("device_add not allowed while migrating"));
        }
        let unknown = || not_a_device(name);
        let (driver_name, driver) = driver(name).ok_or_else(unknown)?;
        if let Some(id) = option("id") {
            self.check_free(id)?;
        }
        let mut device = Device {
            key: DeviceKey::Anonymous(0),
            driver_name,
            driver,
            port,
            devfn: 0,
            properties: BTreeMap::new(),
            mac: None,
            guest_mac: None,
            rx_filter: RxFilter::Seen,
            asked: None,
        };
        let settings = self.settings(&device, &options)?;
        device.key = match option("id") {
            Some(id) => DeviceKey::Named(id.to_owned()),
            None => DeviceKey::Anonymous(self.devices.next_anonymous()),
        };
        device.devfn = self.free_devfn(&device, settings.devfn)?;
        self.check_realize(&device, &settings, now)?;
        self.realize(device, settings);
        Ok(())
    }

    fn port_for(&self, driver_name: &str, bus: Option<&str>) -> Result<usize, Refusal> {
        let bus_type = bus_type(driver_name).ok_or_else(|| not_a_device(driver_name))?;
        if bus_type != "PCI" {
            return Err(Refusal::generic(format!(
                "No '{bus_type}' bus found for device '{driver_name}'"
            )));
        }
        // Without a name it is the first PCI bus of the machine.
        match self.find_bus(bus.unwrap_or("pcie.0"))? {
            Bus::Port(port) => match self.takes_devices(port) {
                true => Ok(port),
                false => Err(no_hotplug(&self.hardware.root_ports[port].id)),
            },
            Bus::Fixed("pcie.0") => Err(no_hotplug("pcie.0")),
            Bus::Fixed(kind) => Err(Refusal::generic(format!(
                "Device '{driver_name}' can't go on {kind} bus"
            ))),
        }
    }

    /// By ACPI, `hotplug=off` takes the bus' hot-plug away; natively the port itself refuses
    /// later, in words of its own.
    fn takes_devices(&self, port: usize) -> bool {
        let on = self.hardware.root_ports[port].hotplug == PortHotplug::On;
        on || self.hardware.hotplug == HotplugMode::Native
    }

    fn find_bus(&self, name: &str) -> Result<Bus, Refusal> {
        let (bus, rest) = name.split_once('/').unwrap_or((name, ""));
        let not_found = || Refusal::generic(format!("Bus '{bus}' not found"));
        let ports = &self.hardware.root_ports;
        let port = |id: &str| ports.iter().position(|port| port.id == id);
        let found = match bus {
            "pcie.0" => Bus::Fixed("pcie.0"),
            "isa.0" => Bus::Fixed("ISA"),
            "main-system-bus" => Bus::Fixed("System"),
            "i2c" => Bus::Fixed("i2c-bus"),
            _ => Bus::Port(port(bus).ok_or_else(not_found)?),
        };
        let rest = rest.trim_matches('/');
        if rest.is_empty() {
            return Ok(found);
        }
        // Below a bus there are devices by id, each with its own bus.
        match found {
            Bus::Fixed("pcie.0") => port(rest).map(Bus::Port),
            Bus::Fixed(_) | Bus::Port(_) => None,
        }
        .ok_or_else(|| Refusal::no_device(rest))
    }

    fn check_free(&self, id: &str) -> Result<(), Refusal> {
        let is_port = self.hardware.root_ports.iter().any(|port| port.id == id);
        match is_port || self.devices.named(id).is_some() {
            true => Err(Refusal::generic(format!("Duplicate device ID '{id}'"))),
            false => Ok(()),
        }
    }

    fn settings(
        &self,
        device: &Device,
        options: &BTreeMap<String, String>,
    ) -> Result<property::Settings, Refusal> {
        let mut settings = property::Settings::default();
        for (name, text) in options {
            if matches!(name.as_str(), "driver" | "bus" | "id") {
                continue;
            }
            match property::read(device, name, text)? {
                Setting::Value(name, value) => {
                    settings.values.insert(name, value);
                }
                Setting::Mac(mac) => settings.mac = Some(mac),
                Setting::Address(devfn) => settings.devfn = devfn,
                Setting::Netdev(netdev) => {
                    self.check_netdev(device, &netdev)?;
                    settings.netdev = Some(netdev);
                }
            }
        }
        Ok(settings)
    }

    fn check_netdev(&self, device: &Device, netdev: &str) -> Result<(), Refusal> {
        let property = property::owner(device, "netdev");
        if self.network.backend(netdev).is_none() {
            let text = format!("Property '{property}' can't find value '{netdev}'");
            return Err(Refusal::generic(text));
        }
        if self.network.is_taken(netdev) {
            let text = format!("Property '{property}' can't take value '{netdev}', it's in use");
            return Err(Refusal::generic(text));
        }
        Ok(())
    }

    /// `do_pci_register_device` in QEMU's `hw/pci/pci.c`.
    fn free_devfn(&self, device: &Device, wanted: Option<u8>) -> Result<u8, Refusal> {
        let port = device.port;
        if self.hardware.root_ports[port].hotplug == PortHotplug::Off {
            let id = &self.hardware.root_ports[port].id;
            let text = format!("Hot-plug failed: unsupported by the port device '{id}'");
            return Err(Refusal::generic(text));
        }
        let kind = device.driver_name;
        let Some(devfn) = wanted else {
            // Function 0 of any slot. Behind a port only slot 0 exists for a real guest, but QEMU
            // does not mind.
            let free = (0..32)
                .map(|slot| slot << 3)
                .find(|devfn| self.devices.at(port, *devfn).is_none());
            let full =
                format!("PCI: no slot/function available for {kind}, all in use or reserved");
            return free.ok_or_else(|| Refusal::generic(full));
        };
        let (slot, function) = (devfn >> 3, devfn & 7);
        if let Some(other) = self.devices.at(port, devfn) {
            let (other, id) = (other.driver_name, other.id().unwrap_or("(null)"));
            return Err(Refusal::generic(format!(
                "PCI: slot {slot} function {function} not available for {kind}, \
                 in use by {other},id={id}"
            )));
        }
        if let Some(first) = self.devices.at(port, devfn & !7) {
            let first = first.driver_name;
            return Err(Refusal::generic(format!(
                "PCI: slot {slot} function 0 already occupied by {first}, \
                 new func {kind} cannot be exposed to guest."
            )));
        }
        Ok(devfn)
    }

    /// What the device itself checks. A virtio device has its inner device by the time its option
    /// ROM is looked for, so the loss of that one is told.
    fn check_realize(
        &mut self,
        device: &Device,
        settings: &property::Settings,
        now: Duration,
    ) -> Result<(), Refusal> {
        settings.check(device)?;
        let rom = settings.values.get("romfile").and_then(Value::as_str);
        let default = device.driver.property("romfile");
        let known =
            |rom: &str| rom.is_empty() || default.is_some_and(|default| default.value == rom);
        match rom.filter(|rom| !known(rom)) {
            None => Ok(()),
            Some(rom) => {
                if device.driver.virtio_backend().is_some() {
                    let path = format!("{}/virtio-backend", device.key.path());
                    self.event("DEVICE_DELETED", Some(json!({"path": path})), now);
                }
                Err(Refusal::generic(format!(
                    "failed to find romfile \"{rom}\""
                )))
            }
        }
    }

    fn realize(&mut self, mut device: Device, mut settings: property::Settings) {
        let is_nic = device.driver.property("mac").is_some();
        if is_nic {
            let mac = settings.mac.unwrap_or_else(|| self.free_mac());
            device.mac = Some(mac);
            let kind = device.driver_name;
            let netdev = settings.netdev.as_deref();
            self.network
                .add_nic(&device.key, kind, netdev, &mac.to_string());
        }
        if let Some(netdev) = settings.netdev.take() {
            settings.values.insert("netdev", netdev.into());
        }
        device.properties = settings.values;
        let plugged = self.guest_device(&device).map(GuestSignal::Plugged);
        self.devices.insert(device);
        self.signal(plugged);
    }

    fn free_mac(&self) -> HardwareAddress {
        let taken = |mac| self.devices.iter().any(|device| device.mac == Some(mac));
        let free = (0..=u8::MAX)
            .map(HardwareAddress::default)
            .find(|mac| !taken(*mac));
        free.unwrap_or(HardwareAddress::default(0))
    }
}

/// Arguments as the texts that QEMU makes of them (`qemu_opts_from_qdict`): what is neither text
/// nor number nor truth value is left out.
fn options(arguments: &Map<String, Value>) -> Result<BTreeMap<String, String>, Refusal> {
    if let Some(Value::String(id)) = arguments.get("id")
        && !is_well_formed(id)
    {
        return Err(Refusal::expects("id", "an identifier"));
    }
    let text = |(name, value): (&String, &Value)| {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(_) if name == "id" => return None,
            Value::Number(number) => number.to_string(),
            Value::Bool(true) => "on".to_owned(),
            Value::Bool(false) => "off".to_owned(),
            Value::Null | Value::Array(_) | Value::Object(_) => return None,
        };
        Some((name.clone(), text))
    };
    Ok(arguments.iter().filter_map(text).collect())
}

/// The kind of bus that a kind of device sits on.
fn bus_type(driver: &str) -> Option<&'static str> {
    match driver {
        "virtio-net-device" | "virtio-rng-device" => Some("virtio-bus"),
        driver if super::device::driver(driver).is_some() => Some("PCI"),
        _ => None,
    }
}

fn not_a_device(name: &str) -> Refusal {
    Refusal::generic(format!("'{name}' is not a valid device model name"))
}

fn no_hotplug(bus: &str) -> Refusal {
    Refusal::generic(format!("Bus '{bus}' does not support hotplugging"))
}
