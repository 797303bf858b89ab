//! What a VM of a world is made of, whichever hypervisor makes it.
//!
//! Both worlds build the same machine: q35, one CPU, ten hot-plug slots, three virtio-serial
//! ports, and a guest booted straight from kernel and initramfs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use nic_model::{HotplugMode, VmId};

/// Port of our agent, where hostd looks for it.
pub const AGENT_PORT: &str = "org.nicferry.agent.0";
/// Port of the harness's own shell.
pub const SHELL_PORT: &str = "org.nicferry.testbed.0";
/// Port of QEMU's guest agent, the by-hand way.
pub const QEMU_GA_PORT: &str = "org.qemu.guest_agent.0";

/// Memory of a guest: the kernel, an unpacked initramfs of 20 MB and some room, in MiB.
pub const MEMORY_MIB: u32 = 256;

/// PCI slots 0x10 to 0x17 of the root bus are free of q35's own devices; a root port is a function
/// of one of them, as libvirt places them too.
const FIRST_ROOT_PORT_SLOT: u8 = 0x10;

/// How a VM is to be made.
#[derive(Debug, Clone)]
pub struct VmOptions {
    /// Its name.
    pub id: VmId,
    /// Places to plug NICs into, 1 to 64.
    pub root_ports: u8,
    /// How the guest is asked to let go of a device.
    pub hotplug: HotplugMode,
    /// What the guest does about our agent.
    pub agent: AgentStart,
    /// How long the guest dawdles before it loads any driver.
    pub boot_delay: Duration,
}

/// What the guest does about our agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentStart {
    /// Starts it.
    AtBoot,
    /// Does not have it running.
    Never,
    /// Starts it this long after boot.
    After(Duration),
}

impl AgentStart {
    /// As the guest is told.
    #[must_use]
    pub fn for_the_guest(self) -> String {
        match self {
            Self::AtBoot => "start".to_owned(),
            Self::Never => "absent".to_owned(),
            Self::After(delay) => format!("delayed:{}", delay.as_secs_f32()),
        }
    }
}

impl VmOptions {
    /// An ordinary VM: ten slots, hot-plug by ACPI, agent from boot.
    ///
    /// # Errors
    /// When `name` cannot name a VM.
    pub fn named(name: &str) -> Result<Self> {
        Ok(Self {
            id: name.parse()?,
            root_ports: 10,
            hotplug: HotplugMode::Acpi,
            agent: AgentStart::AtBoot,
            boot_delay: Duration::ZERO,
        })
    }

    /// The kernel's command line, with what `image/init.sh` looks for.
    #[must_use]
    pub fn kernel_command_line(&self) -> String {
        let agent = self.agent.for_the_guest();
        format!(
            "console=ttyS0 quiet panic=1 tsc=reliable random.trust_cpu=on \
             nicferry.name={} nicferry.agent={agent} nicferry.boot_delay={}",
            self.id,
            self.boot_delay.as_secs_f32()
        )
    }

    /// PCI slot and function of each root port on the root bus.
    pub fn root_port_places(&self) -> impl Iterator<Item = (u8, u8)> {
        (0..self.root_ports).map(|port| (FIRST_ROOT_PORT_SLOT + port / 8, port % 8))
    }
}

/// The host's files of one VM.
#[derive(Debug, Clone)]
pub struct VmFiles {
    /// Host end of [`AGENT_PORT`].
    pub agent: PathBuf,
    /// Host end of [`SHELL_PORT`].
    pub shell: PathBuf,
    /// Host end of [`QEMU_GA_PORT`].
    pub qemu_ga: PathBuf,
    /// hostd's QMP socket; unused in the `libvirt` world.
    pub qmp: PathBuf,
    /// The harness's own QMP socket; unused in the `libvirt` world.
    pub sabotage: PathBuf,
    /// What the guest printed.
    pub console: PathBuf,
    /// What QEMU printed.
    pub log: PathBuf,
}

impl VmFiles {
    /// In `directory`, whose path must leave room for a socket's 107 bytes.
    #[must_use]
    pub fn of(directory: &Path, vm: &VmId) -> Self {
        let file = |ending: &str| directory.join(format!("{vm}.{ending}"));
        Self {
            agent: file("agent"),
            shell: file("shell"),
            qemu_ga: file("qemu-ga"),
            qmp: file("qmp"),
            sabotage: file("sabotage"),
            console: file("console"),
            log: file("log"),
        }
    }

    /// Each virtio-serial port with its socket.
    #[must_use]
    pub fn ports(&self) -> [(&'static str, &Path); 3] {
        [
            (AGENT_PORT, &self.agent),
            (SHELL_PORT, &self.shell),
            (QEMU_GA_PORT, &self.qemu_ga),
        ]
    }
}
