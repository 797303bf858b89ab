//! Tables as people see them, whole.

use host_api::{Event, Limits, Nic, Vm};
use serde_json::{Value, json};

use super::*;

fn nic(extra: Value) -> Nic {
    let mut body = json!({
        "id": "nic-abc0123xyz", "tenant": "acme", "network": "blue", "mac": "5a:00:00:00:00:01",
        "addressing": {"mode": "static", "addresses": ["10.0.0.5/24", "fd00::5/64"]},
        "addresses": ["10.0.0.5/24", "fd00::5/64"], "mtu": 1500,
        "routes": [{"destination": "0.0.0.0/0", "gateway": "10.0.0.1", "metric": 5}],
        "limits": {"in": {"bandwidth": 100_000_000, "packets": 1000}, "out": {}},
        "queues": 1, "state": "in_use", "generation": 3,
        "placement": {
            "vm": "web-1", "target": {"kind": "netns", "name": "blue"}, "link_name": "eth0",
            "slot": "rp1", "pci_path": "02.0/00.0",
        },
        "timings": [
            {"step": "plug", "at_ms": 3.25, "duration_ms": 12.0, "source": "host"},
            {"step": "guest-set-addresses", "duration_ms": 4.04, "source": "guest"},
            {"step": "bind", "at_ms": 115.5, "duration_ms": 6.0, "source": "host"},
        ],
        "created_at_ms": 0, "updated_at_ms": 1_795_399_265_123_u64,
    });
    let Value::Object(extra) = extra else {
        panic!("extra fields are an object");
    };
    body.as_object_mut().expect("it is an object").extend(extra);
    serde_json::from_value(body).expect("a whole NIC")
}

fn nowhere() -> Nic {
    let mut nic = nic(json!({
        "id": "nic-0000000000", "state": "available", "addresses": [], "timings": [],
        "last_error": {"code": "name_taken", "message": "the target has a link named eth0"},
    }));
    nic.placement = None;
    nic
}

fn stuck() -> Nic {
    nic(json!({
        "id": "nic-zzzzzzzzzz", "state": "detaching",
        "blocked": {"reason": "the guest has not let go", "since_ms": 1000, "next_retry_ms": 2000},
    }))
}

/// Lines without the indentation of the source.
fn lines(text: &str) -> String {
    text.lines()
        .filter_map(|line| line.trim_start().strip_prefix('|'))
        .map(|line| format!("{line}\n"))
        .collect()
}

#[test]
fn nics_are_listed_a_line_each() {
    insta::assert_snapshot!(nics(&[nic(json!({})), nowhere(), stuck()]));
}

#[test]
fn one_nic_is_shown_whole() {
    let expected = "
        |nic:         nic-abc0123xyz
        |state:       in_use
        |condition:   -
        |tenant:      acme
        |network:     blue
        |mac:         5a:00:00:00:00:01
        |addressing:  static
        |addresses:   10.0.0.5/24, fd00::5/64
        |mtu:         1500
        |routes:      0.0.0.0/0 via 10.0.0.1 metric 5
        |rates:       in 100 Mbit/s and 1000 packets/s, out unlimited
        |queues:      1
        |placement:   web-1, netns:blue as eth0 (slot rp1, PCI 02.0/00.0)
        |generation:  3
        |created:     1970-01-01T00:00:00.000Z
        |updated:     2026-11-23T02:01:05.123Z
        |steps:
        |      +3.2 ms  plug                     12.0 ms  host
        |               guest-set-addresses       4.0 ms  guest
        |    +115.5 ms  bind                      6.0 ms  host
    ";

    assert_eq!(super::nic(&nic(json!({}))), lines(expected));
}

#[test]
fn a_change_ends_in_one_line() {
    assert_eq!(
        outcome(&nic(json!({}))),
        "nic-abc0123xyz is in_use in web-1, netns:blue as eth0: 5a:00:00:00:00:01, \
         10.0.0.5/24, fd00::5/64 (121.5 ms)"
    );
}

fn sample_vm() -> Vm {
    serde_json::from_value(json!({
        "id": "web-1", "power": "running", "class": "small",
        "agent": {"state": "ready", "version": "0.1.0", "boot_id": "b-1", "since_ms": 1000},
        "hotplug": "acpi", "slots": {"total": 8, "free": 6, "reserved": 1},
        "limits": {
            "max_nics": 8, "max_addresses_per_nic": 4, "max_queues": 2,
            "rates": {"in": {}, "out": {"bandwidth": 1_500}},
        },
        "usage": {"nics": 1, "addresses": 2}, "nics": ["nic-abc0123xyz"],
    }))
    .expect("a whole VM")
}

#[test]
fn vms_are_listed_with_what_is_left_in_them() {
    let mut silent = sample_vm();
    silent.power = None;
    let expected = "
        |VM     POWER    CLASS  AGENT  NICS    FREE SLOTS
        |web-1  running  small  ready  1 of 8  6 of 8
        |web-1  unknown  small  ready  1 of 8  6 of 8
    ";

    assert_eq!(vms(&[sample_vm(), silent]), lines(expected));
}

#[test]
fn one_vm_is_shown_whole() {
    let expected = "
        |vm:             web-1
        |power:          running
        |class:          small
        |agent:          ready since 1970-01-01T00:00:01.000Z
        |agent version:  0.1.0
        |boot id:        b-1
        |hot-plug:       acpi
        |slots:          6 free, 1 reserved, 8 in all
        |NICs:           1 of 8
        |addresses:      2, at most 4 a NIC
        |queues:         at most 2 a NIC
        |rates:          in unlimited, out 1500 bit/s
        |holds:          nic-abc0123xyz
    ";

    assert_eq!(vm(&sample_vm()), lines(expected));
    let mut never_seen = sample_vm();
    never_seen.agent.since_ms = 0;
    assert!(!vm(&never_seen).contains("1970-01-01T00:00:00"));
}

#[test]
fn limits_are_listed_with_what_is_used() {
    let body: Limits = serde_json::from_value(json!({"limits": [
        {"scope": {"kind": "host"}, "name": "max_nics_per_host", "usage": 3},
        {"scope": {"kind": "tenant", "tenant": "acme"}, "name": "max_nics_per_tenant",
         "value": 10, "usage": 3},
        {"scope": {"kind": "vm", "vm": "web-1"}, "name": "max_nics", "value": 8, "usage": 1},
    ]}))
    .expect("limits");
    let expected = "
        |OF           LIMIT                VALUE      IN USE
        |host         max_nics_per_host    unlimited  3
        |tenant acme  max_nics_per_tenant  10         3
        |vm web-1     max_nics             8          1
    ";

    assert_eq!(limits(&body.limits), lines(expected));
}

#[test]
fn an_event_tells_when_what_and_how_it_stands() {
    let sample = |extra: Value| {
        let mut body = json!({"id": 1, "at_ms": 1000, "nic": "nic-abc0123xyz", "vm": "web-1"});
        let Value::Object(extra) = extra else {
            panic!("extra fields are an object");
        };
        body.as_object_mut().expect("it is an object").extend(extra);
        serde_json::from_value::<Event>(body).expect("an event")
    };
    let step = json!({"step": "plug", "at_ms": 1.0, "duration_ms": 2.0, "source": "host"});

    assert_eq!(
        event(&sample(json!({"kind": "step_done", "step": step}))),
        "1970-01-01T00:00:01.000Z  step_done    nic-abc0123xyz  web-1  plug 2.0 ms (host)"
    );
    assert_eq!(
        event(&sample(
            json!({"kind": "nic_changed", "body": nic(json!({"step": "plug"}))})
        )),
        "1970-01-01T00:00:01.000Z  nic_changed  nic-abc0123xyz  web-1  in_use, step plug"
    );
    let blocked = json!({"kind": "nic_changed", "body": stuck(),
        "message": "the guest has not let go"});
    assert_eq!(
        event(&sample(blocked))
            .matches("the guest has not let go")
            .count(),
        1,
        "nothing is said twice"
    );
}

#[test]
fn a_time_beyond_any_calendar_is_shown_as_a_number() {
    assert_eq!(time(253_402_300_799_999), "9999-12-31T23:59:59.999Z");
    assert_eq!(time(u64::MAX), "18446744073709551615 ms");
}
