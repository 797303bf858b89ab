//! `nicctl` as its users meet it: the program itself against a daemon that answers as told.

mod daemon;

use std::convert::Infallible;
use std::future::pending;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Query;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, delete, get, post};
use axum::{Json, Router};
use futures::stream;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::Notify;
use tokio::time::timeout;

use daemon::{Daemon, RUN_MAX, Seen, as_sent, guest_step, nic, step, step_event};

const NIC: &str = "nic-abc0123xyz";
const ATTACH: &str = "nic attach nic-abc0123xyz --vm web-1 --target netns:blue";

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A daemon whose attach tells two steps by events and waits for `go` before it answers.
fn stepping(go: &Arc<Notify>) -> Daemon {
    let go = Arc::clone(go);
    Daemon::start(move |shared| {
        let events = shared.clone();
        let attach = move || async move {
            let plug = step("plug", 1.0);
            assert_eq!(
                events.send(&step_event(1, "nic-0000000000", &step("other", 0.5))),
                1
            );
            assert_eq!(events.send(&step_event(2, NIC, &plug)), 1);
            go.notified().await;
            Json(nic("in_use", &[plug, guest_step(), step("bind", 3.0)]))
        };
        shared.with_events(Router::new().route("/v1/nics/{id}/attach", post(attach)))
    })
}

#[tokio::test]
async fn steps_are_shown_while_the_request_is_still_under_way() {
    let go = Arc::new(Notify::new());
    let daemon = stepping(&go);
    let mut child = daemon
        .command(ATTACH)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();

    let first = lines.next_line().await.unwrap().unwrap();
    go.notify_one();
    let mut rest = Vec::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        rest.push(line);
    }

    assert_eq!(
        first,
        "      +1.0 ms  plug                      1.5 ms  host"
    );
    assert_eq!(
        rest,
        [
            "               guest-set-addresses       0.5 ms  guest",
            "      +3.0 ms  bind                      1.5 ms  host",
            "nic-abc0123xyz is in_use in web-1, netns:blue as eth0: 5a:00:00:00:00:01, \
             10.0.0.5/24 (4.5 ms)",
        ]
    );
    assert!(child.wait().await.unwrap().success());
}

#[tokio::test]
async fn for_programs_the_body_stands_alone_and_steps_go_to_the_other_stream() {
    let go = Arc::new(Notify::new());
    go.notify_one();
    let daemon = stepping(&go);

    let output = daemon.run(&format!("--json {ATTACH}")).await;

    let body: Value = serde_json::from_slice(&output.stdout).unwrap();
    let steps = [step("plug", 1.0), guest_step(), step("bind", 3.0)];
    assert_eq!(body, nic("in_use", &steps));
    assert_eq!(stdout(&output).lines().count(), 1);
    let steps = stderr(&output);
    assert!(steps.contains("plug") && steps.contains("bind"), "{steps}");
    assert!(!steps.contains("other"), "{steps}");
}

/// A daemon whose attach is blocked, tells so, and is never answered.
fn blocking() -> Daemon {
    Daemon::start(|shared| {
        let events = shared.clone();
        let attach = move || async move {
            let mut body = nic("attaching", &[]);
            body["blocked"] =
                json!({"reason": "the VM is paused", "since_ms": 0, "next_retry_ms": 1000});
            let told = |id| {
                json!({"id": id, "at_ms": 1000, "kind": "nic_changed", "nic": NIC,
                "body": body})
            };
            assert_eq!(events.send(&told(1)) + events.send(&told(2)), 2);
            assert_eq!(events.send(&step_event(3, NIC, &step("plug", 1.0))), 1);
            pending::<Response>().await
        };
        shared.with_events(Router::new().route("/v1/nics/{id}/attach", post(attach)))
    })
}

#[tokio::test]
async fn what_blocks_a_nic_is_told_at_once_and_once_and_ctrl_c_says_that_work_goes_on() {
    let daemon = blocking();
    let mut command = daemon.command(ATTACH);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let blocked = lines.next_line().await.unwrap().unwrap();
    let after = lines.next_line().await.unwrap().unwrap();

    let pid = i32::try_from(child.id().unwrap()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::INT).unwrap();

    let output = child.wait_with_output().await.unwrap();
    assert_eq!(
        blocked,
        "blocked: the VM is paused (since 1970-01-01T00:00:00.000Z, \
         next try 1970-01-01T00:00:01.000Z)"
    );
    assert!(after.contains("plug"), "{after}");
    assert_eq!(output.status.code(), Some(130));
    assert_eq!(
        stderr(&output),
        "error: interrupted; hostd goes on with what it has been asked\n  \
         hint: `nicctl nic watch nic-abc0123xyz` shows how it goes on\n"
    );
}

#[tokio::test]
async fn a_create_is_sent_again_with_its_token_to_wait_for_the_end() {
    let daemon = Daemon::start(|shared| {
        let create = |Query(query): Query<Value>, Json(body): Json<Value>| async move {
            assert_eq!(body["attach"]["vm"], "web-1");
            match query.get("wait") {
                None => (StatusCode::ACCEPTED, Json(nic("attaching", &[]))),
                Some(wait) => {
                    assert_eq!(wait, "5s");
                    (StatusCode::OK, Json(nic("in_use", &[])))
                }
            }
        };
        shared.with_events(Router::new().route("/v1/nics", post(create)))
    });

    let line = "nic create --network blue --attach web-1 --target netns:blue --wait 5s";
    let output = daemon.run(line).await;

    assert!(output.status.success(), "{}", stderr(&output));
    let requests = daemon.requests();
    let lines = requests
        .iter()
        .map(|seen| seen.line.as_str())
        .collect::<Vec<_>>();
    assert_eq!(lines, ["POST /v1/nics", "POST /v1/nics?wait=5s"]);
    assert!(requests[0].token.is_some());
    assert_eq!(requests[0].token, requests[1].token);
}

#[tokio::test]
async fn without_waiting_one_request_is_sent_and_an_unfinished_answer_is_fine() {
    let daemon = Daemon::start(|_| {
        let detach = || async { (StatusCode::ACCEPTED, Json(nic("detaching", &[]))) };
        Router::new().route("/v1/nics/{id}/detach", post(detach))
    });

    let output = daemon
        .run(&format!("nic detach {NIC} --no-wait --token mine"))
        .await;

    assert!(output.status.success(), "{}", stderr(&output));
    let expected = Seen {
        line: format!("POST /v1/nics/{NIC}/detach"),
        token: Some("mine".to_owned()),
    };
    assert_eq!(daemon.requests(), [expected]);
}

/// An answer that ends before it is whole.
fn broken() -> Response {
    let body = stream::iter([Ok("{"), Err(std::io::Error::other("broken"))]);
    Body::from_stream(body).into_response()
}

/// A daemon that breaks the first `breaks` connections that ask it to delete a NIC.
fn breaking(breaks: usize) -> Daemon {
    Daemon::start(move |shared| {
        let count = Arc::new(AtomicUsize::new(0));
        let delete_nic = move || async move {
            if count.fetch_add(1, Ordering::Relaxed) < breaks {
                return broken();
            }
            Json(nic("deleting", &[])).into_response()
        };
        shared.with_events(Router::new().route("/v1/nics/{id}", delete(delete_nic)))
    })
}

#[tokio::test]
async fn a_broken_connection_is_made_good_once_with_the_same_token() {
    let daemon = breaking(1);

    let output = daemon.run(&format!("nic delete {NIC}")).await;

    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stdout(&output), "nic-abc0123xyz is deleted\n");
    let requests = daemon.requests();
    assert_eq!(requests.len(), 2);
    assert!(requests[0].token.is_some());
    assert_eq!(requests[0], requests[1]);
}

#[tokio::test]
async fn a_connection_that_breaks_again_is_given_up() {
    let daemon = breaking(usize::MAX);

    let output = daemon.run(&format!("nic delete {NIC}")).await;

    assert_eq!(output.status.code(), Some(6));
    assert_eq!(daemon.requests().len(), 2);
    let text = stderr(&output);
    let start = "error: what became of the request is not known: the connection to hostd broke: ";
    assert!(text.starts_with(start), "{text}");
    assert!(text.contains("nicctl nic watch nic-abc0123xyz"), "{text}");
}

#[tokio::test]
async fn a_daemon_that_restarts_meanwhile_is_awaited() {
    let daemon = Daemon::start(|shared| {
        let socket = shared.socket.clone();
        let is_restarted = Arc::new(AtomicUsize::new(0));
        let delete_nic = move || async move {
            if is_restarted.fetch_add(1, Ordering::Relaxed) > 0 {
                return Json(nic("deleting", &[])).into_response();
            }
            let away = socket.with_extension("away");
            std::fs::rename(&socket, &away).unwrap();
            tokio::spawn(async move {
                // tidy: sleep because an absent daemon cannot notice an attempt to reach it.
                tokio::time::sleep(Duration::from_millis(150)).await;
                std::fs::rename(&away, &socket).unwrap();
            });
            broken()
        };
        shared.with_events(Router::new().route("/v1/nics/{id}", delete(delete_nic)))
    });

    let output = daemon.run(&format!("nic delete {NIC}")).await;

    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(daemon.requests().len(), 2);
}

fn refusing(code: &'static str, status: StatusCode) -> Daemon {
    Daemon::start(move |_| {
        let refuse = move || async move {
            let limit = json!({"name": "max_nics", "value": 8, "usage": 8, "frees": "a detach"});
            let body = json!({
                "code": code, "message": "no room in web-1", "field": "attach.vm",
                "limit": limit, "hint": "try web-2",
            });
            (status, Json(body))
        };
        Router::new().fallback(any(refuse))
    })
}

#[tokio::test]
async fn a_refusal_is_told_whole_and_by_its_exit_code() {
    let cases = [
        ("invalid_request", StatusCode::BAD_REQUEST, 2),
        ("limit_exceeded", StatusCode::CONFLICT, 3),
        ("not_found", StatusCode::NOT_FOUND, 4),
        ("timed_out", StatusCode::GATEWAY_TIMEOUT, 5),
        ("internal", StatusCode::INTERNAL_SERVER_ERROR, 1),
    ];
    for (code, status, exit_code) in cases {
        let daemon = refusing(code, status);

        let output = daemon.run(ATTACH).await;

        assert_eq!(output.status.code(), Some(exit_code), "{code}");
        assert_eq!(stdout(&output), "");
        assert_eq!(
            stderr(&output),
            "error: no room in web-1\n  field: attach.vm\n  limit: max_nics is 8\n  in use: 8\n  \
             to free some: a detach\n  hint: try web-2\n"
        );
    }
}

#[tokio::test]
async fn programs_get_the_reason_of_a_refusal_as_it_came() {
    let daemon = refusing("limit_exceeded", StatusCode::CONFLICT);

    let output = daemon.run(&format!("--json {ATTACH}")).await;

    let body: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(body["code"], "limit_exceeded");
    assert_eq!(body["limit"]["usage"], 8);
}

/// A daemon without events whose attach is answered with `status` and `body`.
fn attaching(status: StatusCode, body: Value) -> Daemon {
    Daemon::start(move |_| {
        let attach = move || async move { (status, Json(body)) };
        Router::new()
            .route("/v1/nics/{id}/attach", post(attach))
            .fallback(|| async { not_found() })
    })
}

fn not_found() -> (StatusCode, Json<Value>) {
    let problem = json!({"code": "not_found", "message": "there is no such path"});
    (StatusCode::NOT_FOUND, Json(problem))
}

#[tokio::test]
async fn what_blocks_a_nic_is_told_when_the_time_is_over() {
    let mut body = nic("attaching", &[]);
    body["blocked"] = json!({"reason": "the VM is paused", "since_ms": 0, "next_retry_ms": 1000});
    let daemon = attaching(StatusCode::ACCEPTED, body);

    let output = daemon.run(&format!("{ATTACH} --wait 1s")).await;

    assert_eq!(output.status.code(), Some(5));
    assert_eq!(
        stderr(&output),
        "error: nic-abc0123xyz is still attaching after 1s\n  blocked: the VM is paused \
         (since 1970-01-01T00:00:00.000Z, next try 1970-01-01T00:00:01.000Z)\n  \
         hint: hostd goes on; `nicctl nic watch nic-abc0123xyz` shows how\n"
    );
}

#[tokio::test]
async fn a_nic_that_settles_elsewhere_is_a_failure_with_its_reason() {
    let mut available = nic("available", &[]);
    available["placement"] = Value::Null;
    available["last_error"] = json!({"code": "target_gone", "message": "netns:blue is gone"});
    let mut elsewhere = nic("in_use", &[]);
    elsewhere["placement"]["vm"] = json!("web-2");
    for (body, exit_code) in [(available, 4), (elsewhere, 1)] {
        let daemon = attaching(StatusCode::OK, body);

        let output = daemon.run(ATTACH).await;

        assert_eq!(output.status.code(), Some(exit_code), "{}", stderr(&output));
    }
}

#[tokio::test]
async fn lists_are_tables_for_people_and_the_body_for_programs() {
    let body = json!({"nics": [nic("in_use", &[])]});
    let sent = body.clone();
    let daemon = Daemon::start(move |_| {
        Router::new().route("/v1/nics", get(move || async move { Json(sent) }))
    });

    let table = daemon.run("nic list").await;
    let elsewhere = daemon.run("nic list --vm web-2").await;
    let json = daemon.run("nic list --json").await;

    assert_eq!(stdout(&table).lines().count(), 2);
    assert!(stdout(&table).contains("nic-abc0123xyz  in_use  web-1"));
    assert_eq!(stdout(&elsewhere).lines().count(), 1);
    assert_eq!(serde_json::from_slice::<Value>(&json.stdout).unwrap(), body);
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_error() {
    let go = Arc::new(Notify::new());
    let answer = Arc::clone(&go);
    let daemon = Daemon::start(move |_| {
        let list = move || async move {
            answer.notified().await;
            Json(json!({"nics": [nic("in_use", &[])]}))
        };
        Router::new().route("/v1/nics", get(list))
    });
    let mut command = daemon.command("nic list");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    go.notify_one();

    let output = child.wait_with_output().await.unwrap();

    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stderr(&output), "");
}

#[tokio::test]
async fn following_ends_with_its_reader_and_not_at_the_next_event() {
    let daemon = Daemon::start(|shared| shared.with_events(Router::new()));
    let mut command = daemon.command("events");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());

    let output = timeout(RUN_MAX, child.wait_with_output());

    let output = output.await.expect("it ends by itself").unwrap();
    assert_eq!(
        (output.status.code(), stderr(&output)),
        (Some(0), String::new())
    );
}

#[tokio::test]
async fn health_is_a_failure_when_hostd_cannot_work() {
    let body = json!({"status": "degraded", "version": "1.2.3", "problems": ["no disk"]});
    let sent = body.clone();
    let daemon = Daemon::start(move |_| {
        let answer = (StatusCode::SERVICE_UNAVAILABLE, Json(sent));
        Router::new().route("/v1/health", get(move || async move { answer }))
    });

    let people = daemon.run("health").await;
    let programs = daemon.run("health --json").await;

    assert_eq!(stdout(&people), "hostd 1.2.3 is degraded\n  no disk\n");
    assert_eq!(people.status.code(), Some(1));
    assert_eq!(
        serde_json::from_slice::<Value>(&programs.stdout).unwrap(),
        body
    );
}

/// A daemon whose stream of events ends after the first one and goes on where it ended.
fn interrupted_events() -> Daemon {
    Daemon::start(|_| {
        let events = |headers: HeaderMap| async move {
            let event = |id: u64, kind: &str| {
                as_sent(&json!({"id": id, "at_ms": 1000, "kind": kind, "nic": NIC}))
            };
            let text = match headers.get("last-event-id").map(|id| id.as_bytes()) {
                None => event(1, "vm_changed"),
                Some(b"1") => event(2, "nic_deleted"),
                Some(other) => panic!("{other:?}"),
            };
            Body::from_stream(stream::iter([Ok::<_, Infallible>(text)]))
        };
        Router::new()
            .route("/v1/events", get(events))
            .route("/v1/nics/{id}", get(|| async { Json(nic("in_use", &[])) }))
    })
}

#[tokio::test]
async fn watching_goes_on_where_the_stream_broke_and_ends_with_the_nic() {
    let daemon = interrupted_events();

    let people = daemon.run(&format!("nic watch {NIC}")).await;
    let programs = daemon.run(&format!("nic watch {NIC} --json")).await;

    assert!(people.status.success(), "{}", stderr(&people));
    let lines = stdout(&people)
        .lines()
        .map(str::to_owned)
        .collect::<Vec<_>>();
    assert_eq!(lines[0], "nic:         nic-abc0123xyz");
    let last = ["vm_changed", "nic_deleted"]
        .map(|kind| format!("1970-01-01T00:00:01.000Z  {kind:<11}  {NIC}  -"));
    assert_eq!(lines[lines.len() - 2..], last);
    let ids = stdout(&programs)
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].clone())
        .collect::<Vec<_>>();
    assert_eq!(ids, [1, 2]);
}

#[tokio::test]
async fn an_absent_daemon_is_named_by_its_socket() {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_nicctl"));
    command.env("NICFERRY_SOCKET", "/nowhere/hostd.sock");

    let output = command.args(["vm", "list"]).output().await.unwrap();

    assert_eq!(output.status.code(), Some(6));
    let text = stderr(&output);
    assert!(text.starts_with("error: hostd cannot be reached at /nowhere/hostd.sock: No such"));
    assert!(text.contains("hint: is hostd running?"), "{text}");
}

#[tokio::test]
async fn wrong_usage_sends_nothing() {
    let daemon = Daemon::start(|_| Router::new());

    let output = daemon.run("nic attach eth0").await;

    assert_eq!(output.status.code(), Some(2));
    assert_eq!(daemon.requests(), []);
}

#[tokio::test]
async fn colours_are_for_terminals() {
    let daemon = Daemon::start(|_| Router::new());
    for words in ["--help", "nic attach --help", "nic attach eth0"] {
        let output = daemon.run(words).await;

        let text = stdout(&output) + &stderr(&output);
        assert!(text.contains("Usage") || text.contains("--help"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }
}

#[tokio::test]
async fn completion_scripts_know_every_command() {
    let daemon = Daemon::start(|_| Router::new());
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = daemon.run(&format!("completion {shell}")).await;

        let script = stdout(&output);
        for word in ["detach", "watch", "limits", "network"] {
            assert!(script.contains(word), "{shell} does not know {word}");
        }
    }
    assert_eq!(daemon.requests(), []);
}
