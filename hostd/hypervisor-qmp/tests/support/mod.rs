//! Real QEMUs without a guest, and taps that vanish with their descriptors.
//!
//! No guest runs, which is a guest that ignores every request: exactly what the hard half of
//! hot-plug is about. A reset of the machine then plays the guest that lets go.

#![expect(clippy::unwrap_used, reason = "set-up that fails is a failed test")]

mod tap;

use std::path::PathBuf;
use std::process::{Child, Command as Process, Stdio};
use std::time::Duration;

use hypervisor::{Descriptor, EventKind, Hypervisor, HypervisorEvent, PlugRequest, Tap, TapAccess};
use hypervisor_qmp::client::{Command, Connection, UnixDialer};
use hypervisor_qmp::{QmpHypervisor, QmpVm};
use nic_model::{NicId, PowerState, SlotId, VmHardware, VmId};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::broadcast;
use tokio::time::timeout;

/// Long enough never to pass in a test that works.
pub(crate) const PATIENT: Duration = Duration::from_secs(60);

/// A QEMU process with two QMP sockets: one for the code under test, one for the test.
pub(crate) struct Qemu {
    directory: TempDir,
    extra: Vec<&'static str>,
    process: Child,
}

impl Qemu {
    /// A q35 with the root ports `rp1` at 02.0 to `rp3` at 04.0, the last one without hot-plug,
    /// and `extra` arguments.
    pub(crate) fn start(extra: &[&'static str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let process = spawn(&directory, extra);
        let extra = extra.to_vec();
        Self {
            directory,
            extra,
            process,
        }
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub(crate) fn restart(&mut self) {
        self.process = spawn(&self.directory, &self.extra);
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("qmp.sock")
    }

    pub(crate) fn vm(&self, name: &str) -> QmpVm {
        QmpVm {
            id: name.parse().unwrap(),
            socket: self.socket(),
            channel: None,
        }
    }

    /// The test's own way in.
    pub(crate) async fn control(&self) -> Connection {
        connect(self.directory.path().join("control.sock")).await
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // Gone already in tests that killed it.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn spawn(directory: &TempDir, extra: &[&str]) -> Child {
    let listen = |name: &str| {
        let path = directory.path().join(name);
        format!("unix:{},server=on,wait=off", path.display())
    };
    Process::new("qemu-system-x86_64")
        .args(["-accel", "tcg", "-machine", "q35", "-m", "64", "-S"])
        .args(["-nodefaults", "-display", "none"])
        .args(["-device", "pcie-root-port,id=rp1,chassis=1,addr=02.0"])
        .args(["-device", "pcie-root-port,id=rp2,chassis=2,addr=03.0"])
        .args([
            "-device",
            "pcie-root-port,id=rp3,chassis=3,addr=04.0,hotplug=off",
        ])
        .args(["-qmp", &listen("qmp.sock"), "-qmp", &listen("control.sock")])
        .args(extra)
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

/// Connects as soon as somebody listens.
pub(crate) async fn connect(socket: PathBuf) -> Connection {
    let attempts = async {
        loop {
            if let Ok(connection) = Connection::open(&UnixDialer, &socket, Box::new(drop)).await {
                return connection;
            }
            // tidy: sleep because no event tells when QEMU listens
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENT, attempts).await.unwrap()
}

pub(crate) async fn run(qemu: &Connection, command: Command) -> Value {
    qemu.execute(command).await.unwrap()
}

pub(crate) async fn reset(qemu: &Connection) {
    run(qemu, Command::new("system_reset", PATIENT)).await;
}

/// A hypervisor of one VM named `vm`, whose QEMU answers.
pub(crate) async fn hypervisor(qemu: &Qemu) -> (QmpHypervisor, VmId) {
    let hypervisor = QmpHypervisor::new(vec![qemu.vm("vm")]);
    let vm = vm();
    until_on(&hypervisor, &vm).await;
    (hypervisor, vm)
}

pub(crate) async fn until_on(hypervisor: &QmpHypervisor, vm: &VmId) -> VmHardware {
    let mut events = hypervisor.events();
    let on = async {
        loop {
            match hypervisor.inspect(vm).await {
                Ok(hardware) if hardware.power != PowerState::Off => return hardware,
                Ok(_) => until(&mut events, &EventKind::Connection).await,
                // A process that has only just begun to listen; each such error took its deadline.
                Err(_) => {}
            }
        }
    };
    timeout(PATIENT, on).await.unwrap()
}

/// Waits for an event; every other one is skipped.
pub(crate) async fn until(events: &mut broadcast::Receiver<HypervisorEvent>, wanted: &EventKind) {
    let seen = async { while events.recv().await.unwrap().kind != *wanted {} };
    timeout(PATIENT, seen).await.unwrap();
}

pub(crate) fn vm() -> VmId {
    "vm".parse().unwrap()
}

pub(crate) fn nic() -> NicId {
    "nic-aaaaaaaaaa".parse().unwrap()
}

/// A request for a NIC with a fresh tap of `queue_count` queues.
pub(crate) fn request(slot: &str, queue_count: u16) -> PlugRequest {
    let name = nic().tap_name();
    let queues = tap::open(&name, queue_count);
    let queues = queues.into_iter().map(Descriptor::from).collect();
    PlugRequest {
        nic: nic(),
        mac: "5a:00:00:00:00:01".parse().unwrap(),
        slot: SlotId(slot.to_owned()),
        tap: Tap {
            name,
            access: TapAccess::Descriptors,
            queues,
            queue_count,
        },
    }
}

/// The same over queues of the test's own making.
pub(crate) fn request_over(slot: &str, queues: Vec<Descriptor>) -> PlugRequest {
    let mut request = request(slot, 1);
    request.tap.queues = queues;
    request
}

/// The same without descriptors at hand.
pub(crate) fn request_without_queues(slot: &str) -> PlugRequest {
    let mut request = request(slot, 1);
    request.tap.queues.clear();
    request
}
