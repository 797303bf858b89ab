//! `query-pci`: the machine's devices by bus and slot, as `hw/pci/pci.c` of QEMU tells them.
//!
//! A bus has the number that firmware gave it, and none before: from a reset until then every port
//! looks empty. A device that was plugged in later has its regions placed by the guest, of which
//! nothing is known here.

use serde_json::{Map, Value, json};

use super::Machine;
use super::device::{Buses, Device};
use crate::catalogue::catalogue;
use crate::hardware::RootPort;

impl<D> Machine<D> {
    pub(super) fn query_pci(&self) -> Value {
        let mut devices: Vec<(u64, Value)> = catalogue()
            .built_in
            .iter()
            .map(|device| (place(device), Value::Object(device.clone())))
            .collect();
        let mut ports: Vec<usize> = (0..self.hardware.root_ports.len()).collect();
        ports.sort_by_key(|port| self.hardware.root_ports[*port].slot);
        for (order, port) in ports.into_iter().enumerate() {
            let number = match self.devices.buses() {
                Buses::Numbered => order + 1,
                Buses::Unnumbered => 0,
            };
            let described = self.describe_port(port, number);
            devices.push((place(&described), Value::Object(described)));
        }
        devices.sort_by_key(|(place, _)| *place);
        let devices: Vec<Value> = devices.into_iter().map(|(_, device)| device).collect();
        json!([{"bus": 0, "devices": devices}])
    }

    fn describe_port(&self, index: usize, number: usize) -> Map<String, Value> {
        let RootPort { id, slot, .. } = &self.hardware.root_ports[index];
        let mut port = catalogue().drivers["pcie-root-port"].pci.clone();
        let devfn = slot.device() << 3 | slot.function();
        describe(&mut port, 0, devfn, Some(id));
        let Some(bridge) = port.get_mut("pci_bridge") else {
            return port;
        };
        bridge["bus"]["secondary"] = number.into();
        bridge["bus"]["subordinate"] = number.into();
        if number != 0 {
            let mut behind: Vec<&Device> = self.devices.behind(index).collect();
            behind.sort_by_key(|device| device.devfn);
            let behind = behind
                .into_iter()
                .map(|device| describe_device(device, number));
            bridge["devices"] = behind.collect();
        }
        port
    }
}

fn describe_device(device: &Device, bus: usize) -> Value {
    let mut described = device.driver.pci.clone();
    describe(&mut described, bus, device.devfn, device.id());
    let no_rom = device
        .properties
        .get("romfile")
        .is_some_and(|rom| rom == "");
    if no_rom && let Some(Value::Array(regions)) = described.get_mut("regions") {
        // The expansion ROM is region 6 (`PCI_ROM_SLOT`).
        regions.retain(|region| region["bar"] != 6);
    }
    Value::Object(described)
}

fn describe(device: &mut Map<String, Value>, bus: usize, devfn: u8, id: Option<&str>) {
    device.insert("bus".to_owned(), bus.into());
    device.insert("slot".to_owned(), (devfn >> 3).into());
    device.insert("function".to_owned(), (devfn & 7).into());
    device.insert("qdev_id".to_owned(), id.unwrap_or("").into());
}

fn place(device: &Map<String, Value>) -> u64 {
    let number = |field: &str| device.get(field).and_then(Value::as_u64).unwrap_or(0);
    number("slot") << 3 | number("function")
}
