//! The client against an HTTP server on a unix socket, a well-behaved one and others.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, Request};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{any, get, post};
use futures::stream;
use host_api::client::{ClientError, Mutation, Progress};
use host_api::{
    AttachNic, Client, Event, EventKind, EventQuery, Health, HealthStatus, Problem, ProblemCode,
    path,
};
use nic_model::{NicId, Target};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;

/// A server on a socket of its own, for as long as the value lives.
struct Server {
    directory: TempDir,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    fn start(router: axum::Router) -> Self {
        Self::with(|listener| {
            tokio::spawn(async move {
                axum::serve(listener, router)
                    .await
                    .expect("serving never ends")
            })
        })
    }

    fn with(serve: impl FnOnce(UnixListener) -> tokio::task::JoinHandle<()>) -> Self {
        let directory = TempDir::new().expect("a directory can be made");
        let listener =
            UnixListener::bind(directory.path().join("socket")).expect("nobody has this path");
        let task = serve(listener);
        Self { directory, task }
    }

    /// Says `bytes` to whoever comes, then hangs up.
    fn saying(bytes: Vec<u8>) -> Self {
        Self::with(|listener| {
            tokio::spawn(async move {
                while let Ok((mut connection, _)) = listener.accept().await {
                    // The client may hang up first, at its cap.
                    drop(connection.write_all(&bytes).await);
                }
            })
        })
    }

    fn client(&self) -> Client {
        Client::unix(self.directory.path().join("socket"))
    }
}

fn nic() -> Value {
    json!({
        "id": "nic-abc0123xyz", "tenant": "acme", "network": "blue", "mac": "5a:00:00:00:00:01",
        "addressing": {"mode": "static", "addresses": ["10.0.0.5/24"]},
        "addresses": ["10.0.0.5/24"], "mtu": 1500, "routes": [], "limits": {"in": {}, "out": {}},
        "queues": 1, "state": "attaching", "generation": 1, "timings": [],
        "created_at_ms": 1, "updated_at_ms": 2, "a_field_of_the_future": true,
    })
}

fn id() -> NicId {
    "nic-abc0123xyz".parse().expect("a valid id")
}

fn attachment() -> AttachNic {
    AttachNic {
        vm: "web-1".parse().expect("a valid name"),
        target: "netns:blue".parse::<Target>().expect("a valid target"),
        link_name: None,
    }
}

#[tokio::test]
async fn a_mutation_carries_token_tenant_wait_and_body() {
    let attach = |Path(id): Path<String>,
                  Query(query): Query<Value>,
                  headers: HeaderMap,
                  Json(body): Json<Value>| async move {
        assert_eq!(id, "nic-abc0123xyz");
        assert_eq!(query, json!({"wait": "30s"}));
        assert_eq!(headers[path::CLIENT_TOKEN_HEADER], "token-1");
        assert_eq!(headers[path::TENANT_HEADER], "acme");
        let target = json!({"kind": "netns", "name": "blue"});
        assert_eq!(body, json!({"vm": "web-1", "target": target}));
        (StatusCode::ACCEPTED, Json(nic()))
    };
    let server = Server::start(axum::Router::new().route(path::NIC_ATTACH, post(attach)));
    let client = server.client().for_tenant("acme".parse().unwrap());
    let mutation = Mutation {
        token: Some("token-1".parse().unwrap()),
        wait: Some("30s".parse().unwrap()),
    };

    let answer = client
        .attach_nic(&id(), &attachment(), &mutation)
        .await
        .unwrap();

    assert_eq!(answer.progress, Progress::UnderWay);
    assert_eq!(answer.nic.id, id());
}

#[tokio::test]
async fn a_refusal_arrives_with_all_it_says() {
    let mut problem = Problem::new(ProblemCode::Conflict, "the MAC address is taken");
    problem.field = Some("mac".to_owned());
    let sent = problem.clone();
    let refuse = move || async move { (StatusCode::CONFLICT, Json(sent)) };
    let server = Server::start(axum::Router::new().route(path::NIC, any(refuse)));

    let error = server.client().nic(&id()).await.unwrap_err();

    assert!(!error.may_have_happened());
    let ClientError::Problem {
        problem: received,
        status: 409,
    } = error
    else {
        panic!("{error:?}");
    };
    assert_eq!(*received, problem);
}

#[tokio::test]
async fn a_missing_daemon_is_named_by_its_socket() {
    let error = Client::unix("/nowhere/hostd.sock")
        .nics()
        .await
        .unwrap_err();

    assert!(
        matches!(error, ClientError::NotReachable { .. }),
        "{error:?}"
    );
    assert_eq!(
        error.to_string(),
        "hostd cannot be reached at /nowhere/hostd.sock"
    );
}

#[tokio::test]
async fn a_connection_that_breaks_under_way_is_told_from_one_never_made() {
    let half = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"nics\":".to_vec();
    let server = Server::saying(half);

    let error = server.client().nics().await.unwrap_err();

    assert!(matches!(error, ClientError::Interrupted(_)), "{error:?}");
    assert!(error.may_have_happened());
}

#[tokio::test]
async fn answers_that_make_no_sense_are_typed_errors() {
    let bodies = ["", "<html>", "{\"nics\": 3}", "[[[[[[[["];
    for body in bodies {
        let server = Server::start(axum::Router::new().fallback(move || async move { body }));

        let error = server.client().nics().await.unwrap_err();

        assert!(
            matches!(error, ClientError::Protocol { .. }),
            "{body}: {error:?}"
        );
    }
    let server = Server::start(axum::Router::new().fallback(|| async { StatusCode::BAD_GATEWAY }));
    let error = server.client().nics().await.unwrap_err();
    assert!(error.to_string().contains("status 502"), "{error}");
}

#[tokio::test]
async fn an_endless_answer_is_cut_at_the_cap() {
    let endless = |_: Request| async {
        let zeros = Bytes::from(vec![b' '; 1024 * 1024]);
        Body::from_stream(stream::repeat_with(move || {
            Ok::<_, Infallible>(zeros.clone())
        }))
    };
    let server = Server::start(axum::Router::new().fallback(endless));

    let error = server.client().nics().await.unwrap_err();

    assert!(
        error.to_string().contains("length limit exceeded"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_never_answers_costs_ten_seconds_and_the_wait_asked_for() {
    let silent = || async { std::future::pending::<StatusCode>().await };
    let server = Server::start(axum::Router::new().fallback(silent));
    let mutation = Mutation {
        token: None,
        wait: Some("30s".parse().unwrap()),
    };

    let query = server.client().nics().await.unwrap_err();
    let change = server
        .client()
        .detach_nic(&id(), &mutation)
        .await
        .unwrap_err();

    assert!(
        matches!(query, ClientError::TimedOut { waited_ms: 10_000 }),
        "{query:?}"
    );
    assert!(
        matches!(change, ClientError::TimedOut { waited_ms: 40_000 }),
        "{change:?}"
    );
}

#[tokio::test]
async fn bad_health_is_an_answer() {
    let health = Health {
        status: HealthStatus::Degraded,
        version: "0.1.0".to_owned(),
        problems: vec!["the journal's disk is full".to_owned()],
    };
    let sent = health.clone();
    let degraded = move || async move { (StatusCode::SERVICE_UNAVAILABLE, Json(sent)) };
    let server = Server::start(axum::Router::new().route(path::HEALTH, get(degraded)));

    assert_eq!(server.client().health().await.unwrap(), health);
}

fn event(number: u64) -> Event {
    Event {
        id: number,
        at_ms: 1,
        kind: EventKind::NicDeleted,
        nic: Some(id()),
        vm: None,
        step: None,
        body: None,
        message: None,
    }
}

fn as_sent(event: &Event) -> String {
    let data = serde_json::to_string(event).expect("an event is plain data");
    format!("id: {}\nevent: {}\ndata: {data}\n\n", event.id, event.kind)
}

#[tokio::test]
async fn events_arrive_in_order_until_the_stream_ends() {
    let send = |Query(query): Query<Value>, headers: HeaderMap| async move {
        assert_eq!(query, json!({"nic": "nic-abc0123xyz", "vm": "web-1"}));
        assert_eq!(headers[path::LAST_EVENT_ID_HEADER], "6");
        format!(": alive\n\n{}{}", as_sent(&event(7)), as_sent(&event(8))).into_response()
    };
    let server = Server::start(axum::Router::new().route(path::EVENTS, get(send)));
    let query = EventQuery {
        nic: Some(id()),
        vm: Some("web-1".parse().unwrap()),
    };

    let mut events = server.client().events(&query, Some(6)).await.unwrap();

    assert_eq!(events.next().await.unwrap().unwrap(), event(7));
    assert_eq!(events.next().await.unwrap().unwrap(), event(8));
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn a_stream_that_falls_silent_is_given_up_after_a_minute() {
    let silent = || async { Body::from_stream(stream::pending::<Result<Bytes, Infallible>>()) };
    let server = Server::start(axum::Router::new().route(path::EVENTS, get(silent)));
    let client = server.client();
    let mut events = client.events(&EventQuery::default(), None).await.unwrap();
    tokio::time::pause();
    let begun = tokio::time::Instant::now();

    let error = events.next().await.unwrap().unwrap_err();

    assert!(matches!(error, ClientError::TimedOut { .. }), "{error:?}");
    assert_eq!(begun.elapsed().as_secs(), Duration::from_secs(60).as_secs());
}

#[tokio::test]
async fn a_refused_stream_says_why() {
    let refuse = || async {
        let problem = Problem::new(ProblemCode::InvalidRequest, "no such filter");
        (StatusCode::BAD_REQUEST, Json(problem))
    };
    let server = Server::start(axum::Router::new().route(path::EVENTS, get(refuse)));

    let error = server
        .client()
        .events(&EventQuery::default(), None)
        .await
        .unwrap_err();

    assert_eq!(error.to_string(), "no such filter");
}
