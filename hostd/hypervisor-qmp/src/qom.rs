//! The devices of one QEMU, read from its object model and remembered for as long as they live.
//!
//! QEMU reads its monitor one byte at a time (`monitor_can_read` in its `monitor/monitor.c`), which
//! makes a command cost about 0.25 ms however little it does (measured with 7.2.22). So what a
//! device cannot change (its bus, its slot, its MAC) is asked once:
//!
//! ```text
//!   list of devices (every time) ──► known already ──► taken from memory
//!            │                  └──► new ──► asked ──► remembered, unless the epoch moved
//!   DEVICE_DELETED, device_add ──► forgotten, epoch moves
//!   connection lost ──► all forgotten, with the session
//! ```
//!
//! The epoch covers an answer that is outdated by the time it is remembered. It does not cover an
//! id that is used again: a device leaves the list when it is unparented, but its `DEVICE_DELETED`
//! comes when the last reader of its memory map is through (`device_finalize` in QEMU's
//! `hw/core/qdev.c`, by RCU), milliseconds later, and by then a new device may bear its id. So
//! whoever adds a device makes this memory forget its path first.
//!
//! `query-pci` would tell most of this in one command, but it follows the bus numbers that the
//! guest programs (`qmp_query_pci_bridge` in QEMU's `hw/pci`): from a reset until the
//! firmware has numbered the buses, every slot looks empty there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{StreamExt, TryStreamExt, stream};
use nic_model::{MacAddr, NicId, PciSlot};
use serde_json::Value;
use smol_str::SmolStr;

use crate::client::{CommandError, Connection, ErrorClass};
use crate::commands::{QomProperty, qom_get, qom_list};

/// Where devices with an id live.
pub(crate) const NAMED: &str = "/machine/peripheral";

/// Devices asked about at once, which keeps QEMU's monitor busy. A host that starts looks at all of
/// its VMs at the same time, and a question under way holds some kilobytes, which the allocator
/// does not give back.
const ASKED_AT_ONCE: usize = 3;

/// Where devices without an id live.
const ANONYMOUS: &str = "/machine/peripheral-anon";

/// One device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    /// Its QOM type, such as `virtio-net-pci`.
    pub(crate) kind: SmolStr,
    /// Path of the bus it sits on; `None` for what sits on none.
    pub(crate) bus: Option<String>,
    /// What a bridge has besides.
    pub(crate) bridge: Option<Bridge>,
    /// The MAC it was made with, for our own NICs.
    pub(crate) mac: Option<MacAddr>,
}

/// What a PCI Express bridge has besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bridge {
    /// Where it sits on its own bus.
    pub(crate) slot: PciSlot,
    /// Whether devices come and go behind it.
    pub(crate) hotplug: Hotplug,
}

/// Whether a bridge takes a device while the guest runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hotplug {
    /// It does.
    On,
    /// It does not.
    Off,
}

/// Devices by path.
pub(crate) type Devices = BTreeMap<String, Arc<Device>>;

/// What is remembered of one QEMU's devices.
#[derive(Debug, Default)]
pub(crate) struct DeviceMemory(Mutex<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    devices: Devices,
    epoch: u64,
}

impl DeviceMemory {
    /// A device is gone, or another may take its path: what is being asked just now is outdated.
    pub(crate) fn forget(&self, path: &str) {
        let mut remembered = self.lock();
        remembered.devices.remove(path);
        remembered.epoch += 1;
    }

    /// Every device there is now.
    pub(crate) async fn read(&self, qemu: &Connection) -> Result<Devices, CommandError> {
        let (named, anonymous) =
            tokio::try_join!(qom_list(qemu, NAMED), qom_list(qemu, ANONYMOUS))?;
        let listed: Vec<(String, String)> = children(NAMED, &named)
            .chain(children(ANONYMOUS, &anonymous))
            .collect();
        let (mut devices, unknown, epoch) = self.recall(listed);
        if unknown.is_empty() {
            return Ok(devices);
        }
        let asked = unknown
            .into_iter()
            .map(|(path, kind)| ask(qemu, path, kind));
        let mut asked = stream::iter(asked).buffered(ASKED_AT_ONCE);
        while let Some(device) = asked.try_next().await? {
            devices.extend(device);
        }
        self.remember(&devices, epoch);
        Ok(devices)
    }

    fn recall(&self, listed: Vec<(String, String)>) -> (Devices, Vec<(String, String)>, u64) {
        let mut remembered = self.lock();
        let (mut known, mut unknown) = (Devices::new(), Vec::new());
        for (path, kind) in listed {
            match remembered.devices.get(&path) {
                Some(device) if device.kind == kind => {
                    known.insert(path, Arc::clone(device));
                }
                _ => unknown.push((path, kind)),
            }
        }
        // What went without a word is asked about anew should it come back.
        if remembered.devices.len() > known.len() {
            remembered
                .devices
                .retain(|path, _| known.contains_key(path));
        }
        (known, unknown, remembered.epoch)
    }

    fn remember(&self, devices: &Devices, epoch: u64) {
        let mut remembered = self.lock();
        if remembered.epoch == epoch {
            remembered.devices.clone_from(devices);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Remembered> {
        // Nothing panics while holding it, and a map is whole at every step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn children<'a>(
    container: &'a str,
    properties: &'a [QomProperty],
) -> impl Iterator<Item = (String, String)> + 'a {
    properties.iter().filter_map(move |property| {
        let kind = property.child_type()?;
        Some((format!("{container}/{}", property.name), kind.to_owned()))
    })
}

/// Everything about one device, or `None` when it went away meanwhile.
async fn ask(
    qemu: &Connection,
    path: String,
    kind: String,
) -> Result<Option<(String, Arc<Device>)>, CommandError> {
    let (bus, bridge, mac) = tokio::try_join!(
        property(qemu, &path, "parent_bus"),
        bridge(qemu, &path, &kind),
        mac(qemu, &path),
    )?;
    let gone = bus == Property::ObjectGone;
    let device = Device {
        kind: kind.into(),
        bus: bus.text().filter(|bus| !bus.is_empty()),
        bridge,
        mac,
    };
    Ok((!gone).then(|| (path, Arc::new(device))))
}

async fn bridge(qemu: &Connection, path: &str, kind: &str) -> Result<Option<Bridge>, CommandError> {
    // `x3130-upstream` has no slot of its own behind it, only the way to those that have.
    if !is_port(kind) && kind != "x3130-upstream" {
        return Ok(None);
    }
    let (address, hotplug) = tokio::try_join!(
        property(qemu, path, "addr"),
        property(qemu, path, "hotplug"),
    )?;
    let hotplug = match hotplug {
        Property::Is(Value::Bool(false)) => Hotplug::Off,
        // QEMU before 5.2 has no such property: there every port takes devices.
        Property::Is(_) | Property::Missing | Property::ObjectGone => Hotplug::On,
    };
    Ok(address.pci_slot().map(|slot| Bridge { slot, hotplug }))
}

/// Whether a type is a PCI Express port with one slot behind it. Conventional bridges are left
/// out: they have many slots, and where they use SHPC its protocol alone costs five seconds.
pub(crate) fn is_port(kind: &str) -> bool {
    matches!(kind, "pcie-root-port" | "ioh3420" | "xio3130-downstream")
}

async fn mac(qemu: &Connection, path: &str) -> Result<Option<MacAddr>, CommandError> {
    if device_id(path).and_then(NicId::from_device_id).is_none() {
        return Ok(None);
    }
    let mac = property(qemu, path, "mac").await?;
    Ok(mac.text().and_then(|mac| mac.parse().ok()))
}

/// Path of the device that bears `id`.
pub(crate) fn device_path(id: &str) -> String {
    format!("{NAMED}/{id}")
}

/// The id of the device at `path`, where it has one.
pub(crate) fn device_id(path: &str) -> Option<&str> {
    let id = path.strip_prefix(NAMED)?.strip_prefix('/')?;
    (!id.contains('/')).then_some(id)
}

#[derive(Debug, PartialEq)]
enum Property {
    Is(Value),
    Missing,
    ObjectGone,
}

impl Property {
    fn text(self) -> Option<String> {
        match self {
            Self::Is(Value::String(text)) => Some(text),
            Self::Is(_) | Self::Missing | Self::ObjectGone => None,
        }
    }

    /// QEMU 7.2 tells `addr` as the number `device << 3 | function`; the text `02.0`, which is how
    /// it is written, is understood as well.
    fn pci_slot(&self) -> Option<PciSlot> {
        match self {
            Self::Is(Value::Number(number)) => {
                let number = u8::try_from(number.as_u64()?).ok()?;
                PciSlot::new(number >> 3, number & 7).ok()
            }
            Self::Is(Value::String(text)) => {
                let (device, function) = text.split_once('.')?;
                let number = |digits| u8::from_str_radix(digits, 16).ok();
                PciSlot::new(number(device)?, number(function)?).ok()
            }
            Self::Is(_) | Self::Missing | Self::ObjectGone => None,
        }
    }
}

async fn property(
    qemu: &Connection,
    path: &str,
    name: &'static str,
) -> Result<Property, CommandError> {
    match qom_get(qemu, path, name).await {
        Ok(value) => Ok(Property::Is(value)),
        // `qom-get` of a path that leads nowhere; a missing property is a GenericError.
        Err(error) if error.is_class(&ErrorClass::DeviceNotFound) => Ok(Property::ObjectGone),
        Err(CommandError::Refused { .. }) => Ok(Property::Missing),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(bus: &str) -> Devices {
        let device = Device {
            kind: "virtio-net-pci".into(),
            bus: Some(bus.into()),
            bridge: None,
            mac: None,
        };
        Devices::from([("/machine/peripheral/a".into(), Arc::new(device))])
    }

    fn listed() -> Vec<(String, String)> {
        vec![("/machine/peripheral/a".into(), "virtio-net-pci".into())]
    }

    #[test]
    fn a_device_that_is_deleted_while_it_is_asked_about_is_not_remembered() {
        let memory = DeviceMemory::default();
        let (_, _, epoch) = memory.recall(listed());
        memory.forget("/machine/peripheral/a");

        memory.remember(&device("rp1"), epoch);

        assert_eq!(memory.recall(listed()).1, listed());
    }

    #[test]
    fn a_remembered_device_is_asked_again_once_it_was_deleted_or_has_another_type() {
        let memory = DeviceMemory::default();
        memory.remember(&device("rp1"), 0);
        assert_eq!(memory.recall(listed()).0, device("rp1"));

        let other = vec![("/machine/peripheral/a".into(), "e1000e".into())];
        assert_eq!(memory.recall(other.clone()).1, other);
        memory.forget("/machine/peripheral/a");

        assert_eq!(memory.recall(listed()).1, listed());
    }

    #[test]
    fn an_address_is_understood_as_number_and_as_text() {
        let slot = PciSlot::new(2, 1).unwrap();
        for value in [Value::from(17), Value::from("02.1")] {
            assert_eq!(Property::Is(value).pci_slot(), Some(slot));
        }
        for value in [Value::from(-1), Value::from("20.0"), Value::from(256)] {
            assert_eq!(Property::Is(value.clone()).pci_slot(), None, "{value}");
        }
    }

    #[test]
    fn only_a_device_of_its_own_has_an_id() {
        assert_eq!(device_id("/machine/peripheral/a"), Some("a"));
        assert_eq!(device_id("/machine/peripheral/a/virtio-backend"), None);
        assert_eq!(device_id("/machine/peripheral-anon/device[0]"), None);
    }
}
