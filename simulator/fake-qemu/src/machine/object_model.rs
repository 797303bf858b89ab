//! `qom-list` and `qom-get`: the tree of objects, as far as it was recorded.
//!
//! ```text
//!   /machine ─┬─ peripheral ───────┬─ rp1 ── rp1 (the bus behind it)
//!             │                    └─ net0 ─┬─ virtio-backend
//!             ├─ peripheral-anon ── device[0] …
//!             ├─ unattached ── device[2] (ICH9-LPC) …
//!             └─ q35 ── pcie.0 …
//! ```
//!
//! An object that was not recorded in full has its type and nothing else.

use serde_json::{Map, Value};

use super::Machine;
use super::device::{Device, DeviceKey};
use super::refusal::Refusal;
use crate::catalogue::{Property, catalogue};
use crate::hardware::{PortHotplug, RootPort};
use crate::profile::HotplugMode;

const NAMED: &str = "/machine/peripheral";
const ANONYMOUS: &str = "/machine/peripheral-anon";
const ICH9: &str = "/machine/unattached/device[2]";

/// One object of the tree.
#[derive(Clone)]
struct Object<'a> {
    path: String,
    kind: Kind<'a>,
}

#[derive(Clone)]
enum Kind<'a> {
    Recorded(&'a [Property]),
    Port(&'a RootPort),
    Device(&'a Device),
    /// Known by its type alone.
    Bare(String),
}

/// What a path leads to.
enum Resolved<'a> {
    One(Object<'a>),
    None,
    Several,
}

impl<D> Machine<D> {
    pub(super) fn qom_list(&self, path: &str) -> Result<Value, Refusal> {
        let object = match self.resolve(path) {
            Resolved::One(object) => object,
            Resolved::None => return Err(Refusal::no_device(path)),
            Resolved::Several => {
                return Err(Refusal::generic(format!("Path '{path}' is ambiguous")));
            }
        };
        let property = |(name, kind): (String, String)| {
            let mut property = Map::new();
            property.insert("name".to_owned(), name.into());
            property.insert("type".to_owned(), kind.into());
            Value::Object(property)
        };
        Ok(self.properties(&object).into_iter().map(property).collect())
    }

    pub(super) fn qom_get(&self, path: &str, property: &str) -> Result<Value, Refusal> {
        let Resolved::One(object) = self.resolve(path) else {
            return Err(Refusal::no_device(path));
        };
        let value = self.value(&object, property);
        value.ok_or_else(|| {
            let kind = self.type_of(&object);
            Refusal::generic(format!("Property '{kind}.{property}' not found"))
        })
    }

    /// The device that `device_del` means (`find_device_state` in QEMU's
    /// `softmmu/qdev-monitor.c`): an id, or a path from the root.
    pub(super) fn device_to_remove(&self, id: &str) -> Result<&Device, Refusal> {
        let path = match id.starts_with('/') {
            true => id.to_owned(),
            false => format!("{NAMED}/{id}"),
        };
        let object = self.absolute(&path).ok_or_else(|| Refusal::no_device(id))?;
        let fixed =
            |bus: &str| Refusal::generic(format!("Bus '{bus}' does not support hotplugging"));
        match object.kind {
            Kind::Device(device) => Ok(device),
            Kind::Port(_) => Err(fixed("pcie.0")),
            Kind::Recorded(_) if object.path == "/machine/q35" => Err(fixed("main-system-bus")),
            Kind::Recorded(_) | Kind::Bare(_) => Err(Refusal::generic(format!(
                "{id} is not a hotpluggable device"
            ))),
        }
    }

    fn resolve(&self, path: &str) -> Resolved<'_> {
        if path.starts_with('/') {
            return self.absolute(path).map_or(Resolved::None, Resolved::One);
        }
        let mut found = Vec::new();
        if let Some(root) = self.absolute("/") {
            self.search(&root, path, &mut found);
        }
        match (found.pop(), found.is_empty()) {
            (Some(object), true) => Resolved::One(object),
            (Some(_), false) => Resolved::Several,
            (None, _) => Resolved::None,
        }
    }

    /// Every object from which `path` leads somewhere (`object_resolve_partial_path`); two are
    /// enough to know that it is ambiguous.
    fn search<'a>(&'a self, below: &Object<'a>, path: &str, found: &mut Vec<Object<'a>>) {
        found.extend(self.descend(below.clone(), path));
        for (name, _) in self.children(below) {
            if found.len() > 1 {
                return;
            }
            if let Some(child) = self.child(below, &name) {
                self.search(&child, path, found);
            }
        }
    }

    fn absolute(&self, path: &str) -> Option<Object<'_>> {
        let root = Object {
            path: "/".to_owned(),
            kind: Kind::Recorded(catalogue().objects.get("/")?),
        };
        self.descend(root, path)
    }

    fn descend<'a>(&'a self, from: Object<'a>, path: &str) -> Option<Object<'a>> {
        let mut steps = path.split('/').filter(|step| !step.is_empty());
        steps.try_fold(from, |object, step| self.child(&object, step))
    }

    fn child<'a>(&'a self, object: &Object<'a>, name: &str) -> Option<Object<'a>> {
        let path = format!("{}/{name}", object.path.trim_end_matches('/'));
        let kind = match object.path.as_str() {
            NAMED => self.named(name),
            ANONYMOUS => self.anonymous(name),
            _ => None,
        };
        if let Some(kind) = kind {
            return Some(Object { path, kind });
        }
        let child = child_type(object, name)?;
        let kind = match catalogue().objects.get(&path) {
            Some(recorded) => Kind::Recorded(recorded),
            None => Kind::Bare(child.to_owned()),
        };
        Some(Object { path, kind })
    }

    fn named(&self, name: &str) -> Option<Kind<'_>> {
        let port = self.hardware.root_ports.iter().find(|port| port.id == name);
        let device = || self.devices.named(name).map(Kind::Device);
        port.map(Kind::Port).or_else(device)
    }

    fn anonymous(&self, name: &str) -> Option<Kind<'_>> {
        let number = name
            .strip_prefix("device[")?
            .strip_suffix(']')?
            .parse()
            .ok()?;
        self.devices
            .get(&DeviceKey::Anonymous(number))
            .map(Kind::Device)
    }

    fn children(&self, object: &Object<'_>) -> Vec<(String, String)> {
        let child = |(name, kind): (String, String)| {
            let kind = kind.strip_prefix("child<")?.strip_suffix('>')?.to_owned();
            Some((name, kind))
        };
        self.properties(object)
            .into_iter()
            .filter_map(child)
            .collect()
    }

    /// Names and types.
    fn properties(&self, object: &Object<'_>) -> Vec<(String, String)> {
        let own = |property: &Property| (property.name.clone(), property.kind.clone());
        match &object.kind {
            Kind::Recorded(recorded) => {
                let mut properties: Vec<_> = recorded.iter().map(own).collect();
                properties.extend(self.peripherals(&object.path));
                properties
            }
            Kind::Port(port) => port_properties()
                .iter()
                .map(|property| {
                    (
                        property.name.replace("{id}", &port.id),
                        property.kind.clone(),
                    )
                })
                .collect(),
            Kind::Device(device) => device
                .driver
                .properties
                .iter()
                .filter(|property| !is_rom_of_none(device, property))
                .map(own)
                .collect(),
            Kind::Bare(_) => vec![("type".to_owned(), "string".to_owned())],
        }
    }

    fn peripherals(&self, container: &str) -> Vec<(String, String)> {
        let child = |name: &str, kind: &str| (name.to_owned(), format!("child<{kind}>"));
        let devices = self.devices.iter();
        match container {
            NAMED => {
                let ports = self.hardware.root_ports.iter();
                let ports = ports.map(|port| child(&port.id, "pcie-root-port"));
                let named = |device: &Device| Some(child(device.key.id()?, device.driver_name));
                ports.chain(devices.filter_map(named)).collect()
            }
            ANONYMOUS => devices
                .filter_map(|device| match device.key {
                    DeviceKey::Anonymous(number) => {
                        Some(child(&format!("device[{number}]"), device.driver_name))
                    }
                    DeviceKey::Named(_) => None,
                })
                .collect(),
            _ => Vec::new(),
        }
    }

    fn type_of(&self, object: &Object<'_>) -> String {
        let value = self.value(object, "type");
        let text = value.as_ref().and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    }

    fn value(&self, object: &Object<'_>, name: &str) -> Option<Value> {
        match &object.kind {
            Kind::Recorded(recorded) => self.recorded_value(object, recorded, name),
            Kind::Port(port) => port_value(port, &object.path, name),
            Kind::Device(device) => self.device_value(device, &object.path, name),
            Kind::Bare(kind) => (name == "type").then(|| Value::String(kind.clone())),
        }
    }

    fn recorded_value(
        &self,
        object: &Object<'_>,
        recorded: &[Property],
        name: &str,
    ) -> Option<Value> {
        if object.path == ICH9 && name == "acpi-pci-hotplug-with-bridge-support" {
            return Some((self.hardware.hotplug == HotplugMode::Acpi).into());
        }
        if let Some(property) = recorded.iter().find(|property| property.name == name) {
            return Some(property.value.clone());
        }
        let is_child = self
            .peripherals(&object.path)
            .iter()
            .any(|(known, _)| known == name);
        is_child.then(|| format!("{}/{name}", object.path).into())
    }

    fn device_value(&self, device: &Device, path: &str, name: &str) -> Option<Value> {
        let property = device.driver.property(name)?;
        if is_rom_of_none(device, property) {
            return None;
        }
        let slot = device.devfn;
        Some(match name {
            "addr" => slot.into(),
            "legacy-addr" => format!("{:02x}.{:x}", slot >> 3, slot & 7).into(),
            "mac" => device.mac.map(|mac| mac.to_string()).into(),
            "netdev" => device
                .properties
                .get("netdev")
                .cloned()
                .unwrap_or_else(|| "".into()),
            _ => match device.properties.get(name) {
                Some(value) => value.clone(),
                None => {
                    let port = &self.hardware.root_ports[device.port].id;
                    let bus = format!("{NAMED}/{port}/{port}");
                    own(&property.value, path, device.id().unwrap_or_default(), &bus)
                }
            },
        })
    }
}

/// The type of the child of that name that an object has of itself: asked for at every step of
/// every path, so nothing is listed for it.
fn child_type<'a>(object: &Object<'a>, name: &str) -> Option<&'a str> {
    match &object.kind {
        Kind::Recorded(recorded) => recorded.iter().find(|own| own.name == name)?.child(),
        Kind::Port(port) => port_properties()
            .iter()
            .find(|own| is_named(own, &port.id, name))?
            .child(),
        Kind::Device(device) => {
            let own = device.driver.property(name)?;
            own.child().filter(|_| !is_rom_of_none(device, own))
        }
        Kind::Bare(_) => None,
    }
}

/// Whether a property of a port's kind has that name in the port of that id.
fn is_named(property: &Property, id: &str, name: &str) -> bool {
    match property.name.split_once("{id}") {
        Some((before, after)) => name
            .strip_prefix(before)
            .and_then(|rest| rest.strip_suffix(after))
            .is_some_and(|rest| rest == id),
        None => property.name == name,
    }
}

fn port_properties() -> &'static [Property] {
    &catalogue().drivers["pcie-root-port"].properties
}

fn port_value(port: &RootPort, path: &str, name: &str) -> Option<Value> {
    let slot = port.slot;
    let multifunction = slot.function() == 0;
    match name {
        "addr" => return Some((slot.device() << 3 | slot.function()).into()),
        "legacy-addr" => {
            return Some(format!("{:02x}.{:x}", slot.device(), slot.function()).into());
        }
        "chassis" => return Some(port.chassis.into()),
        "hotplug" => return Some((port.hotplug == PortHotplug::On).into()),
        "multifunction" => return Some((multifunction && port.multifunction).into()),
        _ => {}
    }
    let is_it = |property: &&Property| is_named(property, &port.id, name);
    let property = port_properties().iter().find(is_it)?;
    Some(own(&property.value, path, &port.id, "/machine/q35/pcie.0"))
}

/// A recorded value with an object's own names in it.
fn own(value: &Value, path: &str, id: &str, bus: &str) -> Value {
    let Value::String(text) = value else {
        return value.clone();
    };
    let text = text.replace("{path}", path);
    text.replace("{id}", id).replace("{bus}", bus).into()
}

/// The region of an expansion ROM, in a device that has been given none.
fn is_rom_of_none(device: &Device, property: &Property) -> bool {
    let none = device
        .properties
        .get("romfile")
        .is_some_and(|rom| rom == "");
    none && property.child() == Some("memory-region") && property.name.ends_with(".rom[0]")
}
