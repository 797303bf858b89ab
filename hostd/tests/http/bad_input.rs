//! Bad input: a clear refusal that names the field, and nothing changed.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use host_api::{Problem, ProblemCode};
use hyper::{Method, StatusCode};

use crate::support::{Server, attach_path, within};

use ProblemCode::{Conflict, Forbidden, InvalidRequest, MethodNotAllowed, NotFound};

/// A request to create, and the refusal it gets: body, code, field, what the message says.
type Create = (String, ProblemCode, &'static str, &'static str);
/// The same of any request with a body that would create a NIC: path and a header besides.
type Other = (String, Headers, ProblemCode, Option<&'static str>);
type Headers = &'static [(&'static str, &'static str)];

fn invalid(body: &str, field: &'static str, says: &'static str) -> Create {
    (body.to_owned(), InvalidRequest, field, says)
}

fn malformed_bodies() -> Vec<Create> {
    let nested = r#"{"network": "blue", "attach": {"vm": "vm1", "target": {"x": "#;
    let deep = [nested, &"[".repeat(100_000)].concat();
    vec![
        invalid(r#"{"network": "blue","#, "body", "line 1 column 19"),
        invalid("", "body", "empty"),
        invalid(" \n", "body", "empty"),
        invalid(r#"["acme", "blue"]"#, "body", "object"),
        invalid(r#"{"network": "blue"} x"#, "body", "trailing"),
        invalid("{\"network\": \"\u{0}\"}", "body", "control character"),
        invalid(&deep, "body", "recursion limit"),
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

fn bad_elsewhere(own: &str) -> Vec<Other> {
    let invalid = |path: &str, field| (path.to_owned(), &[][..], InvalidRequest, Some(field));
    let header =
        |headers: Headers, field| ("/v1/nics".to_owned(), headers, InvalidRequest, Some(field));
    let as_red: Headers = &[("tenant", "red")];
    vec![
        invalid("/v1/nics?wait=soon", "wait"),
        invalid("/v1/nics?wait=11m", "wait"),
        invalid("/v1/nics?wait=1s&wait=2s", "wait"),
        invalid("/v1/nics?weight=1s", "weight"),
        invalid("/v1/nics/eth0/attach", "id"),
        invalid("/v1/nics/%ff/attach", "id"),
        header(&[("client-token", "a b")], "client-token"),
        header(
            &[("client-token", "a"), ("client-token", "b")],
            "client-token",
        ),
        header(&[("tenant", "../x")], "tenant"),
        (
            "/v1/nics/nic-0000000000/detach".to_owned(),
            &[],
            NotFound,
            Some("id"),
        ),
        (
            format!("/v1/nics/{own}/detach"),
            as_red,
            NotFound,
            Some("id"),
        ),
        ("/v1/nothing".to_owned(), &[], NotFound, None),
        (format!("/v1/nics/{own}"), &[], MethodNotAllowed, None),
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
        taken,
        bad_places(),
    ];
    for (body, code, field, says) in cases.into_iter().flatten() {
        let case: String = body.chars().take(100).collect();

        let answer = server.post("/v1/nics", body).await;

        let problem = answer.problem();
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

#[tokio::test]
async fn every_bad_path_query_and_header_is_refused_by_name_and_changes_nothing() {
    let server = Server::start().await;
    let nic = server.created().await;
    let before = server.listed().await;

    for (path, headers, code, field) in bad_elsewhere(nic.id.as_str()) {
        let body = br#"{"network": "blue"}"#.to_vec();
        let answer = server.send(Method::POST, &path, headers, body).await;

        let problem = answer.problem();
        assert_eq!(
            (problem.code, answer.status.as_u16()),
            (code, code.status()),
            "{path}"
        );
        assert_eq!(
            problem.field.as_deref(),
            field,
            "{path} {headers:?}: {problem:?}"
        );
        assert_eq!(server.listed().await, before, "{path}");
    }
}

#[tokio::test]
async fn a_tenants_header_and_body_must_agree() {
    let server = Server::start().await;

    let body = br#"{"network": "blue", "tenant": "acme"}"#.to_vec();
    let answer = server
        .send(Method::POST, "/v1/nics", &[("tenant", "red")], body)
        .await;

    assert_eq!(answer.problem().code, Forbidden);
    assert_eq!(answer.problem().field.as_deref(), Some("tenant"));
}

#[tokio::test]
async fn a_tenant_can_neither_act_for_another_nor_see_its_nics() {
    let server = Server::start_for_tenant("acme").await;
    let own = server.created().await;

    let headers = [("tenant", "red")];
    let answer = server
        .send(Method::GET, "/v1/nics", &headers, Vec::new())
        .await;

    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert_eq!(answer.problem().field.as_deref(), Some("tenant"));
    assert_eq!(own.tenant.as_str(), "acme");
    let attach = server
        .post(
            &attach_path(&own.id),
            r#"{"vm": "private",
        "target": {"kind": "pid", "pid": 1}}"#,
        )
        .await;
    assert_eq!(
        (attach.problem().code, attach.problem().field.as_deref()),
        (NotFound, Some("vm"))
    );
}

#[derive(Debug, Clone, Copy)]
enum Framing {
    Length,
    Chunks,
}

const HUGE: usize = 64 * 1024 * 1024;

/// Sends everything before it reads anything, as the simplest clients do.
fn send_huge(socket: &PathBuf, path: &str, framing: Framing) -> (u16, Problem) {
    let mut stream = UnixStream::connect(socket).unwrap();
    let length = match framing {
        Framing::Length => format!("content-length: {HUGE}"),
        Framing::Chunks => "transfer-encoding: chunked".to_owned(),
    };
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nhost: x\r\n{length}\r\n\r\n"
    )
    .unwrap();
    let piece = vec![b' '; 1024 * 1024];
    for _ in 0..HUGE / piece.len() {
        match framing {
            Framing::Length => stream.write_all(&piece).unwrap(),
            Framing::Chunks => {
                write!(stream, "{:x}\r\n", piece.len()).unwrap();
                stream.write_all(&piece).unwrap();
                stream.write_all(b"\r\n").unwrap();
            }
        }
    }
    if let Framing::Chunks = framing {
        stream.write_all(b"0\r\n\r\n").unwrap();
    }
    let mut answer = String::new();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap())
}

#[tokio::test]
async fn a_body_of_64_megabytes_is_refused_and_the_client_sees_it() {
    let server = Server::start().await;
    let before = server.listed().await;
    let cases = [
        (
            Framing::Length,
            "/v1/nics",
            413,
            ProblemCode::TooLarge,
            Some("body"),
        ),
        (
            Framing::Chunks,
            "/v1/nics",
            413,
            ProblemCode::TooLarge,
            Some("body"),
        ),
        (
            Framing::Length,
            "/v1/nothing",
            404,
            ProblemCode::NotFound,
            None,
        ),
    ];
    for (framing, path, status, code, field) in cases {
        let socket = server.socket.clone();
        let sending = tokio::task::spawn_blocking(move || send_huge(&socket, path, framing));

        let (answered, problem) = within(sending).await.unwrap();

        assert_eq!(
            (answered, problem.code),
            (status, code),
            "{framing:?} {path}"
        );
        assert_eq!(problem.field.as_deref(), field, "{framing:?} {path}");
        assert_eq!(server.listed().await, before);
    }
}

#[tokio::test]
async fn a_client_that_asks_first_is_refused_before_it_sends_anything() {
    let server = Server::start().await;
    let socket = server.socket.clone();
    let asking = tokio::task::spawn_blocking(move || {
        let mut stream = UnixStream::connect(&socket).unwrap();
        let head = format!("content-length: {HUGE}\r\nexpect: 100-continue");
        write!(
            stream,
            "POST /v1/nics HTTP/1.1\r\nhost: x\r\n{head}\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });

    let answer = within(asking).await.unwrap();

    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn what_a_tenant_does_not_see_does_not_exist_for_it() {
    let server = Server::start().await;
    server.created().await;
    let as_red = [("tenant", "red")];

    let nics = server
        .send(Method::GET, "/v1/nics", &as_red, Vec::new())
        .await
        .json();
    let vms = |answer: serde_json::Value| -> Vec<String> {
        let vms = answer["vms"].as_array().unwrap().iter();
        vms.map(|vm| vm["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let red = vms(server
        .send(Method::GET, "/v1/vms", &as_red, Vec::new())
        .await
        .json());
    let blue = [("tenant", "blue")];
    let other = vms(server
        .send(Method::GET, "/v1/vms", &blue, Vec::new())
        .await
        .json());
    let private = server
        .send(Method::GET, "/v1/vms/private", &blue, Vec::new())
        .await;

    assert_eq!(nics["nics"].as_array().map(Vec::len), Some(0));
    assert_eq!(red, ["private", "vm1", "vm2"]);
    assert_eq!(other, ["vm1", "vm2"]);
    assert_eq!(private.problem().code, NotFound);
}
