//! What a real QEMU said about itself: its schema, its objects, its devices' properties.
//!
//! None of it is written by hand. `cargo xtask conformance record` asks a real QEMU and writes
//! `data/qemu-7.2.json`; here it is read once per process and shared by every machine in it, so
//! that a machine is no larger than what makes it differ from a fresh one.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::schema::Schema;

static RECORDED: LazyLock<Catalogue> = LazyLock::new(|| {
    let recorded = include_str!("../data/qemu-7.2.json");
    let recorded: Recording =
        serde_json::from_str(recorded).expect("the recording is checked in and tested");
    Catalogue {
        schema: Schema::new(&recorded.schema),
        schema_answer: Value::Array(recorded.schema),
        objects: recorded.objects,
        drivers: recorded.drivers,
        built_in: recorded.pci,
    }
});

/// Everything known of the machine and its devices.
pub(crate) struct Catalogue {
    pub(crate) schema: Schema,
    /// The answer to `query-qmp-schema`.
    pub(crate) schema_answer: Value,
    /// Properties of the objects that every machine has, by path.
    pub(crate) objects: BTreeMap<String, Vec<Property>>,
    pub(crate) drivers: BTreeMap<String, Driver>,
    /// The chip set's own devices, as `query-pci` shows them.
    pub(crate) built_in: Vec<Map<String, Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Recording {
    schema: Vec<Value>,
    objects: BTreeMap<String, Vec<Property>>,
    drivers: BTreeMap<String, Driver>,
    pci: Vec<Map<String, Value>>,
}

/// One property of an object.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Property {
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// Its value in a fresh object; `{path}`, `{id}` and `{bus}` stand for the object's own.
    pub(crate) value: Value,
}

impl Property {
    /// The type of the object below, where this property is one.
    pub(crate) fn child(&self) -> Option<&str> {
        self.kind.strip_prefix("child<")?.strip_suffix('>')
    }
}

/// One kind of device.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Driver {
    pub(crate) properties: Vec<Property>,
    /// As `query-pci` shows one, without its place and id.
    pub(crate) pci: Map<String, Value>,
}

impl Driver {
    pub(crate) fn property(&self, name: &str) -> Option<&Property> {
        let found = self
            .properties
            .binary_search_by(|property| property.name.as_str().cmp(name));
        found.ok().map(|index| &self.properties[index])
    }

    /// The type of the virtio device inside, where there is one.
    pub(crate) fn virtio_backend(&self) -> Option<&str> {
        self.property("virtio-backend")?.child()
    }
}

/// What the recorded QEMU said.
pub(crate) fn catalogue() -> &'static Catalogue {
    &RECORDED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recording_can_be_read_and_is_sorted_for_searching() {
        for (name, driver) in &catalogue().drivers {
            assert!(
                driver
                    .properties
                    .is_sorted_by_key(|property| property.name.as_str()),
                "{name}"
            );
        }
        let nic = &catalogue().drivers["virtio-net-pci"];
        assert_eq!(nic.virtio_backend(), Some("virtio-net-device"));
    }
}
