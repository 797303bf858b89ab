//! Clients that want to harm or know no better, over the bare socket: each gets an end, and nobody
//! else is kept waiting.

use std::io::ErrorKind;
use std::time::Duration;

use host_api::{EventQuery, Problem, ProblemCode};
use hyper::{Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::support::{Server, within};

/// A connection on which `bytes` were sent.
async fn connection(server: &Server, bytes: &[u8]) -> UnixStream {
    let mut stream = UnixStream::connect(&server.socket).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

/// Everything that comes until hostd hangs up, which resets the connection when not all was read.
async fn rest(stream: &mut UnixStream) -> String {
    let mut answer = Vec::new();
    if let Err(error) = within(stream.read_to_end(&mut answer)).await {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    String::from_utf8(answer).unwrap()
}

fn problem_in(answer: &str) -> Problem {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(
        head.to_lowercase().contains("application/problem+json"),
        "{head}"
    );
    serde_json::from_str(body).unwrap()
}

#[tokio::test]
async fn a_head_that_is_no_request_is_answered_by_its_status_and_ends_the_connection() {
    let server = Server::start().await;
    let get = |line: &str| format!("GET /v1/nics HTTP/1.1\r\nhost: x\r\n{line}\r\n\r\n");
    let headers: String = (0..100).map(|n| format!("x{n}: y\r\n")).collect();
    let cases = [
        ("\u{16}\u{3}\u{1}\u{2}\r\n\r\n".to_owned(), "400"),
        ("GET /v1/nics\r\n\r\n".to_owned(), "400"),
        ("GET /v1 nics HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(), "400"),
        (get("tenant: a\u{0}b"), "400"),
        (get("content-length: 1\r\ncontent-length: 2"), "400"),
        (get("content-length: -1"), "400"),
        (get("content-length: 99999999999999999999"), "400"),
        (get(&headers), "431"),
        (get(&format!("tenant: {}", "a".repeat(150_000))), "431"),
        (
            format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(100_000)),
            "414",
        ),
    ];
    for (request, status) in cases {
        let case: String = request.chars().take(60).collect();

        let answer = rest(&mut connection(&server, request.as_bytes()).await).await;

        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{case:?}: {answer}"
        );
    }
    assert_eq!(server.get("/v1/nics").await.status, StatusCode::OK);
}

#[tokio::test]
async fn half_a_request_is_given_up_and_delays_nobody() {
    let server = Server::start().await;
    let mut halves = Vec::new();
    for _ in 0..100 {
        let half = b"POST /v1/nics HTTP/1.1\r\nhost: x\r\nclient-tok";
        halves.push(connection(&server, half).await);
    }

    assert_eq!(server.get("/v1/nics").await.status, StatusCode::OK);
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    for half in &mut halves {
        rest(half).await;
    }

    assert!(begun.elapsed() < Duration::from_secs(11));
}

#[tokio::test]
async fn a_head_that_trickles_in_has_no_longer_than_one_that_does_not_come() {
    let server = Server::start().await;
    let mut trickle = connection(&server, b"GET /v1/nics HTTP/1.1\r\n").await;
    tokio::time::pause();
    let begun = tokio::time::Instant::now();

    while trickle.write_all(b"x: y\r\n").await.is_ok() {
        // tidy: sleep because time is virtual here, and the pause is what is tried.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(begun.elapsed() < Duration::from_secs(15));
    }
}

#[tokio::test]
async fn a_body_that_does_not_come_is_given_up_by_name() {
    let server = Server::start().await;
    let half = b"POST /v1/nics HTTP/1.1\r\nhost: x\r\ncontent-length: 19\r\n\r\n{\"network\"";
    let mut stream = connection(&server, half).await;
    // Answered in its turn, so the half is being read by then.
    server.get("/v1/nics").await;
    tokio::time::pause();

    let problem = problem_in(&rest(&mut stream).await);

    assert_eq!(problem.code, ProblemCode::InvalidRequest);
    assert_eq!(problem.field.as_deref(), Some("body"));
    assert!(problem.message.contains("within 30 s"), "{problem:?}");
}

#[tokio::test]
async fn a_method_that_a_path_does_not_take_is_told_which_it_takes() {
    let server = Server::start().await;
    let cases = [
        (Method::PUT, "/v1/nics", "GET,HEAD,POST"),
        (Method::OPTIONS, "/v1/nics", "GET,HEAD,POST"),
        (Method::TRACE, "/v1/nics/nic-0000000000", "DELETE,GET,HEAD"),
        (Method::GET, "/v1/nics/nic-0000000000/attach", "POST"),
        (Method::HEAD, "/v1/nics/nic-0000000000/move", "POST"),
        (Method::DELETE, "/v1/vms", "GET,HEAD"),
        (Method::POST, "/v1/events", "GET,HEAD"),
        (Method::PATCH, "/metrics", "GET,HEAD"),
    ];
    for (method, path, allowed) in cases {
        let answer = server.send(method.clone(), path, &[], Vec::new()).await;

        assert_eq!(
            answer.status,
            StatusCode::METHOD_NOT_ALLOWED,
            "{method} {path}"
        );
        let mut named: Vec<_> = answer.header("allow").unwrap().split(',').collect();
        named.sort_unstable();
        assert_eq!(named.join(","), allowed, "{method} {path}");
        if method != Method::HEAD {
            assert_eq!(answer.problem().code, ProblemCode::MethodNotAllowed);
        }
    }
}

#[tokio::test]
async fn head_is_get_without_its_body_and_follows_no_events() {
    let server = Server::start().await;
    for path in ["/v1/nics", "/v1/vms/vm1", "/v1/openapi.json", "/v1/events"] {
        let answer = server.send(Method::HEAD, path, &[], Vec::new()).await;

        assert_eq!(answer.status, StatusCode::OK, "{path}");
        assert!(answer.body.is_empty(), "{path}");
    }

    let metrics = server.get("/metrics").await.body;
    let text = String::from_utf8(metrics.to_vec()).unwrap();
    let followers = "hostd_in_flight{what=\"followers\"} 0";
    assert!(text.lines().any(|line| line == followers), "{text}");
}

#[tokio::test]
async fn one_user_has_a_share_of_the_connections_and_is_told_when_it_is_used_up() {
    let server = Server::start().await;
    let mut held = Vec::new();

    let refused = loop {
        let mut stream = UnixStream::connect(&server.socket).await.unwrap();
        // Nothing comes on a connection that is accepted, until its head is due.
        let mut first = [0; 1];
        let turned_away = tokio::time::timeout(Duration::from_millis(1), stream.read(&mut first));
        if let Ok(read) = turned_away.await {
            assert_eq!(read.unwrap(), 1);
            break format!("H{}", rest(&mut stream).await);
        }
        held.push(stream);
        assert!(held.len() < 5000, "there is no end");
    };

    let problem = problem_in(&refused);
    assert!(refused.starts_with("HTTP/1.1 429 "), "{refused}");
    assert_eq!(problem.code, ProblemCode::Overloaded);
    assert!(problem.message.contains("connections"), "{problem:?}");
    drop(held);
    let listing = async { while server.client.nics().await.is_err() {} };
    within(listing).await;
}

#[tokio::test]
async fn a_follower_that_never_reads_keeps_nobody_else_from_following() {
    let server = Server::start().await;
    let silent = connection(&server, b"GET /v1/events HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let query = EventQuery::default();
    let mut other = server.client.events(&query, None).await.unwrap();

    for _ in 0..500 {
        let what = hostd::board::Happening::VmChanged("x".repeat(1000));
        server.service.board.vm_event(&"vm1".parse().unwrap(), what);
    }

    let event = within(other.next()).await.unwrap().unwrap();
    assert_eq!(event.vm.unwrap().as_str(), "vm1");
    drop(silent);
}
