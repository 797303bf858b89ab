//! The API document is made by hand where the nouns know nothing of HTTP: what it says must be
//! what serde writes.

use std::collections::BTreeSet;

use host_api::{
    AgentState, AttachNic, CreateNic, Event, EventKind, Health, Limit, LimitScope, Limits, MoveNic,
    Nic, NicList, Problem, ProblemCode, Vm, VmList,
};
use nic_model::{Addressing, HotplugMode, PowerState};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use utoipa::OpenApi;

#[derive(OpenApi)]
#[openapi(components(schemas(
    CreateNic, AttachNic, MoveNic, NicList, VmList, Limits, Event, Problem, Health,
)))]
struct Document;

fn schemas() -> Value {
    let document = serde_json::to_value(Document::openapi()).expect("a document is plain data");
    document["components"]["schemas"].clone()
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(reference)) = fields.get("$ref") {
                found.insert(reference.clone());
            }
            fields.values().for_each(|field| references(field, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn nic() -> Value {
    json!({
        "id": "nic-abc0123xyz", "tenant": "acme", "network": "blue", "mac": "5a:00:00:00:00:01",
        "addressing": {"mode": "static", "addresses": ["10.0.0.5/24"]},
        "addresses": ["10.0.0.5/24"], "mtu": 1500,
        "routes": [{"destination": "0.0.0.0/0", "gateway": "10.0.0.1", "metric": 100}],
        "limits": {"in": {"bandwidth": 1000000, "packets": 1000}, "out": {}},
        "queues": 1, "state": "in_use", "generation": 3,
        "placement": {
            "vm": "web-1", "target": {"kind": "netns", "name": "blue"}, "link_name": "eth0",
            "slot": "rp1", "pci_path": "02.0/00.0",
        },
        "moving_to": {
            "vm": "web-2", "target": {"kind": "pid", "pid": 1, "netns_inode": 2},
            "link_name": "eth0", "slot": "rp1", "pci_path": "02.0/00.0",
        },
        "step": "plug",
        "blocked": {"reason": "r", "since_ms": 1, "next_retry_ms": 2},
        "degraded": {"reason": "r"},
        "last_error": {
            "code": "limit_exceeded", "message": "m", "field": "attach.vm",
            "limit": {"name": "max_nics", "value": 8, "usage": 8, "frees": "f"},
            "nic": "nic-abc0123xyz", "hint": "h",
        },
        "timings": [{"step": "plug", "at_ms": 1.5, "duration_ms": 0.5, "source": "host"}],
        "created_at_ms": 1, "updated_at_ms": 2,
    })
}

fn vm() -> Vm {
    serde_json::from_value(json!({
        "id": "web-1", "power": "running", "class": "small",
        "agent": {"state": "ready", "version": "0.1.0", "boot_id": "b", "since_ms": 1},
        "hotplug": "acpi", "slots": {"total": 8, "free": 6, "reserved": 1},
        "limits": {
            "max_nics": 8, "max_addresses_per_nic": 4, "max_queues": 4,
            "rates": {"in": {}, "out": {"bandwidth": 1}},
        },
        "usage": {"nics": 1, "addresses": 2}, "nics": ["nic-abc0123xyz"],
    }))
    .expect("a whole VM")
}

/// Fields that the document gives an object, or its one variant that has all of `wanted`.
fn documented_fields(name: &str, wanted: &BTreeSet<String>) -> BTreeSet<String> {
    let schemas = schemas();
    let schema = &schemas[name];
    let fields = |schema: &Value| {
        let properties = schema["properties"].as_object();
        properties.map_or(BTreeSet::new(), |fields| fields.keys().cloned().collect())
    };
    match schema["oneOf"].as_array() {
        None => fields(schema),
        Some(variants) => variants
            .iter()
            .map(fields)
            .find(|fields| fields == wanted)
            .unwrap_or_default(),
    }
}

fn assert_documented(name: &str, sample: impl Serialize) {
    let sample = serde_json::to_value(sample).expect("a sample is plain data");
    let fields = sample.as_object().expect("samples are objects");
    let written = fields.keys().cloned().collect();

    assert_eq!(documented_fields(name, &written), written, "{name}");
}

#[test]
fn every_reference_in_the_document_leads_somewhere() {
    let schemas = schemas();
    let mut found = BTreeSet::new();
    references(&schemas, &mut found);

    assert!(found.contains("#/components/schemas/MacAddr"), "{found:?}");
    for reference in found {
        let name = reference.trim_start_matches("#/components/schemas/");
        assert!(schemas.get(name).is_some(), "{reference} leads nowhere");
    }
}

#[test]
fn each_mirror_has_the_fields_of_its_noun() {
    let nic: Nic = serde_json::from_value(nic()).unwrap();
    let placement = nic.placement.clone().unwrap();
    let moving_to = nic.moving_to.clone().unwrap();

    assert_documented("Nic", &nic);
    assert_documented("Placement", &placement);
    assert_documented("Target", &placement.target);
    assert_documented("Target", &moving_to.target);
    assert_documented("Addressing", &nic.addressing);
    assert_documented("Addressing", Addressing::Dhcp { addresses: vec![] });
    assert_documented("Route", &nic.routes[0]);
    assert_documented("RateLimits", nic.limits);
    assert_documented("RateLimit", nic.limits.inbound);
    assert_documented("Problem", &nic.last_error);
    assert_documented(
        "LimitDetail",
        nic.last_error.as_ref().unwrap().limit.as_ref(),
    );
    assert_documented("Vm", vm());
    assert_documented("VmLimits", vm().limits);
    let vm = "web-1".parse().unwrap();
    assert_documented("LimitScope", LimitScope::Vm { vm });
    assert_documented("LimitScope", LimitScope::Host);
}

#[test]
fn enumerations_are_documented_with_the_words_on_the_wire() {
    let words = |name: &str| schemas()[name]["enum"].clone();
    let powers = [
        PowerState::Running,
        PowerState::Paused,
        PowerState::Migrating,
        PowerState::Off,
    ];

    assert_eq!(words("PowerState"), json!(powers));
    assert_eq!(
        words("HotplugMode"),
        json!([HotplugMode::Acpi, HotplugMode::Native])
    );
    assert_eq!(words("ProblemCode"), json!(ProblemCode::ALL));
    assert!(
        words("EventKind")
            .as_array()
            .unwrap()
            .contains(&json!(EventKind::Missed))
    );
    assert!(
        words("AgentState")
            .as_array()
            .unwrap()
            .contains(&json!(AgentState::Ready))
    );
}

#[test]
fn an_answer_reads_back_as_it_was_written() {
    let read: Nic = serde_json::from_value(nic()).unwrap();

    assert_eq!(serde_json::to_value(&read).unwrap(), nic());
}

/// Whether the example that the document gives of `name` is one, field for field.
fn assert_example<T: Serialize + DeserializeOwned>(name: &str) {
    let schemas = schemas();
    let schema = &schemas[name];
    let example = schema.get("example").unwrap_or(&schema["examples"][0]);

    let read: T = serde_json::from_value(example.clone()).expect(name);

    let written = serde_json::to_value(read).expect("it is plain data");
    assert_eq!(&written, example, "{name}");
}

#[test]
fn the_examples_of_the_document_are_such_things() {
    assert_example::<Nic>("Nic");
    assert_example::<AttachNic>("AttachNic");
    assert_example::<MoveNic>("MoveNic");
    assert_example::<Vm>("Vm");
    assert_example::<Limit>("Limit");
    assert_example::<Event>("Event");
    assert_example::<Problem>("Problem");
    assert_example::<Health>("Health");
    assert_example::<CreateNic>("CreateNic");
}

#[test]
fn a_request_with_an_unknown_or_impossible_field_is_refused_by_name() {
    let cases = [
        (json!({"network": "blue", "mtuu": 1500}), "mtuu"),
        (json!({"mtu": 1500}), "network"),
        (
            json!({"network": "blue", "mac": "ff:ff:ff:ff:ff:ff"}),
            "multicast",
        ),
        (json!({"network": "blue", "mtu": 70000}), "1280"),
        (
            json!({"network": "blue", "limits": {"in": {"bandwith": 1}}}),
            "bandwith",
        ),
        (
            json!({"network": "blue", "addressing": {"mode": "manual"}}),
            "manual",
        ),
        (
            json!({
                "network": "blue",
                "attach": {"vm": "a", "target": {"kind": "netns", "name": "../x"}},
            }),
            "namespace",
        ),
        (
            json!({
                "network": "blue",
                "attach": {
                    "vm": "a", "target": {"kind": "netns", "name": "x"},
                    "link_name": "sixteen-bytes-xx",
                },
            }),
            "15 bytes",
        ),
    ];
    for (body, named) in cases {
        let refusal = serde_json::from_value::<CreateNic>(body.clone()).unwrap_err();

        assert!(refusal.to_string().contains(named), "{body}: {refusal}");
    }
}

#[test]
fn what_a_request_leaves_out_is_not_written() {
    let request: CreateNic = serde_json::from_value(json!({"network": "blue"})).unwrap();

    assert_eq!(
        serde_json::to_value(request).unwrap(),
        json!({"network": "blue"})
    );
}
