//! The QMP client against a peer that misbehaves on purpose, on a real socket in this process.
//!
//! No deadline here is a measure of time: a peer that is to be late answers only after the test has
//! seen the deadline pass.

#![expect(clippy::unwrap_used, reason = "set-up that fails is a failed test")]

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hypervisor_qmp::client::{
    Broken, Command, CommandError, ConnectError, Connection, ErrorClass, MAX_LINE_BYTES,
    QemuVersion, QmpEvent, UnixDialer,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

/// Long enough never to pass in a test that works.
const PATIENT: Duration = Duration::from_secs(30);

/// Passes at once; only for answers that are withheld until it has.
const HASTY: Duration = Duration::from_millis(20);

/// The other end, driven line by line by the test.
struct Peer {
    lines: tokio::io::Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
}

impl Peer {
    async fn accept(listener: &UnixListener) -> Self {
        let (stream, _) = listener.accept().await.unwrap();
        let (reader, writer) = stream.into_split();
        let lines = BufReader::new(reader).lines();
        Self { lines, writer }
    }

    /// Greets and accepts the negotiation.
    async fn greet_with(&mut self, capabilities: &[&str]) {
        let version = json!({"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""});
        self.say(&json!({"QMP": {"version": version, "capabilities": capabilities}}))
            .await;
        let negotiation = self.hear().await;
        assert_eq!(negotiation["execute"], "qmp_capabilities");
        assert_eq!(negotiation.get("arguments"), None, "oob must stay off");
        self.answer(&negotiation, json!({})).await;
    }

    async fn say(&mut self, message: &Value) {
        self.send(format!("{message}\r\n").as_bytes()).await;
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.writer.write_all(bytes).await.unwrap();
    }

    async fn answer(&mut self, command: &Value, value: Value) {
        self.say(&json!({"return": value, "id": command["id"]}))
            .await;
    }

    async fn hear(&mut self) -> Value {
        let line = self.lines.next_line().await.unwrap().unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

struct Fixture {
    _directory: TempDir,
    listener: UnixListener,
    socket: PathBuf,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("qmp.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        Self {
            _directory: directory,
            listener,
            socket,
        }
    }

    async fn connected(&self) -> (Arc<Connection>, Peer, mpsc::UnboundedReceiver<QmpEvent>) {
        self.connected_with(&["oob"]).await
    }

    async fn connected_with(
        &self,
        capabilities: &[&str],
    ) -> (Arc<Connection>, Peer, mpsc::UnboundedReceiver<QmpEvent>) {
        let (events, seen) = mpsc::unbounded_channel();
        let sink = Box::new(move |event| drop(events.send(event)));
        let greeted = async {
            let mut peer = Peer::accept(&self.listener).await;
            peer.greet_with(capabilities).await;
            peer
        };
        let (connection, peer) =
            tokio::join!(Connection::open(&UnixDialer, &self.socket, sink), greeted);
        (Arc::new(connection.unwrap()), peer, seen)
    }
}

fn ask(
    connection: &Arc<Connection>,
    name: &'static str,
    deadline: Duration,
) -> tokio::task::JoinHandle<Result<Value, CommandError>> {
    let connection = Arc::clone(connection);
    tokio::spawn(async move { connection.execute(Command::new(name, deadline)).await })
}

fn cause(outcome: Result<Value, CommandError>) -> Arc<Broken> {
    match outcome {
        Err(CommandError::Lost { cause, .. }) => cause,
        other => panic!("expected a broken connection, got {other:?}"),
    }
}

#[tokio::test]
async fn a_reply_that_comes_after_its_deadline_is_dropped_and_harms_no_later_command() {
    let fixture = Fixture::new();
    let (connection, mut peer, _events) = fixture.connected().await;
    let slow = ask(&connection, "query-slow", HASTY);
    let slow_command = peer.hear().await;
    let outcome = slow.await.unwrap();
    assert!(matches!(outcome, Err(CommandError::TimedOut { .. })));

    let next = ask(&connection, "query-status", PATIENT);
    let next_command = peer.hear().await;
    peer.answer(&slow_command, json!("late")).await;
    peer.answer(&next_command, json!("in time")).await;

    assert_eq!(next.await.unwrap().unwrap(), "in time");
    assert_eq!(connection.late_replies(), 1);
}

#[tokio::test]
async fn several_commands_in_flight_get_their_own_replies_in_any_order() {
    let fixture = Fixture::new();
    let (connection, mut peer, _events) = fixture.connected().await;
    let first = ask(&connection, "first", PATIENT);
    let first_command = peer.hear().await;
    let second = ask(&connection, "second", PATIENT);
    let second_command = peer.hear().await;

    peer.answer(&second_command, json!(2)).await;
    peer.answer(&first_command, json!(1)).await;

    assert_eq!(first.await.unwrap().unwrap(), 1);
    assert_eq!(second.await.unwrap().unwrap(), 2);
}

#[tokio::test]
async fn events_between_replies_are_passed_on_raw_and_unknown_messages_are_counted() {
    let fixture = Fixture::new();
    let (connection, mut peer, mut events) = fixture.connected().await;
    let asked = ask(&connection, "query-status", PATIENT);
    let command = peer.hear().await;

    peer.say(&json!({"event": "NOT_YET_INVENTED", "data": {"a": [1]}, "more": 1}))
        .await;
    peer.say(&json!({"greeting from": "the future"})).await;
    peer.say(&json!({"return": {}, "id": 4_000_000})).await;
    peer.answer(&command, json!({"running": true})).await;

    assert_eq!(asked.await.unwrap().unwrap(), json!({"running": true}));
    let event = events.recv().await.unwrap();
    assert_eq!(
        (event.name.as_str(), event.data),
        ("NOT_YET_INVENTED", json!({"a": [1]}))
    );
    assert_eq!(connection.unmatched_messages(), 2);
}

#[tokio::test]
async fn a_monitor_that_offers_nothing_is_as_good_as_one_that_offers_oob() {
    let fixture = Fixture::new();
    let (connection, mut peer, _events) = fixture.connected_with(&[]).await;

    let asked = ask(&connection, "query-status", PATIENT);
    let command = peer.hear().await;
    peer.answer(&command, json!({"running": true})).await;

    assert_eq!(asked.await.unwrap().unwrap(), json!({"running": true}));
}

#[tokio::test]
async fn a_reply_in_single_bytes_is_put_together() {
    let fixture = Fixture::new();
    let (connection, mut peer, _events) = fixture.connected().await;
    let asked = ask(&connection, "query-status", PATIENT);
    let command = peer.hear().await;

    let reply = json!({"return": "whole", "id": command["id"]}).to_string();
    for byte in reply.into_bytes() {
        peer.send(&[byte]).await;
        tokio::task::yield_now().await;
    }
    peer.send(b"\n").await;

    assert_eq!(asked.await.unwrap().unwrap(), "whole");
}

#[tokio::test]
async fn a_large_reply_is_read_and_an_endless_one_breaks_the_connection() {
    let fixture = Fixture::new();
    let (connection, mut peer, _events) = fixture.connected().await;
    let large = "x".repeat(MAX_LINE_BYTES - 100);
    let asked = ask(&connection, "query-large", PATIENT);
    let command = peer.hear().await;
    peer.answer(&command, json!(large)).await;
    assert_eq!(asked.await.unwrap().unwrap(), json!(large));

    let asked = ask(&connection, "query-endless", PATIENT);
    peer.hear().await;
    let endless = tokio::spawn(async move {
        // Ends with an error once the client has hung up.
        while peer.writer.write_all(&[b'['; 65536]).await.is_ok() {}
    });

    let broken = cause(asked.await.unwrap());
    assert!(matches!(*broken, Broken::LineTooLong { .. }), "{broken}");
    endless.await.unwrap();
}

#[tokio::test]
async fn a_line_that_is_not_json_breaks_the_connection() {
    let fixture = Fixture::new();
    let (connection, mut peer, _events) = fixture.connected().await;
    let asked = ask(&connection, "query-status", PATIENT);
    peer.hear().await;

    peer.send(b"QEMU: terminating on signal 15\n").await;

    let broken = cause(asked.await.unwrap());
    assert!(matches!(*broken, Broken::Malformed(_)), "{broken}");
}

#[tokio::test]
async fn a_connection_cut_in_mid_command_fails_all_in_flight_and_all_later_ones() {
    let fixture = Fixture::new();
    let (connection, mut peer, _events) = fixture.connected().await;
    let first = ask(&connection, "first", PATIENT);
    peer.hear().await;
    let second = ask(&connection, "second", PATIENT);
    let command = peer.hear().await;

    peer.send(format!("{{\"return\": {{}}, \"id\": {}", command["id"]).as_bytes())
        .await;
    drop(peer);

    for asked in [first, second] {
        let broken = cause(asked.await.unwrap());
        assert!(matches!(*broken, Broken::Closed), "{broken}");
    }
    connection.closed().await;
    let later = ask(&connection, "later", PATIENT).await.unwrap();
    assert!(matches!(*cause(later), Broken::Closed));
}

#[tokio::test]
async fn a_refusal_keeps_class_and_words() {
    let fixture = Fixture::new();
    let (connection, mut peer, _events) = fixture.connected().await;
    let asked = ask(&connection, "device_del", PATIENT);
    let command = peer.hear().await;

    let error = json!({"class": "DeviceNotFound", "desc": "Device 'x' not found"});
    peer.say(&json!({"error": error, "id": command["id"]}))
        .await;

    let refusal = asked.await.unwrap().unwrap_err();
    assert!(refusal.is_class(&ErrorClass::DeviceNotFound));
    assert_eq!(
        refusal.to_string(),
        "QEMU refused device_del: Device 'x' not found"
    );
}

#[tokio::test]
async fn a_command_that_nobody_waits_for_any_more_is_never_sent() {
    let fixture = Fixture::new();
    let (connection, mut peer, _events) = fixture.connected().await;
    let mut unanswered = Vec::new();
    for _ in 0..64 {
        unanswered.push(ask(&connection, "query-slow", PATIENT));
        peer.hear().await;
    }
    let given_up = ask(&connection, "device_add", HASTY).await.unwrap();
    assert!(matches!(given_up, Err(CommandError::TimedOut { .. })));

    let wanted = ask(&connection, "query-status", PATIENT);
    peer.say(&json!({"return": {}, "id": 1})).await;

    let command = peer.hear().await;
    assert_eq!(command["execute"], "query-status");
    peer.answer(&command, json!("sent")).await;
    assert_eq!(wanted.await.unwrap().unwrap(), "sent");
}

#[tokio::test]
async fn a_descriptor_arrives_with_its_command() {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let fixture = Fixture::new();
    let (connection, mut peer, _events) = fixture.connected().await;
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let command = Command::new("getfd", PATIENT)
        .with("fdname", "tap")
        .passing(OwnedFd::from(theirs));
    let client = Arc::clone(&connection);
    let asked = tokio::spawn(async move { client.execute(command).await });

    let stream: &UnixStream = peer.lines.get_ref().get_ref().as_ref();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut line = [0; 4096];
    let count = stream
        .async_io(tokio::io::Interest::READABLE, || {
            let buffer = &mut [std::io::IoSliceMut::new(&mut line)];
            Ok(recvmsg(stream, buffer, &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes)
        })
        .await
        .unwrap();
    let mut received = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            received.extend(descriptors);
        }
    }
    let command: Value = serde_json::from_slice(&line[..count]).unwrap();
    peer.answer(&command, json!({})).await;
    asked.await.unwrap().unwrap();

    assert_eq!(command["arguments"]["fdname"], "tap");
    assert_eq!(received.len(), 1);
    let received = std::os::unix::net::UnixStream::from(received.into_iter().next().unwrap());
    std::io::Write::write_all(&mut &received, b"through").unwrap();
    drop(received);
    // The client has let go of its copy: the stream ends once the receiver's is closed.
    assert_eq!(std::io::read_to_string(ours).unwrap(), "through");
}

#[tokio::test]
async fn the_greeting_tells_the_version() {
    let fixture = Fixture::new();
    let (connection, _peer, _events) = fixture.connected().await;

    assert_eq!(connection.version(), QemuVersion { major: 7, minor: 2 });
}

#[tokio::test]
async fn a_socket_without_a_process_is_told_from_one_that_another_client_holds() {
    let fixture = Fixture::new();
    let sink = || Box::new(|_: QmpEvent| ());
    let held = Connection::open(&UnixDialer, &fixture.socket, sink())
        .await
        .unwrap_err();
    assert!(matches!(held, ConnectError::NoGreeting { .. }));
    assert!(
        held.to_string().contains("another one may hold it"),
        "{held}"
    );

    let socket = fixture.socket.clone();
    drop(fixture.listener);
    let left_over = Connection::open(&UnixDialer, &socket, sink())
        .await
        .unwrap_err();
    assert!(matches!(left_over, ConnectError::NoProcess { .. }));
}

#[tokio::test]
async fn nothing_is_left_of_a_connection_to_a_qemu_that_takes_no_more_commands() {
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let fixture = Fixture::new();
    let (connection, _peer, _events) = fixture.connected().await;
    let long = "x".repeat(1 << 20);
    let stuck = Command::new("query-slow", HASTY).with("long", long);
    let given_up = connection.execute(stuck).await;
    assert!(matches!(given_up, Err(CommandError::TimedOut { .. })));
    assert_eq!(tasks(), 1);

    drop(connection);

    let ended = async {
        while tasks() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENT, ended).await.unwrap();
}
