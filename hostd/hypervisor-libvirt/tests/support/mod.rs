//! A real libvirtd of a test's own, which the machine's libvirt never notices.
//!
//! ```text
//!   test process ──commands──► bash, PID 1 of new mount, network and PID namespaces
//!                                ├── libvirtd ── QEMU, QEMU …
//!                                └── ip, virsh, kill …
//!   test ends, or is killed: the pipe closes ─► bash ends ─► the kernel kills all the rest
//! ```
//!
//! libvirtd's directories are compiled in, so tmpfs is mounted over them. bash rather than dash,
//! because it reaps the QEMUs that libvirtd leaves behind: libvirt takes a zombie for alive. The
//! socket is in a directory that both sides see.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use hypervisor::{Hypervisor, HypervisorEvent, PlugRequest, Tap, TapAccess};
use hypervisor_libvirt::{Deadlines, LibvirtHypervisor, Options};
use nic_model::{NicId, SlotId, VmId};
use tempfile::TempDir;
use tokio::sync::broadcast;

/// No command and no event takes that long, not on a machine with other work either.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

const SET_UP: &str = r#"
set -eu
mount -t tmpfs tmpfs /run
mkdir /run/libvirt
for directory in /var/lib/libvirt /etc/libvirt /var/log/libvirt /var/cache/libvirt; do
    mount -t tmpfs tmpfs "$directory"
done
mount -t sysfs sysfs /sys
ip link set lo up
cat > /etc/libvirt/libvirtd.conf <<END
unix_sock_dir = "$DIRECTORY"
unix_sock_rw_perms = "0700"
auth_unix_ro = "none"
auth_unix_rw = "none"
END
cat > /etc/libvirt/qemu.conf <<END
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
END
start_libvirtd() {
    libvirtd --daemon --config /etc/libvirt/libvirtd.conf --pid-file /run/libvirtd.pid
}
signal_libvirtd() {
    kill -s "$1" "$(cat /run/libvirtd.pid)"
}
kill_libvirtd() {
    signal_libvirtd KILL
    while kill -0 "$(cat /run/libvirtd.pid)"; do read -t 0.02 <> <(:) || :; done 2>/dev/null
}
set +eu
start_libvirtd
"#;

/// A libvirtd and the namespaces around it.
pub(crate) struct Libvirtd {
    directory: TempDir,
    shell: Child,
    commands: ChildStdin,
    answers: Receiver<String>,
}

impl Libvirtd {
    /// Starts one that has no domains.
    pub(crate) fn start() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut shell = Command::new("unshare")
            .args(["--mount", "--net", "--pid", "--fork", "--mount-proc"])
            .args(["--kill-child", "--propagation", "private", "bash", "--norc"])
            .env("DIRECTORY", directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("unshare")?;
        let commands = shell.stdin.take().context("stdin")?;
        let output = BufReader::new(shell.stdout.take().context("stdout")?);
        let (sender, answers) = sync_channel(1024);
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut libvirtd = Self {
            directory,
            shell,
            commands,
            answers,
        };
        libvirtd.run(SET_UP)?;
        Ok(libvirtd)
    }

    /// Where clients find it.
    pub(crate) fn uri(&self) -> String {
        let socket = self.directory.path().join("libvirt-sock");
        format!("qemu+unix:///system?socket={}", socket.display())
    }

    /// A client of it.
    pub(crate) fn hypervisor(&self) -> Result<LibvirtHypervisor> {
        Ok(LibvirtHypervisor::connect(&self.uri(), Options::default())?)
    }

    /// A client of it that gives up soon.
    pub(crate) fn impatient_hypervisor(&self, deadline: Duration) -> Result<LibvirtHypervisor> {
        let deadlines = Deadlines {
            list: deadline,
            inspect: deadline,
            plug: deadline,
            unplug: deadline,
            set_link: deadline,
        };
        let options = Options {
            deadlines,
            ..Options::default()
        };
        Ok(LibvirtHypervisor::connect(&self.uri(), options)?)
    }

    /// Runs a script in the namespaces; its output, standard error included.
    pub(crate) fn run(&mut self, script: &str) -> Result<String> {
        writeln!(
            self.commands,
            "{{ {script}\n}} 2>&1 </dev/null; echo; echo \"end $?\""
        )?;
        let mut output = String::new();
        loop {
            let line = self
                .answers
                .recv_timeout(PATIENCE)
                .context(output.clone())?;
            match line.strip_prefix("end ") {
                Some("0") => return Ok(output.trim().to_owned()),
                Some(code) => bail!("{script:?} ended with {code}: {output}"),
                None => output = output + &line + "\n",
            }
        }
    }

    /// Runs one virsh command.
    pub(crate) fn virsh(&mut self, command: &str) -> Result<String> {
        let uri = self.uri();
        self.run(&format!("virsh --quiet --connect '{uri}' {command}"))
    }

    /// Makes a file that domains can refer to, and names it.
    pub(crate) fn file(&self, name: &str, content: &str) -> Result<String> {
        let path = self.directory.path().join(name);
        std::fs::write(&path, content)?;
        Ok(path.display().to_string())
    }

    /// Defines a VM that is off.
    pub(crate) fn define(&mut self, domain: &Domain) -> Result<VmId> {
        let name = domain.name;
        let xml = domain.xml(&self.directory.path().join(name).display().to_string());
        let file = self.file(&format!("{name}.xml"), &xml)?;
        self.virsh(&format!("define {file}"))?;
        Ok(name.parse()?)
    }

    /// Defines a VM and starts it.
    pub(crate) fn start_vm(&mut self, domain: &Domain) -> Result<VmId> {
        let vm = self.define(domain)?;
        self.virsh(&format!("start {vm}"))?;
        Ok(vm)
    }

    /// A persistent tap for a NIC, and the request to plug it.
    pub(crate) fn request(&mut self, nic: &NicId, slot: &str) -> Result<PlugRequest> {
        let name = nic.tap_name();
        self.run(&format!("ip tuntap add dev {name} mode tap"))?;
        Ok(PlugRequest {
            nic: nic.clone(),
            mac: "5a:01:02:03:04:05".parse()?,
            slot: SlotId(slot.to_owned()),
            tap: Tap {
                name,
                access: TapAccess::Name,
                queues: Vec::new(),
                queue_count: 1,
            },
        })
    }

    /// Process ids, inside the namespaces, of the QEMU of a VM.
    pub(crate) fn signal_qemu(&mut self, vm: &VmId, signal: &str) -> Result<()> {
        self.run(&format!(
            "kill -s {signal} $(cat /run/libvirt/qemu/{vm}.pid)"
        ))
        .map(drop)
    }
}

impl Drop for Libvirtd {
    fn drop(&mut self) {
        // unshare kills its child, PID 1 of the namespace, with which everything in it ends.
        self.shell.kill().ok();
        self.shell.wait().ok();
    }
}

/// The same request again, since one is used up by each plug.
pub(crate) fn again(request: &PlugRequest) -> PlugRequest {
    PlugRequest {
        nic: request.nic.clone(),
        mac: request.mac,
        slot: request.slot.clone(),
        tap: Tap {
            name: request.tap.name.clone(),
            access: TapAccess::Name,
            queues: Vec::new(),
            queue_count: request.tap.queue_count,
        },
    }
}

/// A VM under emulation, without disk or guest: it stops in its firmware.
pub(crate) struct Domain {
    /// Its name.
    pub(crate) name: &'static str,
    /// How its ports ask for a device.
    pub(crate) hotplug: Hotplug,
    /// XML of devices that it has from the start.
    pub(crate) devices: &'static str,
}

/// How root ports ask the guest to let go.
pub(crate) enum Hotplug {
    /// Through ACPI, the machine's default.
    Acpi,
    /// PCI Express native.
    Native,
}

impl Domain {
    /// A VM with five root ports, the first taken by its virtio-serial controller.
    pub(crate) fn plain(name: &'static str) -> Self {
        Self {
            name,
            hotplug: Hotplug::Acpi,
            devices: "",
        }
    }

    fn xml(&self, channel: &str) -> String {
        let Self { name, devices, .. } = self;
        let ports: String = (1..=5)
            .map(|index| format!("<controller type='pci' index='{index}' model='pcie-root-port'/>"))
            .collect();
        let arguments = match self.hotplug {
            Hotplug::Acpi => "",
            Hotplug::Native => {
                "<qemu:arg value='-global'/>\
                 <qemu:arg value='ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off'/>"
            }
        };
        format!(
            "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\
             <name>{name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>\
             <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>\
             <controller type='usb' model='none'/>{ports}{devices}\
             <channel type='unix'><source mode='bind' path='{channel}.sock'/>\
             <target type='virtio' name='org.nicferry.agent.0'/></channel>\
             <memballoon model='none'/></devices>\
             <qemu:commandline>{arguments}</qemu:commandline></domain>"
        )
    }
}

/// Waits until the client has its connection.
pub(crate) async fn connected(hypervisor: &LibvirtHypervisor) -> Result<()> {
    hypervisor.vms().await?;
    Ok(())
}

/// The next event that `is_wanted`, skipping others.
pub(crate) async fn next_event(
    events: &mut broadcast::Receiver<HypervisorEvent>,
    is_wanted: impl Fn(&HypervisorEvent) -> bool,
) -> Result<HypervisorEvent> {
    let mut skipped = Vec::new();
    loop {
        let event = tokio::time::timeout(PATIENCE, events.recv())
            .await
            .with_context(|| format!("no such event, only {skipped:?}"))??;
        if is_wanted(&event) {
            return Ok(event);
        }
        skipped.push(event);
        ensure!(skipped.len() < 1000, "a flood of other events");
    }
}

/// A NIC id.
pub(crate) fn nic(suffix: &str) -> NicId {
    format!("nic-{suffix:a>10}")
        .parse()
        .expect("the suffixes of the tests are short and alphanumeric")
}
