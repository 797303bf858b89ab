//! What fake-qemu knows of devices and schema, asked of a real QEMU.
//!
//! ```text
//!   query-qmp-schema ── what the commands below and their types need ──► schema
//!   qom-list, qom-get ── the machine's own objects ────────────────────► objects
//!                     └─ a fresh device of each kind ──────────────────► drivers
//!   query-pci ── the chip set's own devices ───────────────────────────► pci
//! ```
//!
//! A device is recorded under a name of which every occurrence becomes `{id}`, `{path}` or `{bus}`,
//! so that fake-qemu can give it to a device of any name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use testbeds::cache::workspace_directory;

use crate::peer::QemuProcess;
use crate::session::Session;

/// Where the recording lies.
const FILE: &str = "simulator/fake-qemu/data/qemu-7.2.json";

/// The commands fake-qemu knows.
const COMMANDS: [&str; 35] = [
    "add-fd",
    "announce-self",
    "closefd",
    "cont",
    "device_add",
    "device_del",
    "getfd",
    "human-monitor-command",
    "migrate",
    "migrate-set-parameters",
    "migrate_cancel",
    "netdev_add",
    "netdev_del",
    "qmp_capabilities",
    "qom-get",
    "qom-list",
    "query-chardev",
    "query-commands",
    "query-fdsets",
    "query-kvm",
    "query-migrate",
    "query-name",
    "query-pci",
    "query-qmp-schema",
    "query-rx-filter",
    "query-status",
    "query-uuid",
    "query-version",
    "quit",
    "remove-fd",
    "set_link",
    "stop",
    "system_powerdown",
    "system_reset",
    "system_wakeup",
];

/// The events fake-qemu emits.
const EVENTS: [&str; 9] = [
    "DEVICE_DELETED",
    "DEVICE_UNPLUG_GUEST_ERROR",
    "GUEST_PANICKED",
    "NIC_RX_FILTER_CHANGED",
    "POWERDOWN",
    "RESET",
    "RESUME",
    "SHUTDOWN",
    "STOP",
];

/// The objects every machine has.
const OBJECTS: [&str; 7] = [
    "/",
    "/machine",
    "/machine/peripheral",
    "/machine/peripheral-anon",
    "/machine/q35",
    "/machine/unattached",
    ICH9,
];

/// The chip that decides about ACPI hot-plug.
const ICH9: &str = "/machine/unattached/device[2]";

/// The kinds of device fake-qemu takes, and whether each is a NIC.
const DRIVERS: [(&str, bool); 3] = [
    ("e1000e", true),
    ("virtio-net-pci", true),
    ("virtio-rng-pci", false),
];

/// What a recorded device and the port it sits behind are called.
const DEVICE: &str = "TEMPLATE";
const PORT: &str = "BUS";

/// Firmware is through with numbering the buses in much less.
const FIRMWARE_DEADLINE: Duration = Duration::from_secs(60);

/// Records and says where.
///
/// # Errors
/// When a real QEMU cannot be asked, or the file not be written.
pub fn record() -> Result<PathBuf> {
    let file = workspace_directory().join(FILE);
    let mut text = serde_json::to_string_pretty(&recording()?)?;
    text.push('\n');
    std::fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
    Ok(file)
}

/// Whether the recording in the tree is what the QEMU of this machine says.
///
/// # Errors
/// When it is not, or a real QEMU cannot be asked.
pub fn check() -> Result<()> {
    let file = workspace_directory().join(FILE);
    let recorded: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
    anyhow::ensure!(
        recorded == recording()?,
        "{FILE} is not what this QEMU says: cargo xtask conformance record"
    );
    Ok(())
}

fn recording() -> Result<Value> {
    let mut machine = Recorder::start(&[DEVICE, PORT])?;
    let schema = machine.schema()?;
    let objects: Result<Map<String, Value>> = OBJECTS
        .into_iter()
        .map(|path| Ok((path.to_owned(), machine.machine_object(path)?)))
        .collect();
    let mut drivers = Map::new();
    drivers.insert("pcie-root-port".to_owned(), machine.root_port()?);
    let built_in = machine.built_in()?;
    for (driver, is_nic) in DRIVERS {
        let recorded = Recorder::start(&[PORT])?.device(driver, is_nic);
        drivers.insert(driver.to_owned(), recorded.context(driver)?);
    }
    Ok(json!({
        "schema": schema,
        "objects": objects?,
        "drivers": drivers,
        "pci": built_in,
    }))
}

struct Recorder {
    session: Session,
    _process: QemuProcess,
}

impl Recorder {
    fn start(ports: &[&str]) -> Result<Self> {
        let process = QemuProcess::start(|command, _| {
            for (number, port) in (1..).zip(ports) {
                let port = format!(
                    "pcie-root-port,id={port},chassis={number},addr=0{}.0",
                    number + 1
                );
                command.args(["-device", &port]);
            }
            command.args(["-m", "64", "-S"]);
            Ok(())
        })?;
        let mut session = Session::connect(process.socket())?;
        session.until_answered()?;
        session.ask("qmp_capabilities", json!({}))?;
        Ok(Self {
            session,
            _process: process,
        })
    }

    fn schema(&mut self) -> Result<Vec<Value>> {
        let all = self.session.ask("query-qmp-schema", json!({}))?;
        let all = all.as_array().context("a schema is a list")?;
        let by_name: BTreeMap<&str, &Value> = all
            .iter()
            .filter_map(|entity| Some((entity["name"].as_str()?, entity)))
            .collect();
        let mut needed = BTreeSet::new();
        for name in COMMANDS.into_iter().chain(EVENTS) {
            anyhow::ensure!(by_name.contains_key(name), "this QEMU knows no {name}");
            need(name, &by_name, &mut needed);
        }
        let is_needed = |entity: &&Value| {
            let name = entity["name"].as_str();
            name.is_some_and(|name| needed.contains(name))
        };
        Ok(all.iter().filter(is_needed).cloned().collect())
    }

    fn machine_object(&mut self, path: &str) -> Result<Value> {
        let mut properties = self.properties(path)?;
        properties.retain(|property| property["name"] != DEVICE && property["name"] != PORT);
        for property in &mut properties {
            // The machine's clock.
            if property["name"] == "rtc-time" {
                property["value"] = Value::Null;
            }
        }
        Ok(properties.into())
    }

    fn root_port(&mut self) -> Result<Value> {
        let path = format!("/machine/peripheral/{DEVICE}");
        let properties = self.template(&path, "/machine/q35/pcie.0")?;
        let pci = self
            .pci_device(DEVICE)?
            .context("query-pci shows no root port")?;
        Ok(json!({"properties": properties, "pci": without_place(pci)}))
    }

    fn built_in(&mut self) -> Result<Vec<Value>> {
        let buses = self.session.ask("query-pci", json!({}))?;
        let devices = buses[0]["devices"].as_array().cloned().unwrap_or_default();
        let anonymous = devices.into_iter().filter(|device| device["qdev_id"] == "");
        Ok(anonymous.collect())
    }

    fn device(&mut self, driver: &str, is_nic: bool) -> Result<Value> {
        let mut arguments = json!({"driver": driver, "id": DEVICE, "bus": PORT});
        if is_nic {
            self.session
                .ask("netdev_add", json!({"type": "user", "id": "n0"}))?;
            arguments["netdev"] = "n0".into();
        }
        self.session.ask("device_add", arguments)?;
        let path = format!("/machine/peripheral/{DEVICE}");
        let properties = self.template(&path, &format!("/machine/peripheral/{PORT}/{PORT}"))?;
        // Firmware has to number the bus before the device is seen on it.
        self.session.ask("cont", json!({}))?;
        let begun = Instant::now();
        let pci = loop {
            if let Some(pci) = self.pci_device(DEVICE)? {
                break pci;
            }
            anyhow::ensure!(
                begun.elapsed() < FIRMWARE_DEADLINE,
                "firmware finds no {driver}"
            );
            // Slept, because QEMU has no event for firmware's progress
            std::thread::sleep(Duration::from_millis(20));
        };
        Ok(json!({"properties": properties, "pci": without_place(pci)}))
    }

    fn properties(&mut self, path: &str) -> Result<Vec<Value>> {
        let listed = self.session.ask("qom-list", json!({"path": path}))?;
        let mut properties = Vec::new();
        for property in listed.as_array().into_iter().flatten() {
            let name = &property["name"];
            let value = self
                .session
                .ask("qom-get", json!({"path": path, "property": name}))?;
            properties.push(json!({"name": name, "type": property["type"], "value": value}));
        }
        Ok(sorted(properties))
    }

    /// The properties of an object, without its own names.
    fn template(&mut self, path: &str, bus: &str) -> Result<Value> {
        let properties = serde_json::to_string(&self.properties(path)?)?;
        let named = properties.replace(path, "{path}").replace(bus, "{bus}");
        let properties = serde_json::from_str(&named.replace(DEVICE, "{id}"))?;
        Ok(sorted(properties).into())
    }

    fn pci_device(&mut self, id: &str) -> Result<Option<Value>> {
        let buses = self.session.ask("query-pci", json!({}))?;
        Ok(find(&buses[0]["devices"], id))
    }
}

/// By name, as fake-qemu searches them.
fn sorted(mut properties: Vec<Value>) -> Vec<Value> {
    properties.sort_by_key(|property| property["name"].as_str().map(str::to_owned));
    properties
}

fn need<'a>(name: &'a str, all: &BTreeMap<&str, &'a Value>, needed: &mut BTreeSet<&'a str>) {
    let Some(entity) = all.get(name) else {
        return;
    };
    if !needed.insert(name) {
        return;
    }
    let own = ["arg-type", "ret-type", "element-type"].map(|field| &entity[field]);
    let lists = ["members", "variants"].map(|field| entity[field].as_array());
    let listed = lists
        .into_iter()
        .flatten()
        .flatten()
        .map(|member| &member["type"]);
    for kind in own.into_iter().chain(listed).filter_map(Value::as_str) {
        need(kind, all, needed);
    }
}

fn find(devices: &Value, id: &str) -> Option<Value> {
    devices
        .as_array()?
        .iter()
        .find_map(|device| match device["qdev_id"] == id {
            true => Some(device.clone()),
            false => find(&device["pci_bridge"]["devices"], id),
        })
}

/// What firmware and the one who plugs decide is not the device's own.
fn without_place(mut device: Value) -> Value {
    if let Some(device) = device.as_object_mut() {
        for field in ["bus", "slot", "function", "qdev_id"] {
            device.remove(field);
        }
        if let Some(irq) = device.get_mut("irq") {
            *irq = 0.into();
        }
    }
    for region in device["regions"].as_array_mut().into_iter().flatten() {
        region["address"] = (-1).into();
    }
    device
}
