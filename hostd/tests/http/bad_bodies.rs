//! Bodies that say nothing, too much or the impossible: each refusal names the very field, and
//! nothing has changed.

use host_api::ProblemCode;

use crate::support::Server;

use ProblemCode::{Conflict, InvalidRequest, NotFound};

/// A request to create, and the refusal it gets: body, code, field, what the message says.
type Create = (String, ProblemCode, &'static str, &'static str);
fn invalid(body: &str, field: &'static str, says: &'static str) -> Create {
    (body.to_owned(), InvalidRequest, field, says)
}

fn malformed_bodies() -> Vec<Create> {
    let nested = r#"{"network": "blue", "attach": {"vm": "vm1", "target": {"x": "#;
    let deep = [nested, &"[".repeat(60_000)].concat();
    vec![
        invalid(r#"{"network": "blue","#, "body", "line 1 column 19"),
        invalid("", "body", "empty"),
        invalid(" \n", "body", "empty"),
        invalid(r#"["acme", "blue"]"#, "body", "object"),
        invalid(r#"{"network": "blue"} x"#, "body", "trailing"),
        invalid("{\"network\": \"\u{0}\"}", "body", "control character"),
        invalid(&deep, "attach.target.x", "unknown field"),
    ]
}

fn bodies_of_another_shape() -> Vec<Create> {
    let misspelt = r#"{"network": "blue", "attach": {"wm": "vm1"}}"#;
    let no_vm = r#"{"network": "blue", "attach": {}}"#;
    let twice = r#"{"network": "blue", "network": "blue"}"#;
    vec![
        invalid(
            r#"{"network": "blue", "mtuu": 1400}"#,
            "mtuu",
            "unknown field",
        ),
        invalid(misspelt, "attach.wm", "unknown field"),
        invalid("{}", "network", "missing field"),
        invalid(no_vm, "attach.vm", "missing field"),
        invalid(twice, "network", "duplicate field"),
        invalid(r#"{"network": 5}"#, "network", "expected a string"),
        invalid(
            r#"{"network": "blue", "queues": 0}"#,
            "queues",
            "at least one",
        ),
        invalid(
            r#"{"network": "blue", "tenant": "../x"}"#,
            "tenant",
            "letters",
        ),
    ]
}

/// A body to create and attach, with `fields` for its target.
fn in_target(fields: &str) -> String {
    format!(r#"{{"network": "blue", "attach": {{"vm": "vm1", "target": {{{fields}}}}}}}"#)
}

fn bad_targets() -> Vec<Create> {
    vec![
        invalid(&in_target(""), "attach.target.kind", "missing field"),
        invalid(
            &in_target(r#""kind": "vm""#),
            "attach.target.kind",
            "unknown variant",
        ),
        invalid(
            &in_target(r#""kind": 5"#),
            "attach.target.kind",
            "another type",
        ),
        invalid(
            &in_target(r#""kind": "pid""#),
            "attach.target.pid",
            "missing field",
        ),
        invalid(
            &in_target(r#""kind": "pid", "pid": "x""#),
            "attach.target.pid",
            "expected u32",
        ),
        invalid(
            &in_target(r#""kind": "pid", "pid": 1, "pid": 2"#),
            "attach.target.pid",
            "duplicate field",
        ),
        invalid(
            &in_target(r#""kind": "pid", "kind": "pid", "pid": 1"#),
            "attach.target.kind",
            "duplicate field",
        ),
        invalid(
            &in_target(r#""kind": "pid", "pid": 1, "tid": 2"#),
            "attach.target.tid",
            "unknown field",
        ),
        invalid(
            &in_target(r#""kind": "netns", "name": "a/b""#),
            "attach.target.name",
            "namespace",
        ),
        invalid(
            &in_target(r#""kind": "netns", "name": "a", "pid": 1"#),
            "attach.target.pid",
            "unknown field",
        ),
        invalid(
            &in_target(r#""kind": "netns""#),
            "attach.target.name",
            "missing field",
        ),
    ]
}

fn bodies_that_are_wrong_deep_inside() -> Vec<Create> {
    let routes = |route: &str| format!(r#"{{"network": "blue", "routes": [{route}]}}"#);
    let rates = |rate: &str| format!(r#"{{"network": "blue", "limits": {{"in": {rate}}}}}"#);
    let good = r#"{"destination": "10.0.0.0/8"}"#;
    let twice = r#"{"bandwidth": 1, "bandwidth": 2}"#;
    vec![
        invalid(&routes(&format!("{good}, 7")), "routes[1]", "expected"),
        invalid(
            &routes(r#"{"destination": "10.0.0.0/8", "metric": "x"}"#),
            "routes[0].metric",
            "expected u32",
        ),
        invalid(&routes("{}"), "routes[0].destination", "missing field"),
        invalid(&rates(twice), "limits.in.bandwidth", "duplicate field"),
        invalid(
            &rates(r#"{"bandwidth": -1}"#),
            "limits.in.bandwidth",
            "expected u64",
        ),
        invalid(
            &rates(r#"{"bandwidth": 1.5}"#),
            "limits.in.bandwidth",
            "expected u64",
        ),
        invalid(
            &rates(r#"{"packets": [[[[1]]]]}"#),
            "limits.in.packets",
            "expected u64",
        ),
        invalid(
            r#"{"network": "blue", "addressing": {"mode": 5}}"#,
            "addressing.mode",
            "another type",
        ),
        invalid(r#"{"network": "blue", "attach": []}"#, "attach", "expected"),
        invalid(
            r#"{"network": "blue", "addressing": {"mode": "static", "addresses": "10.77.0.9/16"}}"#,
            "addressing.addresses",
            "expected a sequence",
        ),
    ]
}

fn huge_empty_and_strange_values() -> Vec<Create> {
    let with = |field: &str| format!(r#"{{"network": "blue", {field}}}"#);
    let long = "x".repeat(60_000);
    vec![
        invalid(&with(r#""mtu": 1e400"#), "mtu", "out of range"),
        invalid(
            &with(r#""mtu": 99999999999999999999999"#),
            "mtu",
            "expected u32",
        ),
        invalid(&with(r#""mtu": 4294967296"#), "mtu", "expected u32"),
        invalid(
            &with(r#""mtu": null, "mtu": 1400"#),
            "mtu",
            "duplicate field",
        ),
        invalid(&with(r#""queues": 65536"#), "queues", "expected u16"),
        invalid(r#"{"network": ""}"#, "network", "letters"),
        invalid(r#"{"network": null}"#, "network", "expected a string"),
        invalid("{\"network\": \"b\\u0000e\"}", "network", "letters"),
        invalid(&format!(r#"{{"network": "{long}"}}"#), "network", "letters"),
        invalid(&with(r#""mac": """#), "mac", "six pairs"),
        invalid(&with(r#""tenant": """#), "tenant", "letters"),
        invalid(&with(r#""": 1"#), "", "unknown field"),
        invalid(
            &in_target(r#""kind": "netns", "name": """#),
            "attach.target.name",
            "namespace",
        ),
        invalid("{\"network\": \"\\ud800\"}", "network", "hex escape"),
        invalid("\u{feff}{\"network\": \"blue\"}", "body", "object"),
    ]
}

fn bad_addresses(taken_mac: &str, taken_address: &str) -> Vec<Create> {
    let mac = |mac: &str| format!(r#"{{"network": "blue", "mac": "{mac}"}}"#);
    let address = |address: &str| {
        let addressing = format!(r#"{{"mode": "static", "addresses": ["{address}"]}}"#);
        format!(r#"{{"network": "blue", "addressing": {addressing}}}"#)
    };
    let list = "addressing.addresses";
    vec![
        invalid(&mac("01:00:5e:00:00:01"), "mac", "must be unicast"),
        invalid(&mac("5a:00:00:00:00"), "mac", "six pairs"),
        (mac(taken_mac), Conflict, "mac", "is taken"),
        invalid(&address("10.78.0.5/16"), list, "outside"),
        invalid(
            &address("10.77.0.500/16"),
            "addressing.addresses[0]",
            "invalid IP",
        ),
        (address(taken_address), Conflict, list, "is taken"),
    ]
}

fn bad_places() -> Vec<Create> {
    let place = |vm: &str, link_name: &str| {
        let target = r#"{"kind": "netns", "name": "c"}"#;
        let attach = format!(r#""vm": "{vm}", "target": {target}, "link_name": "{link_name}""#);
        format!(r#"{{"network": "blue", "attach": {{{attach}}}}}"#)
    };
    let network = r#"{"network": "green"}"#.to_owned();
    vec![
        invalid(
            &place("vm1", "sixteen-bytes-no"),
            "attach.link_name",
            "15 bytes",
        ),
        (place("vm9", "eth0"), NotFound, "attach.vm", "no VM vm9"),
        (
            place("private", "eth0"),
            NotFound,
            "attach.vm",
            "no VM private",
        ),
        (network, NotFound, "network", "no network green"),
    ]
}

#[tokio::test]
async fn every_bad_body_is_refused_by_field_and_changes_nothing() {
    let server = Server::start().await;
    let nic = server.created().await;
    let taken = bad_addresses(&nic.mac.to_string(), &nic.addresses[0].to_string());
    let before = server.listed().await;

    let cases = [
        malformed_bodies(),
        bodies_of_another_shape(),
        bad_targets(),
        bodies_that_are_wrong_deep_inside(),
        huge_empty_and_strange_values(),
        taken,
        bad_places(),
    ];
    for (body, code, field, says) in cases.into_iter().flatten() {
        let case: String = body.chars().take(100).collect();

        let answer = server.post("/v1/nics", body).await;

        let problem = answer.problem();
        assert!(answer.body.len() < 2_000, "{case}: a short answer");
        assert_eq!(
            (problem.code, answer.status.as_u16()),
            (code, code.status()),
            "{case}"
        );
        assert_eq!(problem.field.as_deref(), Some(field), "{case}: {problem:?}");
        assert!(problem.message.contains(says), "{case}: {problem:?}");
        assert_eq!(server.listed().await, before, "{case}");
    }
}
