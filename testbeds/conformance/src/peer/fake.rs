//! fake-qemu on a thread of this process, listening on a unix socket as its program does.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use fake_qemu::driver::unix::{KernelTaps, listen};
use fake_qemu::driver::{FakeQemu, LetsGo, PlainGuest, Settings};
use fake_qemu::{Hardware, HotplugMode, MonitorId, PortHotplug, Profile, RootPort, Start};
use misbehaviour::Rulebook;
use nic_model::PciSlot;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::oneshot;

use super::{Peer, ROOT_PORTS};
use crate::session::Session;
use crate::transcript::{Hotplug, Machine, Runs};

/// How long the guest takes to let go of a device: about what a real one takes.
const LETS_GO_ACPI: Duration = Duration::from_millis(100);
/// A native driver waits for five seconds whether somebody presses the button again, and one more
/// for the power to be off (Linux' `drivers/pci/hotplug/pciehp_ctrl.c`).
const LETS_GO_NATIVE: Duration = Duration::from_secs(6);

/// See the module.
pub(crate) struct FakePeer {
    socket: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<()>>>,
    /// Goes last.
    _directory: TempDir,
}

impl FakePeer {
    pub(crate) fn start(machine: Machine) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let socket = directory.path().join("monitor");
        let listener = std::os::unix::net::UnixListener::bind(&socket)?;
        listener.set_nonblocking(true)?;
        let (stop, stopped) = oneshot::channel();
        let hardware = hardware(machine)?;
        let lets_go = match (machine.runs, machine.hotplug) {
            (Runs::Guest, Hotplug::Acpi) => LetsGo::After(LETS_GO_ACPI),
            (Runs::Guest, Hotplug::Native) => LetsGo::After(LETS_GO_NATIVE),
            (Runs::Nothing | Runs::Firmware, _) => LetsGo::Never,
        };
        let thread = std::thread::Builder::new()
            .name("fake-qemu".to_owned())
            .spawn(move || serve(hardware, lets_go, listener, stopped))?;
        Ok(Self {
            socket,
            stop: Some(stop),
            thread: Some(thread),
            _directory: directory,
        })
    }
}

fn hardware(machine: Machine) -> Result<Hardware> {
    let root_port = |(chassis, (id, device, hotplug)): (u8, (&str, u8, bool))| {
        Ok(RootPort {
            id: id.to_owned(),
            slot: PciSlot::new(device, 0)?,
            multifunction: false,
            chassis,
            hotplug: if hotplug {
                PortHotplug::On
            } else {
                PortHotplug::Off
            },
        })
    };
    let root_ports: Result<_> = (1..).zip(ROOT_PORTS).map(root_port).collect();
    Ok(Hardware {
        root_ports: root_ports?,
        hotplug: match machine.hotplug {
            Hotplug::Acpi => HotplugMode::Acpi,
            Hotplug::Native => HotplugMode::Native,
        },
        start: match machine.runs {
            Runs::Nothing => Start::Stopped,
            Runs::Firmware | Runs::Guest => Start::Running,
        },
        ..Hardware::with_root_ports(Profile::Qemu7_2, 0)?
    })
}

fn serve(
    hardware: Hardware,
    lets_go: LetsGo,
    listener: std::os::unix::net::UnixListener,
    stopped: oneshot::Receiver<()>,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = UnixListener::from_std(listener)?;
        let settings = Settings {
            hardware: Arc::new(hardware),
            vm: None,
            rules: Arc::new(Mutex::new(Rulebook::new(0))),
            epoch: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?,
        };
        let host = KernelTaps;
        let qemu = FakeQemu::start(settings, PlainGuest { lets_go, host });
        let serving = async { tokio::join!(listen(&qemu, MonitorId(0), &listener), qemu.run()).0 };
        tokio::select! {
            biased;
            // Dropped when the peer is.
            _ = stopped => Ok(()),
            served = serving => served.context("listening"),
        }
    })
}

impl Peer for FakePeer {
    fn socket(&self) -> &Path {
        &self.socket
    }

    fn until_probed(&mut self, _session: &mut Session, _device: &str) -> Result<()> {
        Ok(())
    }
}

impl Drop for FakePeer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // What it has to say was said by its monitor.
            drop(thread.join());
        }
    }
}
