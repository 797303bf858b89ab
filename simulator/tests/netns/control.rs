//! Orders over HTTP: who may give them, and what a refusal looks like.

use std::cell::RefCell;
use std::fmt::Display;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use misbehaviour::Effect;
use simulator::netns::Page;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::net::{TcpStream, UnixStream};
use tokio::process::Command;
use tokio::time::timeout;

use crate::cells::rule_with as rule;
use crate::support::{Bed, Cloud, PATIENCE, User, until};

const JSON: &str = "content-type: application/json";

async fn over_tcp() -> (Cloud, String) {
    let bed = Bed::of(User::Own);
    let cloud = bed.up(&["--vms", "1", "--listen", "127.0.0.1:0"]).await;
    let url = cloud.started.state.url.clone().unwrap();
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    let address = address.to_owned();
    (cloud, address)
}

/// The whole answer to a request of one line and these headers.
async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    line: impl Display,
    headers: &[&str],
    body: &str,
) -> String {
    let headers = headers.join("\r\n");
    let length = body.len();
    let rest = format!("connection: close\r\ncontent-length: {length}\r\n\r\n{body}");
    let request = format!("{line} HTTP/1.1\r\n{headers}\r\n{rest}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn orders_are_taken_over_tcp_from_programs_alone() {
    let (cloud, address) = over_tcp().await;
    let host = format!("host: {address}");
    let ask = async |line| {
        let stream = TcpStream::connect(&address).await.unwrap();
        ask(stream, line, &[&host], "").await
    };

    let page = ask("GET /").await;
    let from_a_form = ask("POST /v1/down").await;
    let from_an_image = ask("GET /v1/snapshot").await;

    assert!(
        page.starts_with("HTTP/1.1 200") && page.contains("\"vm1\""),
        "{page}"
    );
    assert!(from_a_form.starts_with("HTTP/1.1 415"), "{from_a_form}");
    assert!(from_an_image.starts_with("HTTP/1.1 405"), "{from_an_image}");
    assert_eq!(cloud.hostd().vms().await.unwrap().vms.len(), 1);
}

#[tokio::test]
async fn over_tcp_a_user_without_a_directory_of_its_own_is_answered_too() {
    let bed = Bed::of(User::Nobody);
    // Below /tmp, which all clouds share that are started like this.
    let name = format!("tcp{}", std::process::id());
    let listen = ["--name", &name, "--vms", "1", "--listen", "127.0.0.1:0"];
    let mut command = bed.command(&[&["up", "--json", "--tied"], &listen[..]].concat());
    command.env_remove("XDG_RUNTIME_DIR");
    let cloud = bed.started(command).await;
    let url = cloud.started.state.url.clone().unwrap();
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    let stream = TcpStream::connect(address).await.unwrap();

    let page = ask(stream, "GET /", &[&format!("host: {address}")], "").await;

    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    let directory = cloud.started.state.directory.clone();
    cloud.started.end().await.unwrap();
    assert!(!directory.exists(), "{}", directory.display());
    // Unless others have clouds there.
    std::fs::remove_dir(directory.parent().unwrap()).unwrap_or_default();
}

#[tokio::test]
async fn over_tcp_nobody_else_s_name_leads_here() {
    let (_cloud, address) = over_tcp().await;
    let port = address.rsplit_once(':').unwrap().1;
    for (name, expected) in [
        ("localhost", "200"),
        ("[::1]", "200"),
        ("rebound.example", "403"),
    ] {
        let stream = TcpStream::connect(&address).await.unwrap();

        let answer = ask(stream, "GET /", &[&format!("host: {name}:{port}")], "").await;

        assert!(
            answer.starts_with(&format!("HTTP/1.1 {expected}")),
            "{name}: {answer}"
        );
    }
}

#[tokio::test]
async fn every_refusal_has_one_form() {
    let cloud = Bed::of(User::Own).up(&["--vms", "1"]).await;
    let rule = "{\"name\": \"a\", \"operation\": 7}";
    for (line, body, expected) in [
        ("POST /v1/rules", rule, "422"),
        ("POST /v1/rules", "{", "400"),
        ("POST /v1/rule", "", "404"),
        ("DELETE /v1/rules/none", "", "404"),
        ("GET /v1/down", "", "405"),
        ("GET /v1/events?after=x", "", "400"),
        ("POST /v1/vms/vm9/kill", "", "404"),
    ] {
        let stream = UnixStream::connect(&cloud.started.state.control)
            .await
            .unwrap();

        let answer = ask(stream, line, &["host: simulator", JSON], body).await;

        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with(&format!("HTTP/1.1 {expected}")),
            "{line}: {answer}"
        );
        let refusal: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
        let error = refusal["error"].as_str().unwrap_or_default();
        assert!(!error.is_empty(), "{line}: {answer}");
    }
}

#[tokio::test]
async fn json_may_name_its_character_set() {
    let cloud = Bed::of(User::Own).up(&["--vms", "1"]).await;
    let stream = UnixStream::connect(&cloud.started.state.control)
        .await
        .unwrap();
    let kind = "content-type: application/json; charset=utf-8";
    let pace = "{\"transition\": \"plug\", \"pace\": \"manual\"}";

    let answer = ask(stream, "POST /v1/paces", &["host: simulator", kind], pace).await;

    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
}

#[tokio::test]
async fn a_rule_goes_by_its_name_whatever_is_in_it_and_no_other_does() {
    let cloud = Bed::of(User::Own).up(&["--vms", "1"]).await;
    let kept = ["q", "a", "%41"];
    let removed = [
        "q?x", "a b", "a/b", "a#b", "A", "%2541", "ö", "..", "a/../q",
    ];
    for name in kept.iter().chain(&removed) {
        let rule = ["--at", "guest.unplug", "--effect", "refuse"];
        let add = [&["rules", "add", name], &rule[..]].concat();
        assert!(cloud.bed.run(&add).await.status.success(), "{name}");
    }

    for name in removed {
        let output = cloud.bed.run(&["rules", "remove", name]).await;
        assert!(output.status.success(), "{name}: {output:?}");
    }
    let unknown = cloud.bed.run(&["rules", "remove", "q?y"]).await;

    assert!(!unknown.status.success(), "{unknown:?}");
    let rules = cloud.started.control().get("/v1/rules").await;
    let rules: Vec<simulator::netns::RulePage> = rules.unwrap();
    let left: Vec<_> = rules.iter().map(|page| page.rule.name.as_str()).collect();
    assert_eq!(left, kept);
}

#[tokio::test]
async fn what_is_no_number_is_named_as_it_was_typed() {
    let bed = Bed::of(User::Own);
    let rule = [
        "rules",
        "add",
        "a",
        "--at",
        "guest.plug",
        "--effect",
        "lose",
    ];
    let speed = ["clock", "speed", "nan"];
    for arguments in [&speed[..], &[&rule[..], &["--probability", "nan"]].concat()] {
        let output = bed.run(arguments).await;

        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("'nan'"), "{said}");
        assert!(said.contains("not a finite number"), "{said}");
    }
}

/// A fifo that is full, and stays so for as long as its end is held.
fn full_fifo(bed: &Bed) -> (std::fs::File, String) {
    let path = fifo(bed, "unread");
    let mut options = std::fs::OpenOptions::new();
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap();
    let mut fifo = options
        .read(true)
        .write(true)
        .custom_flags(nonblocking)
        .open(&path)
        .unwrap();
    while fifo.write(&[b'x'; 4096]).is_ok() {}
    while fifo.write(b"x").is_ok() {}
    (fifo, path)
}

#[tokio::test]
async fn a_log_that_nobody_reads_holds_no_cloud_up() {
    let bed = Bed::of(User::Own);
    let (_unread, log) = full_fifo(&bed);
    let up = bed.command(&["up", "--json", "--tied", "--vms", "1"]);
    let mut quietly = tokio::process::Command::new("sh");
    quietly.args(["-c", "exec 2>\"$0\"; exec \"$@\"", &log]);
    quietly
        .arg(up.as_std().get_program())
        .args(up.as_std().get_args());
    quietly.env("XDG_RUNTIME_DIR", bed.directory.path());

    let cloud = timeout(PATIENCE, bed.started(quietly)).await;

    let cloud = cloud.expect("it comes up");
    let control = cloud.started.control();
    control
        .post("/v1/rules", &rule("r", "guest.plug", Effect::Lose))
        .await
        .unwrap();
}

#[tokio::test]
async fn what_has_begun_is_done_also_when_nobody_waits_for_it() {
    let bed = Bed::of(User::Own);
    let simulator = bed.own_programs().join("simulator");
    let mut up = Command::new(&simulator);
    up.args(["up", "--json", "--tied", "--vms", "1"]);
    up.env("XDG_RUNTIME_DIR", bed.directory.path());
    let cloud = bed.started(up).await;
    let control = cloud.started.control();
    control.post("/v1/vms/vm1/kill", &()).await.unwrap();
    let barrier = hold_machines_up(&cloud.bed, &simulator);
    let mut hasty = UnixStream::connect(&cloud.started.state.control)
        .await
        .unwrap();
    let request = format!("POST /v1/vms/vm1/start HTTP/1.1\r\nhost: simulator\r\n{JSON}\r\n\r\n");

    hasty.write_all(request.as_bytes()).await.unwrap();
    let opened = RefCell::new(None);
    until("the machine waits at the barrier", async || {
        opened.replace(pipe::OpenOptions::new().open_sender(&barrier).ok());
        opened.borrow().is_some()
    })
    .await;
    drop(hasty);
    let mut opened = opened.into_inner().unwrap();
    opened.write_all(b"go\n").await.unwrap();

    until("its end is told", async || {
        let page: Page = control.get("/").await.unwrap();
        let end = "POST /v1/vms/vm1/start, for which nobody waits, is done";
        page.vms[0].pid.is_some() && page.events.iter().any(|event| event.text == end)
    })
    .await;
}

/// Has every machine wait until something is written to the pipe whose path is returned.
fn hold_machines_up(bed: &Bed, simulator: &Path) -> String {
    let (barrier, real) = (fifo(bed, "barrier"), simulator.with_extension("real"));
    fs::rename(simulator, &real).unwrap();
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = machine ] && read -r go <'{barrier}'\nexec '{}' \"$@\"\n",
        real.display()
    );
    let fresh = bed.file("held-up", &script);
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(fresh, simulator).unwrap();
    barrier
}

/// The path of a named pipe.
fn fifo(bed: &Bed, name: &str) -> String {
    let path = bed.directory.path().join(name);
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    assert!(made.unwrap().success());
    path.into_os_string().into_string().unwrap()
}
