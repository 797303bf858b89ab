//! The back end against a QEMU whose every answer is written down: for what a real one does only
//! in versions, moments or accidents that a test cannot bring about.

#![expect(clippy::unwrap_used, reason = "set-up that fails is a failed test")]

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hypervisor::{
    Carrier, EventKind, Hypervisor, PlugRequest, Tap, TapAccess, Trouble, Unplugging,
};
use hypervisor_qmp::{QmpHypervisor, QmpVm, Settings, Vhost};
use nic_model::{NicId, PowerState, SlotId, VmId};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Long enough never to pass in a test that works.
const PATIENT: Duration = Duration::from_secs(60);

/// What the script does about a command.
enum Answer {
    Return(Value),
    Refuse(&'static str, &'static str),
    /// The command is carried out or not; nobody ever knows.
    Silence,
    HangUp,
}

/// Decides by the command's name and by how many of that name came before.
type Script = fn(&str, usize) -> Answer;

struct Scripted {
    directory: TempDir,
    heard: Arc<Mutex<Vec<Value>>>,
    server: JoinHandle<()>,
}

impl Scripted {
    fn start(script: Script) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("qmp.sock")).unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let server = tokio::spawn(serve(listener, script, Arc::clone(&heard)));
        Self {
            directory,
            heard,
            server,
        }
    }

    fn hypervisor(&self) -> QmpHypervisor {
        let vm = QmpVm {
            id: vm(),
            socket: self.directory.path().join("qmp.sock"),
            channel: None,
        };
        let settings = Settings {
            vhost: Vhost::Never,
            ..Settings::default()
        };
        QmpHypervisor::with(vec![vm], &settings)
    }

    /// Every command since the negotiation, as `name argument…` with the values in order.
    fn heard(&self) -> Vec<String> {
        let heard = self.heard.lock().unwrap();
        heard.iter().map(described).collect()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn described(command: &Value) -> String {
    let mut words = vec![command["execute"].as_str().unwrap().to_owned()];
    let arguments = command["arguments"].as_object();
    let values = arguments.into_iter().flat_map(serde_json::Map::values);
    words.extend(values.map(|value| value.to_string().replace('"', "")));
    words.join(" ")
}

async fn serve(listener: UnixListener, script: Script, heard: Arc<Mutex<Vec<Value>>>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        converse(stream, script, &heard).await;
    }
}

async fn converse(stream: UnixStream, script: Script, heard: &Mutex<Vec<Value>>) {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    let version = json!({"qemu": {"micro": 0, "minor": 2, "major": 5}, "package": ""});
    let mut message = json!({"QMP": {"version": version, "capabilities": []}});
    // Ends when the other side hangs up or the script does.
    loop {
        if !message.is_null() && write(&mut writer, &message).await.is_err() {
            return;
        }
        let Ok(Some(line)) = lines.next_line().await else {
            return;
        };
        let command: Value = serde_json::from_str(&line).unwrap();
        message = match answer(&command, script, heard) {
            Answer::Return(value) => json!({"return": value, "id": command["id"]}),
            Answer::Refuse(class, desc) => {
                json!({"error": {"class": class, "desc": desc}, "id": command["id"]})
            }
            Answer::Silence => Value::Null,
            Answer::HangUp => return,
        };
    }
}

async fn write(writer: &mut OwnedWriteHalf, message: &Value) -> std::io::Result<()> {
    writer.write_all(format!("{message}\r\n").as_bytes()).await
}

fn answer(command: &Value, script: Script, heard: &Mutex<Vec<Value>>) -> Answer {
    let name = command["execute"].as_str().unwrap();
    if name == "qmp_capabilities" {
        return Answer::Return(json!({}));
    }
    let mut heard = heard.lock().unwrap();
    let before = heard.iter().filter(|other| other["execute"] == name);
    let answer = script(name, before.count());
    heard.push(command.clone());
    answer
}

/// A QEMU without devices that does whatever it is told.
fn willing(name: &str) -> Answer {
    Answer::Return(match name {
        "query-status" => json!({"status": "running"}),
        "qom-list" => json!([]),
        "human-monitor-command" => json!(""),
        _ => json!({}),
    })
}

fn vm() -> VmId {
    "vm".parse().unwrap()
}

fn nic() -> NicId {
    "nic-aaaaaaaaaa".parse().unwrap()
}

fn request(queue_count: u16) -> PlugRequest {
    let queue = |_| OwnedFd::from(std::fs::File::open("/dev/null").unwrap()).into();
    PlugRequest {
        nic: nic(),
        mac: "5a:00:00:00:00:01".parse().unwrap(),
        slot: SlotId("rp1".to_owned()),
        tap: Tap {
            name: nic().tap_name(),
            access: TapAccess::Descriptors,
            queues: (0..queue_count).map(queue).collect(),
            queue_count,
        },
    }
}

#[tokio::test]
async fn a_plug_is_three_commands_when_all_goes_well() {
    let qemu = Scripted::start(|name, _| willing(name));

    qemu.hypervisor().plug(&vm(), request(1)).await.unwrap();

    assert_eq!(
        qemu.heard(),
        [
            "getfd hostua-nic-aaaaaaaaaa-q0",
            "netdev_add hostua-nic-aaaaaaaaaa-q0 hostua-nic-aaaaaaaaaa tap false",
            "device_add 00.0 rp1 on virtio-net-pci ua-nic-aaaaaaaaaa 5a:00:00:00:00:01 \
             hostua-nic-aaaaaaaaaa ",
        ]
    );
}

/// The clock stands still but for deadlines: both ends live in this one runtime, so time moves on
/// only when neither has anything to do.
#[tokio::test(start_paused = true)]
async fn nothing_is_undone_when_it_is_not_known_whether_the_device_was_made() {
    let qemu = Scripted::start(|name, _| match name {
        "device_add" => Answer::Silence,
        _ => willing(name),
    });

    let error = qemu.hypervisor().plug(&vm(), request(1)).await.unwrap_err();

    assert!(
        matches!(error.trouble, Trouble::TimedOut { waited_ms: 5000 }),
        "{error:?}"
    );
    let undone = |line: &String| line.starts_with("netdev_del");
    assert!(!qemu.heard().iter().any(undone), "{:?}", qemu.heard());
}

#[tokio::test]
async fn a_backend_that_is_refused_leaves_no_descriptor_behind() {
    let qemu = Scripted::start(|name, _| match name {
        "netdev_add" => Answer::Refuse("GenericError", "queues do not match"),
        _ => willing(name),
    });

    let error = qemu.hypervisor().plug(&vm(), request(2)).await.unwrap_err();

    assert!(
        matches!(error.trouble, Trouble::Refused { .. }),
        "{error:?}"
    );
    let heard = qemu.heard();
    for queue in ["q0", "q1"] {
        let closed = format!("closefd hostua-nic-aaaaaaaaaa-{queue}");
        assert!(heard.contains(&closed), "{heard:?}");
    }
}

#[tokio::test]
async fn an_id_that_an_old_qemu_has_not_released_yet_is_tried_again() {
    let qemu = Scripted::start(|name, before| match (name, before) {
        ("device_add", 0..=1) => Answer::Refuse(
            "GenericError",
            "Duplicate ID 'ua-nic-aaaaaaaaaa' for device",
        ),
        _ => willing(name),
    });

    qemu.hypervisor().plug(&vm(), request(1)).await.unwrap();

    let tried = |line: &&String| line.starts_with("device_add");
    assert_eq!(qemu.heard().iter().filter(tried).count(), 3);
}

#[tokio::test]
async fn a_guest_that_is_busy_with_the_plug_makes_the_unplug_pending() {
    let qemu = Scripted::start(|name, _| match name {
        "device_del" => Answer::Refuse(
            "GenericError",
            "Hot-unplug failed: guest is busy (power indicator blinking)",
        ),
        _ => willing(name),
    });

    let unplugging = qemu.hypervisor().unplug(&vm(), &nic()).await.unwrap();

    assert_eq!(unplugging, Unplugging::Pending);
}

#[tokio::test]
async fn a_backend_is_never_removed_while_its_device_may_be_there() {
    let qemu = Scripted::start(|name, _| match name {
        "device_del" => Answer::Refuse("GenericError", "Bus 'rp1' does not support hotplugging"),
        _ => willing(name),
    });

    let error = qemu.hypervisor().unplug(&vm(), &nic()).await.unwrap_err();

    assert!(
        matches!(error.trouble, Trouble::Refused { .. }),
        "{error:?}"
    );
    assert_eq!(qemu.heard(), ["device_del ua-nic-aaaaaaaaaa"]);
}

#[tokio::test]
async fn the_carrier_is_that_of_the_device() {
    let qemu = Scripted::start(|name, _| willing(name));
    let hypervisor = qemu.hypervisor();

    hypervisor
        .set_link(&vm(), &nic(), Carrier::Down)
        .await
        .unwrap();
    hypervisor
        .set_link(&vm(), &nic(), Carrier::Up)
        .await
        .unwrap();

    assert_eq!(
        qemu.heard(),
        [
            "set_link ua-nic-aaaaaaaaaa false",
            "set_link ua-nic-aaaaaaaaaa true"
        ]
    );
}

#[tokio::test]
async fn an_inspection_survives_one_broken_connection() {
    let qemu = Scripted::start(|name, before| match (name, before) {
        ("query-migrate", 0) => Answer::HangUp,
        _ => willing(name),
    });

    let hardware = qemu.hypervisor().inspect(&vm()).await.unwrap();

    assert!(hardware.run.is_some());
}

#[tokio::test]
async fn an_answer_of_another_form_is_a_protocol_error() {
    let qemu = Scripted::start(|name, _| match name {
        "qom-list" => Answer::Return(json!({"not": "a list"})),
        _ => willing(name),
    });

    let error = qemu.hypervisor().inspect(&vm()).await.unwrap_err();

    assert!(
        matches!(error.trouble, Trouble::Protocol { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_lost_connection_is_restored_unasked_and_both_are_told() {
    let qemu = Scripted::start(|name, before| match (name, before) {
        ("set_link", 0) => Answer::HangUp,
        _ => willing(name),
    });
    let hypervisor = qemu.hypervisor();
    hypervisor.inspect(&vm()).await.unwrap();
    let mut events = hypervisor.events();

    let lost = hypervisor.set_link(&vm(), &nic(), Carrier::Down).await;

    assert!(lost.unwrap_err().trouble.outcome_is_unknown());
    for moment in ["lost", "back"] {
        let event = timeout(PATIENT, events.recv())
            .await
            .expect(moment)
            .unwrap();
        assert_eq!(event.kind, EventKind::Connection, "{moment}");
    }
}

#[tokio::test]
async fn a_first_connection_is_told_to_nobody_unless_it_had_to_be_waited_for() {
    let qemu = Scripted::start(|name, _| willing(name));
    let hypervisor = qemu.hypervisor();
    let mut events = hypervisor.events();
    hypervisor.inspect(&vm()).await.unwrap();
    assert_eq!(events.try_recv().ok(), None);
    drop(hypervisor);

    let socket = qemu.directory.path().join("qmp.sock");
    let elsewhere = qemu.directory.path().join("not-yet.sock");
    std::fs::rename(&socket, &elsewhere).unwrap();
    let hypervisor = qemu.hypervisor();
    let mut events = hypervisor.events();
    let off = hypervisor.inspect(&vm()).await.unwrap();
    assert_eq!(off.power, PowerState::Off);
    std::fs::rename(&elsewhere, &socket).unwrap();

    let event = timeout(PATIENT, events.recv()).await.expect("news");
    assert_eq!(event.unwrap().kind, EventKind::Connection);
}
