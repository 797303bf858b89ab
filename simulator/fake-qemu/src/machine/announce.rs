//! `announce-self`: QEMU sends RARP for its NICs, and guests that can are told to announce more.

use serde_json::{Map, Value};

use super::Machine;
use super::device::DeviceKey;
use super::guest::GuestSignal;
use super::refusal::Refusal;

impl<D> Machine<D> {
    /// Of the NICs named, or of all. A name that no NIC bears is no error
    /// (`qemu_announce_self_iter` in QEMU's `net/announce.c`).
    pub(super) fn announce(&mut self, arguments: &Map<String, Value>) -> Result<(), Refusal> {
        let named = arguments.get("interfaces").and_then(Value::as_array);
        let wanted = |name: &str| named.is_none_or(|named| named.contains(&Value::from(name)));
        let nics = self.network.nics().filter(|nic| wanted(nic.name()));
        let keys: Vec<DeviceKey> = nics.map(|nic| nic.key().clone()).collect();
        for key in keys {
            let device = self.devices.get(&key);
            let path = device.and_then(|device| self.guest_path(device.port, device.devfn));
            self.signal(path.map(|path| GuestSignal::Announce { path }));
        }
        Ok(())
    }
}
