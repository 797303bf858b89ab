//! The real QEMU of the comparison.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};
use testbeds::cache::Cache;
use testbeds::image::{GuestImage, guest_image};

use super::process::QemuProcess;
use super::{Peer, ROOT_PORTS};
use crate::session::Session;
use crate::transcript::{Hotplug, Machine, Runs};

/// An emulated guest is up in about five seconds; machines are loaded.
const BOOT_DEADLINE: Duration = Duration::from_secs(120);

/// What the guest's init prints when it is through (`testbeds/src/image/init.sh`).
const BOOTED: &str = "booted";

/// The port that the guest's init waits for; nobody listens to it here.
const SHELL: &str = "virtserialport,chardev=shell,name=org.nicferry.testbed.0";

const KERNEL_COMMAND_LINE: &str = "console=ttyS0 panic=1 tsc=reliable random.trust_cpu=on \
    nicferry.name=truth nicferry.agent=absent";

/// Where in its directory the guest's console is.
const CONSOLE: &str = "console";

/// See the module.
pub(crate) struct RealPeer(QemuProcess);

impl RealPeer {
    pub(crate) fn start(machine: Machine) -> Result<Self> {
        let process = QemuProcess::start(|command, directory| {
            if machine.hotplug == Hotplug::Native {
                let native = "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off";
                command.args(["-global", native]);
            }
            root_ports(command);
            match machine.runs {
                Runs::Nothing => command.args(["-m", "64", "-S"]),
                Runs::Firmware => command.args(["-m", "64"]),
                Runs::Guest => guest(command, directory)?,
            };
            Ok(())
        })?;
        let peer = Self(process);
        if machine.runs == Runs::Guest {
            peer.until_booted()?;
        }
        Ok(peer)
    }

    fn until_booted(&self) -> Result<()> {
        let console = self.0.directory().join(CONSOLE);
        let begun = Instant::now();
        loop {
            let printed = std::fs::read(&console).unwrap_or_default();
            if String::from_utf8_lossy(&printed).contains(BOOTED) {
                return Ok(());
            }
            anyhow::ensure!(begun.elapsed() < BOOT_DEADLINE, "the guest does not boot");
            // Slept, because a console is a file that grows
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn root_ports(command: &mut Command) {
    for (number, (id, device, hotplug)) in (1..).zip(ROOT_PORTS) {
        let hotplug = if hotplug { "" } else { ",hotplug=off" };
        let port = format!("pcie-root-port,id={id},chassis={number},addr={device:02x}.0{hotplug}");
        command.args(["-device", &port]);
    }
}

fn guest<'a>(command: &'a mut Command, directory: &Path) -> Result<&'a mut Command> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let cache = Cache::open()?;
    let GuestImage {
        kernel, initramfs, ..
    } = runtime.block_on(guest_image(&cache))?;
    let console = format!("file:{}", directory.join(CONSOLE).display());
    Ok(command
        .args([
            "-chardev",
            "null,id=shell",
            "-device",
            "virtio-serial-pci",
            "-device",
            SHELL,
        ])
        .args(["-m", "256", "-smp", "1", "-cpu", "max", "-serial", &console])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", KERNEL_COMMAND_LINE]))
}

impl Peer for RealPeer {
    fn socket(&self) -> &Path {
        self.0.socket()
    }

    fn until_probed(&mut self, session: &mut Session, device: &str) -> Result<()> {
        let begun = Instant::now();
        loop {
            let filter = session.ask("query-rx-filter", json!({"name": device}))?;
            // The driver's first acts on the control queue; a device has none of it before.
            let vlans = filter[0]["vlan-table"].as_array().map_or(0, Vec::len);
            let promiscuous = filter[0]["promiscuous"] == Value::Bool(true);
            if vlans < 4096 || !promiscuous {
                return Ok(());
            }
            anyhow::ensure!(
                begun.elapsed() < BOOT_DEADLINE,
                "the guest does not probe {device}"
            );
            // Slept, because QEMU has no event for a driver's arrival
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
