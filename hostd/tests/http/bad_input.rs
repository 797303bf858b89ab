//! Bad input: a clear refusal that names the field, and nothing changed.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use host_api::{Problem, ProblemCode};
use hyper::{Method, StatusCode};

use crate::support::{Server, attach, attach_path, within};

use ProblemCode::{
    Conflict, Forbidden, InvalidRequest, MethodNotAllowed, NotFound, UnsupportedMediaType,
};

/// A request with a body that would create a NIC, and its refusal: path, headers, code, field.
type Other = (String, Headers, ProblemCode, Option<&'static str>);
type Headers = &'static [(&'static str, &'static str)];

/// One character more than a token may have.
const LONG: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn bad_elsewhere(own: &str) -> Vec<Other> {
    let invalid = |path: &str, field| (path.to_owned(), &[][..], InvalidRequest, Some(field));
    let header =
        |headers: Headers, field| ("/v1/nics".to_owned(), headers, InvalidRequest, Some(field));
    vec![
        invalid("/v1/nics?wait=soon", "wait"),
        invalid("/v1/nics?wait=", "wait"),
        invalid("/v1/nics?wait", "wait"),
        invalid("/v1/nics?wait=11m", "wait"),
        invalid("/v1/nics?wait=87600h", "wait"),
        invalid("/v1/nics?wait=315360000s", "wait"),
        invalid("/v1/nics?wait=99999999999999999999999999s", "wait"),
        invalid("/v1/nics?wait=-1s", "wait"),
        invalid("/v1/nics?wait=1e3s", "wait"),
        invalid("/v1/nics?wait=%001s", "wait"),
        invalid("/v1/nics?wait=%ff", "wait"),
        invalid("/v1/nics?wait=1s&wait=2s", "wait"),
        invalid("/v1/nics?weight=1s", "weight"),
        invalid("/v1/nics/eth0/attach", "id"),
        invalid("/v1/nics/%ff/attach", "id"),
        header(&[("client-token", "a b")], "client-token"),
        header(
            &[("client-token", "a"), ("client-token", "b")],
            "client-token",
        ),
        header(&[("client-token", "")], "client-token"),
        header(&[("client-token", LONG)], "client-token"),
        header(&[("client-token", "\u{fc}")], "client-token"),
        header(&[("tenant", "../x")], "tenant"),
        header(&[("tenant", "")], "tenant"),
        header(
            &[
                ("content-type", "application/json"),
                ("content-type", "x/y"),
            ],
            "content-type",
        ),
        invalid(&format!("/v1/nics/{own}/detach"), "network"),
        (
            format!("/v1/nics/{own}/attach"),
            &[("content-type", "application/x-www-form-urlencoded")],
            UnsupportedMediaType,
            Some("content-type"),
        ),
        ("/v1/nothing".to_owned(), &[], NotFound, None),
        (format!("/v1/nics/{own}"), &[], MethodNotAllowed, None),
    ]
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
async fn a_nic_that_is_not_there_and_one_of_another_tenant_are_the_same() {
    let server = Server::start().await;
    let own = server.created().await.id;
    let attach = serde_json::to_vec(&attach(1)).unwrap();
    let before = server.listed().await;
    let red: Headers = &[("tenant", "red")];

    for (nic, headers) in [("nic-0000000000", &[][..]), (own.as_str(), red)] {
        let requests = [
            (Method::GET, "", Vec::new()),
            (Method::DELETE, "", Vec::new()),
            (Method::POST, "/detach", b"{}".to_vec()),
            (Method::POST, "/attach", attach.clone()),
            (Method::POST, "/move", attach.clone()),
        ];
        for (method, action, body) in requests {
            let path = format!("/v1/nics/{nic}{action}");

            let answer = server.send(method.clone(), &path, headers, body).await;

            let problem = answer.problem();
            let field = problem.field.as_deref();
            assert_eq!(
                (problem.code, field),
                (NotFound, Some("id")),
                "{method} {path}"
            );
            let message = problem.message.replace(nic, "NIC");
            assert_eq!(message, "there is no NIC NIC of yours", "{method} {path}");
        }
    }
    assert_eq!(server.listed().await, before);
}

#[tokio::test]
async fn a_request_that_does_not_fit_the_state_says_it_in_the_words_of_the_api() {
    let server = Server::start().await;
    let nic = server.attaching().await.id;
    let before = server.listed().await;

    let answer = server
        .send(Method::DELETE, &format!("/v1/nics/{nic}"), &[], Vec::new())
        .await;

    let problem = answer.problem();
    assert_eq!(
        (problem.code, problem.field.as_deref()),
        (Conflict, Some("id"))
    );
    assert_eq!(
        problem.message,
        format!("{nic} is attaching and cannot be deleted")
    );
    assert_eq!(server.listed().await, before);
}

#[tokio::test]
async fn a_parameter_that_means_nothing_is_not_taken_for_a_filter() {
    let server = Server::start().await;
    for path in [
        "/v1/nics",
        "/v1/nics/nic-0000000000",
        "/v1/vms",
        "/v1/vms/vm1",
        "/v1/limits",
    ] {
        let answer = server.get(&format!("{path}?state=in_use")).await;

        let problem = answer.problem();
        let field = problem.field.as_deref();
        assert_eq!(
            (problem.code, field),
            (InvalidRequest, Some("state")),
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_body_is_taken_as_json_and_as_nothing_else() {
    let server = Server::start().await;
    for accepted in ["application/json", "Application/JSON; charset=utf-8"] {
        let body = br#"{"network": "blue"}"#.to_vec();
        let headers = [("content-type", accepted)];
        let answer = server.send(Method::POST, "/v1/nics", &headers, body).await;
        assert_eq!(answer.status, StatusCode::OK, "{accepted}");
    }
    let before = server.listed().await;

    for refused in [
        "text/plain",
        "application/jsonx",
        "",
        ";",
        "application/xml",
    ] {
        let body = br#"{"network": "blue"}"#.to_vec();
        let headers = [("content-type", refused)];
        let answer = server.send(Method::POST, "/v1/nics", &headers, body).await;

        let problem = answer.problem();
        assert_eq!(
            answer.status,
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "{refused}"
        );
        assert_eq!(problem.field.as_deref(), Some("content-type"), "{refused}");
        assert!(
            problem.hint.unwrap().contains("application/json"),
            "{refused}"
        );
    }
    assert_eq!(server.listed().await, before);
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
