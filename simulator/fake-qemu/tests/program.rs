//! The program itself: its command line, its sockets, its end.

#![expect(clippy::unwrap_used, reason = "set-up that fails is a failed test")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Long enough never to pass in a test that works.
const PATIENT: Duration = Duration::from_secs(60);

fn program() -> Command {
    let path = std::env::var("CARGO_BIN_EXE_fake-qemu");
    Command::new(path.unwrap_or_else(|_| env!("CARGO_BIN_EXE_fake-qemu").to_owned()))
}

/// Killed when dropped.
struct Running {
    child: Child,
    directory: TempDir,
}

impl Running {
    fn start(extra: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("monitor");
        let child = program()
            .args([
                "--qmp",
                &format!("unix:{},server=on,wait=off", socket.display()),
            ])
            .args(extra)
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, directory }
    }

    fn connect(&self) -> Monitor {
        Monitor::connect(&self.directory.path().join("monitor"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

struct Monitor(BufReader<UnixStream>);

impl Monitor {
    fn connect(socket: &Path) -> Self {
        let begun = Instant::now();
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(error) => assert!(begun.elapsed() < PATIENT, "{error}"),
            }
            std::thread::yield_now();
        };
        stream.set_read_timeout(Some(PATIENT)).unwrap();
        let mut monitor = Self(BufReader::new(stream));
        assert!(monitor.message().unwrap().get("QMP").is_some());
        monitor.ask("qmp_capabilities", &json!({}));
        monitor
    }

    fn message(&mut self) -> Option<Value> {
        let mut line = String::new();
        let count = self.0.read_line(&mut line).unwrap();
        (count > 0).then(|| serde_json::from_str(&line).unwrap())
    }

    fn ask(&mut self, command: &str, arguments: &Value) -> Value {
        let request = json!({"execute": command, "arguments": arguments});
        writeln!(self.0.get_mut(), "{request}").unwrap();
        loop {
            let message = self.message().unwrap();
            if message.get("event").is_none() {
                return message;
            }
        }
    }
}

fn refused(arguments: &[&str]) -> String {
    let Output { status, stderr, .. } = program().args(arguments).output().unwrap();
    assert!(!status.success(), "{arguments:?}");
    String::from_utf8(stderr).unwrap()
}

#[test]
fn it_is_the_qemu_it_is_told_to_be() {
    let running = Running::start(&[
        "--profile",
        "qemu-8.1",
        "--root-ports",
        "3",
        "--name",
        "vm7",
    ]);
    let mut monitor = running.connect();

    let version = monitor.ask("query-version", &json!({}));
    let name = monitor.ask("query-name", &json!({}));
    let objects = monitor.ask("qom-list", &json!({"path": "/machine/peripheral"}));

    assert_eq!(version["return"]["qemu"]["minor"], 1);
    assert_eq!(name["return"]["name"], "vm7");
    let ports = objects["return"].as_array().unwrap().iter();
    let ports = ports.filter(|object| object["type"] == "child<pcie-root-port>");
    assert_eq!(ports.count(), 3);
}

#[test]
fn it_ends_when_it_is_told_to_and_leaves_no_socket() {
    let mut running = Running::start(&[]);
    let mut monitor = running.connect();

    monitor.ask("quit", &json!({}));

    assert_eq!(monitor.message(), None);
    assert!(running.child.wait().unwrap().success());
    assert!(!running.directory.path().join("monitor").exists());
}

#[test]
fn a_signal_ends_it_with_a_word_of_the_reason_as_qemu_7_2() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut running = Running::start(&[]);
        let mut monitor = running.connect();

        kill_process(Pid::from_child(&running.child), signal).unwrap();

        let event = monitor.message().unwrap();
        assert_eq!(event["event"], "SHUTDOWN");
        let data = json!({"guest": false, "reason": "host-signal"});
        assert_eq!(event["data"], data);
        assert_eq!(monitor.message(), None);
        assert!(running.child.wait().unwrap().success());
        assert!(!running.directory.path().join("monitor").exists());
    }
}

#[test]
fn a_second_client_waits_until_the_first_is_gone() {
    let running = Running::start(&[]);
    let first = running.connect();
    let second = UnixStream::connect(running.directory.path().join("monitor")).unwrap();
    second
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    let mut second = BufReader::new(second);
    let mut line = String::new();
    assert!(second.read_line(&mut line).is_err());

    drop(first);

    second.get_mut().set_read_timeout(Some(PATIENT)).unwrap();
    second.read_line(&mut line).unwrap();
    assert!(line.contains("QMP"), "{line}");
}

#[test]
fn rules_come_from_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let rules = directory.path().join("rules.toml");
    let rule = "[[rule]]\nname = \"full\"\noperation = \"qmp.netdev_add\"\n\
                effect = { error = { text = \"no room\" } }\n";
    std::fs::write(&rules, rule).unwrap();
    let running = Running::start(&["--rules", rules.to_str().unwrap()]);

    let answer = running
        .connect()
        .ask("netdev_add", &json!({"type": "user", "id": "n0"}));

    assert_eq!(answer["error"]["desc"], "no room");
}

#[test]
fn what_it_does_not_understand_it_names() {
    for (arguments, named) in [
        (["--qmp", "tcp:localhost:1"], "tcp:localhost:1"),
        (["--qmp", "unix:x,reconnect=1"], "reconnect=1"),
        (["--profile", "qemu-1.0"], "qemu-1.0"),
        (["--lets-go", "soon"], "soon"),
    ] {
        let words = [&["--qmp", "unix:m"][..], &arguments[..]].concat();
        let complaint = refused(&words);

        assert!(complaint.contains(named), "{complaint}");
    }
    assert!(refused(&["--qmp", "unix:m", "--root-ports", "1000"]).contains("1000"));
    assert!(refused(&["--qmp", "unix:m", "--fixed-port", "rp99"]).contains("rp99"));
}
