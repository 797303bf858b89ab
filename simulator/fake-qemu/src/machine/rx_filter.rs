//! What a NIC lets through, as its guest's driver has said: `query-rx-filter` and the event that
//! tells of a change.
//!
//! ```text
//!   guest changes it ──► NIC_RX_FILTER_CHANGED ──► silent ──► query-rx-filter ──► told again
//! ```
//!
//! One event until somebody asks (`rxfilter_notify` in QEMU's `hw/net/virtio-net.c`), so that a
//! guest cannot flood a monitor.

use std::time::Duration;

use nic_model::PciPath;
use serde_json::{Map, Value, json};

use super::Machine;
use super::device::{DeviceKey, RxFilter};
use super::hardware_address::HardwareAddress;
use super::network::Nic;
use super::refusal::Refusal;

impl<D> Machine<D> {
    pub(super) fn query_rx_filter(
        &mut self,
        arguments: &Map<String, Value>,
    ) -> Result<Value, Refusal> {
        let name = arguments.get("name").and_then(Value::as_str);
        let asked = |nic: &&Nic| name.is_none_or(|name| nic.name() == name);
        let nics = self.network.nics().filter(asked);
        let shown: Vec<(DeviceKey, Value)> = nics
            .filter_map(|nic| Some((nic.key().clone(), self.rx_filter(nic)?)))
            .collect();
        if let (Some(name), []) = (name, &shown[..]) {
            return Err(self.no_filter(name));
        }
        let mut filters = Vec::new();
        for (key, filter) in shown {
            filters.push(filter);
            if let Some(device) = self.devices.get_mut(&key) {
                device.rx_filter = RxFilter::Seen;
            }
        }
        Ok(filters.into())
    }

    fn no_filter(&self, name: &str) -> Refusal {
        let is_nic = self.network.nic(name).is_some();
        Refusal::generic(match self.network.backend(name) {
            _ if is_nic => format!("net client({name}) doesn't support rx-filter querying"),
            Some(_) => format!("net client({name}) isn't a NIC"),
            None => format!("invalid net client name: {name}"),
        })
    }

    /// What a virtio NIC lets through before its driver has said otherwise
    /// (`virtio_net_query_rxfilter` in QEMU's `hw/net/virtio-net.c`).
    fn rx_filter(&self, nic: &Nic) -> Option<Value> {
        let device = self.devices.get(nic.key())?;
        device.driver.virtio_backend()?;
        let vlans: Vec<u16> = (0..4096).rev().collect();
        Some(json!({
            "name": nic.name(),
            "main-mac": device.guest_mac.or(device.mac)?.to_string(),
            "promiscuous": true,
            "multicast": "normal",
            "unicast": "normal",
            "vlan": "all",
            "broadcast-allowed": false,
            "multicast-overflow": false,
            "unicast-overflow": false,
            "multicast-table": [],
            "unicast-table": [],
            "vlan-table": vlans,
        }))
    }

    /// The guest gives a NIC another MAC: the one it was made with stays its property.
    pub(super) fn guest_set_mac(&mut self, path: &PciPath, mac: HardwareAddress, now: Duration) {
        let key = self.key_at(path);
        let Some(device) = key.and_then(|key| self.devices.get_mut(&key)) else {
            return;
        };
        if device.mac.is_none() {
            return;
        }
        device.guest_mac = Some(mac);
        let (key, kind) = (device.key.clone(), device.driver_name);
        let seen = std::mem::replace(&mut device.rx_filter, RxFilter::Changed);
        self.network.describe_nic(&key, kind, mac);
        if seen == RxFilter::Changed {
            return;
        }
        let path = format!("{}/virtio-backend", key.path());
        let data = match key.id() {
            Some(id) => json!({"name": id, "path": path}),
            None => json!({"path": path}),
        };
        self.event("NIC_RX_FILTER_CHANGED", Some(data), now);
    }
}
