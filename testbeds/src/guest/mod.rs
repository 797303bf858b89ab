//! A booted guest, as scenarios see it: what is in it, and what can be done to it and broken in it,
//! independent of everything under test.
//!
//! ```text
//!   make_container  ─► process in a new namespace      target pid:PID@INODE
//!   named container ─► the namespace has a name too    target netns:NAME
//!   kill_container  ─► the process is dead; its namespace dies unless it has a name
//! ```
//!
//! [`Guest`] says what every world's guests can do. A [`ShellGuest`] is one with a shell, real or a
//! namespace of this machine; whoever needs more than the verbs runs scripts in it, and says which
//! worlds have no such guests.

pub mod shell;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, bail};
use async_trait::async_trait;
use futures::future::LocalBoxFuture;
use misbehaviour::Chance;
use nic_model::{HotplugMode, IpNet, MacAddr, NetnsInode, NicId, PciPath, Target};

pub use shell::{Output, ShellGuest};

/// One guest.
#[async_trait(?Send)]
pub trait Guest: fmt::Debug {
    /// Waits until the guest is up, for at most `deadline`.
    async fn ready(&self, deadline: Duration) -> Result<()>;

    /// Does what resets the guest, and waits until it is up again.
    async fn over_reset(
        &self,
        reset: LocalBoxFuture<'_, Result<()>>,
        deadline: Duration,
    ) -> Result<()>;

    /// Every link at `place` but the loopback, with its addresses.
    async fn links(&self, place: &Where) -> Result<Vec<GuestLink>>;

    /// The routes to exactly `destination`.
    async fn routes(&self, place: &Where, destination: IpNet) -> Result<Vec<GuestRoute>>;

    /// Every namespace that has a name.
    async fn netns_names(&self) -> Result<Vec<String>>;

    /// Where the guest's kernel has virtio NICs, in whatever namespace their links are; `None`
    /// where links have no devices.
    async fn virtio_nics(&self) -> Result<Option<BTreeSet<PciPath>>>;

    /// Pings once from `place`, waiting up to `deadline` for the answer; an address that is not
    /// reachable yet is asked again until then.
    async fn ping(&self, place: &Where, to: IpAddr, deadline: Duration) -> Result<()>;

    /// Pings once by `link` alone, whatever the routes say.
    async fn ping_over(&self, place: &Where, link: &str, to: IpAddr) -> Result<()>;

    /// Starts a process in a namespace of its own, with the loopback up.
    async fn make_container(&self) -> Result<Container>;

    /// Starts a process that bears this pid, in a namespace of its own.
    async fn make_container_with_pid(&self, pid: u32) -> Result<Container>;

    /// Makes a named namespace, as `ip netns add` does, and a process in it.
    async fn make_named_container(&self, name: &str) -> Result<Container>;

    /// Kills a container's process and waits until it is gone, and with it its namespace's claim.
    async fn kill_container(&self, container: &Container) -> Result<()>;

    /// Gives a new namespace a name, and nothing to do with it.
    async fn add_netns_name(&self, name: &str) -> Result<()>;

    /// Removes the name of a namespace.
    async fn remove_netns_name(&self, name: &str) -> Result<()>;

    /// Makes a link of the guest's own, such as a container runtime's.
    async fn make_link(&self, place: &Where, name: &str) -> Result<()>;

    /// How the guest really lets go of devices.
    async fn hotplug_mode(&self) -> Result<HotplugMode>;

    /// Takes away what answers an unplug, and leaves everything else as it is: devices stay, new
    /// ones are not noticed either.
    async fn ignore_hotplug(&self, mode: HotplugMode) -> Result<()>;

    /// Ends [`Self::ignore_hotplug`].
    async fn heed_hotplug(&self, mode: HotplugMode) -> Result<()>;

    /// The agent in this guest.
    fn agent(&self) -> &dyn AgentControl;

    /// What a person would look at, for a failure's report.
    async fn details(&self) -> Result<String>;

    /// The shell into it: a scenario that asks for it says which worlds have none.
    ///
    /// # Errors
    /// When there is none.
    fn shell(&self) -> Result<&ShellGuest> {
        bail!("this world's guests have no shell")
    }
}

/// The agent of one guest: stopping, killing and stalling it, and what it has told.
#[async_trait(?Send)]
pub trait AgentControl: fmt::Debug {
    /// Kills it (-9) and keeps it from being started again.
    async fn stop(&self) -> Result<()>;

    /// Starts it again after [`Self::stop`].
    async fn start(&self) -> Result<()>;

    /// Kills it (-9); it is started again at once, as a service manager would.
    async fn kill(&self) -> Result<()>;

    /// Has it look for failpoints from its next life on; measurements are spared that.
    async fn heed_failpoints(&self) -> Result<()>;

    /// Lets it die at `failpoint`, when it comes there: the name of one of its steps and a side of
    /// it, `set-up.after`. It has to heed failpoints.
    async fn die_at(&self, failpoint: &str) -> Result<()>;

    /// Waits until it has died at its failpoint, as if by `kill -9`. It has been started again
    /// then, or is about to be.
    async fn died(&self) -> Result<()>;

    /// Stops it in its tracks: the process is there and does nothing.
    async fn stall(&self) -> Result<()>;

    /// Ends [`Self::stall`].
    async fn resume(&self) -> Result<()>;

    /// Whether it has told, since it was last started, that a NIC is bound.
    async fn has_told_bound(&self, nic: &NicId) -> Result<bool>;

    /// Sends bytes to the host by the agent's channel, which must be stopped.
    async fn send(&self, bytes: HostileBytes) -> Result<()>;

    /// The last lines it logged.
    async fn log(&self, lines: u32) -> Result<String>;
}

/// Bytes that no agent would send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostileBytes {
    /// A megabyte without any meaning.
    Noise,
    /// A megabyte of messages without any frame.
    Flood,
    /// The announcement of a frame that would take all memory.
    HugeFrame,
}

impl HostileBytes {
    /// Each kind.
    pub const ALL: [Self; 3] = [Self::Noise, Self::Flood, Self::HugeFrame];

    /// The bytes themselves; of noise always the same.
    #[must_use]
    pub fn bytes(self) -> Vec<u8> {
        const ABOUT_A_MEGABYTE: usize = 1 << 20;
        match self {
            Self::Noise => {
                let mut chance = Chance::new(1);
                let numbers = (0..ABOUT_A_MEGABYTE / 8).map(|_| chance.next_u64());
                numbers.flat_map(u64::to_le_bytes).collect()
            }
            Self::Flood => {
                let message = b"{\"type\":\"report\"}\n";
                message.repeat(ABOUT_A_MEGABYTE / message.len())
            }
            Self::HugeFrame => vec![0xff; 8],
        }
    }
}

/// A network namespace of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Where {
    /// The guest's own.
    Guest,
    /// The one a process is in.
    Process(u32),
    /// The one of a name under `/run/netns`.
    Named(String),
}

impl fmt::Display for Where {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Guest => write!(f, "the guest's own namespace"),
            Self::Process(pid) => write!(f, "the namespace of process {pid}"),
            Self::Named(name) => write!(f, "the namespace {name}"),
        }
    }
}

/// A link as `ip` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestLink {
    /// Its name.
    pub name: String,
    /// Its address; none for links that have no Ethernet header.
    pub mac: Option<MacAddr>,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub admin: Admin,
    /// Its addresses, link-local ones left out.
    pub addresses: Vec<IpNet>,
}

/// Whether a link is switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admin {
    /// It is.
    Up,
    /// It is not.
    Down,
}

/// A way to somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestRoute {
    /// Who carries on from there.
    pub gateway: Option<IpAddr>,
}

/// A container of a guest: a process in a network namespace of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Its process, in the guest's pid namespace.
    pub pid: u32,
    /// Its network namespace.
    pub netns_inode: NetnsInode,
}

impl Container {
    /// The container as the target of a NIC, guarded against a reused pid.
    #[must_use]
    pub fn target(&self) -> Target {
        Target::Pid {
            pid: self.pid,
            netns_inode: Some(self.netns_inode),
        }
    }

    /// The container as a place to look into.
    #[must_use]
    pub fn place(&self) -> Where {
        Where::Process(self.pid)
    }
}
