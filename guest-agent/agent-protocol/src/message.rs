//! What host and guest say to each other.
//!
//! The host *declares* what it wants, the agent *reports* what is: both are whole values, not
//! increments, so a message lost with a session is made good by the next one. Every declaration of
//! a NIC carries a generation that hostd counts up; a report answers one generation and is ignored
//! once a newer one was declared.

use nic_model::{
    Addressing, BootId, IpNet, LinkName, MacAddr, Mtu, NetnsInode, NicId, PciPath, Route, Target,
    TargetIdentity,
};
use serde::{Deserialize, Serialize};

/// Host to guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum HostMessage {
    /// Opens a session; repeated until a [`AgentMessage::Welcome`] bears its nonce.
    Hello {
        /// Oldest and newest protocol version the host speaks.
        versions: VersionRange,
    },
    /// The complete set of NICs of this VM: what is not in it is none of the agent's business any
    /// more. Sent once at the start of a session, in several messages where one frame is too small.
    Declare {
        /// Every NIC that is to arrive, to stay or to go, or the next part of them.
        nics: Vec<WantedNic>,
        /// How many NICs of the set are still to come: it takes effect once this is zero.
        #[serde(default)]
        remaining: u32,
    },
    /// Adds one NIC to the set or replaces its entry.
    Want {
        /// The new entry.
        nic: Box<WantedNic>,
    },
    /// Removes one NIC from the set: its device is gone and stays gone.
    Forget {
        /// Which.
        nic: NicId,
    },
    /// Asks for a [`AgentMessage::Pong`]: the only way to tell a quiet agent from a dead one, since
    /// a virtio-serial port knows no connections.
    Ping {
        /// Returned as it is.
        sequence: u64,
    },
}

impl HostMessage {
    /// Whether it is one of those that a [`AgentMessage::Pong`] counts: a lost one would be missed.
    pub(crate) fn is_counted(&self) -> bool {
        match self {
            Self::Declare { .. } | Self::Want { .. } | Self::Forget { .. } => true,
            Self::Hello { .. } | Self::Ping { .. } => false,
        }
    }
}

/// Guest to host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum AgentMessage {
    /// Accepts a session.
    Welcome {
        /// Version for this session: the newest both speak.
        version: u16,
        /// The agent's own version, for people.
        agent: String,
        /// The kernel's `boot_id`: tells a rebooted guest from a restarted agent.
        boot_id: BootId,
    },
    /// Refuses a session.
    Incompatible {
        /// What the agent speaks.
        versions: VersionRange,
    },
    /// How one NIC stands, sent whenever it changes and for each NIC after a declaration.
    Report {
        /// The whole of it.
        report: Box<NicReport>,
    },
    /// Answers whatever comes in a session that the agent knows nothing of: it has been restarted
    /// since, or has lost bytes. Without this the host would wait for Pongs in vain.
    NoSession,
    /// Answers [`HostMessage::Ping`].
    Pong {
        /// As it came.
        sequence: u64,
        /// How many declarations, wishes and farewells of this session came before the Ping.
        heard: u64,
        /// How many reports of this session went out before this answer.
        reported: u64,
    },
}

/// Protocol versions one side speaks: the newest, and the one before where that is of use.
///
/// [`HostMessage::Hello`], [`AgentMessage::Welcome`] and [`AgentMessage::Incompatible`] are what
/// the versions are negotiated with, so these three never change their form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionRange {
    /// Oldest.
    pub oldest: u16,
    /// Newest.
    pub newest: u16,
}

impl VersionRange {
    /// What this build speaks. Not 1, in which a [`AgentMessage::Pong`] bore its sequence alone:
    /// without its counts neither side would ever miss a message that was lost.
    pub const CURRENT: Self = Self {
        oldest: 2,
        newest: 2,
    };

    /// The newest version that both sides speak.
    #[must_use]
    pub fn common_newest(self, other: Self) -> Option<u16> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }

    /// Whether `version` is one of these.
    #[must_use]
    pub fn contains(self, version: u16) -> bool {
        (self.oldest..=self.newest).contains(&version)
    }
}

/// One NIC as the host wants it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WantedNic {
    /// Which.
    pub nic: NicId,
    /// Counts the host's declarations of this NIC.
    pub generation: u64,
    /// Where its device arrives: the first thing to look for.
    pub path: PciPath,
    /// Its address: the cross-check, never the key (two devices may legally share one).
    pub mac: MacAddr,
    /// What is to become of it.
    pub goal: Goal,
    /// What is known of a pid that is its target: whoever bears that number otherwise is somebody
    /// else. Always `None` for a name, which says all by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_target: Option<KnownTarget>,
}

/// What the host knows of a target that is a pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "known", rename_all = "snake_case", deny_unknown_fields)]
pub enum KnownTarget {
    /// It was asked for in this boot of the guest, and the NIC has not been bound yet.
    AskedIn {
        /// The guest kernel's `boot_id` then.
        boot_id: BootId,
    },
    /// The NIC was bound in it.
    BoundIn {
        /// What it was.
        target: TargetIdentity,
    },
}

/// What is to become of a NIC's link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "goal", rename_all = "snake_case", deny_unknown_fields)]
pub enum Goal {
    /// In its target, configured and up.
    Bound {
        /// How.
        binding: Box<Binding>,
    },
    /// Down and without addresses, in no container's use: about to be unplugged.
    Released,
}

/// A link as it is to be in its target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    /// Where.
    pub target: Target,
    /// Under which name.
    pub link_name: LinkName,
    /// Largest packet.
    pub mtu: Mtu,
    /// Its addresses.
    pub addressing: Addressing,
    /// Its routes beside those that the addresses imply.
    pub routes: Vec<Route>,
}

/// How one NIC stands in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NicReport {
    /// Which.
    pub nic: NicId,
    /// The declaration this answers.
    pub generation: u64,
    /// How far it has come.
    pub phase: Phase,
    /// What has been done for this generation, in order, with the agent's own durations.
    pub steps: Vec<StepTiming>,
}

/// How far a NIC has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case", deny_unknown_fields)]
pub enum Phase {
    /// No link at the declared place yet.
    Awaited,
    /// The link has been seen and is on its way.
    Binding,
    /// In its target, read back: name, MTU, addresses, routes, up.
    Bound {
        /// What the target is.
        target: TargetIdentity,
        /// Every address on the link, leased ones included; link-local ones left out.
        addresses: Vec<IpNet>,
    },
    /// Down and without addresses, where it was or in the holding namespace. One that is still in
    /// its container is moved to the holding namespace when it is not unplugged within a second.
    Released,
    /// No link at the declared place any more (or never), while the goal is to release it.
    Absent,
    /// The container died, the kernel gave the link back, and it waits in the holding namespace.
    Returned,
    /// Binding failed; everything is undone and the link, if it exists, is in the holding
    /// namespace.
    Failed {
        /// Why.
        error: BindError,
    },
}

/// One thing the agent did for a NIC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepTiming {
    /// What.
    pub step: BindStep,
    /// How long it took, in microseconds of the guest's monotonic clock.
    pub duration_us: u64,
}

/// The steps from an arriving link to a usable one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BindStep {
    /// Into the holding namespace.
    Hold,
    /// Into the target under its name.
    Enter,
    /// MTU.
    SetMtu,
    /// Static addresses.
    SetAddresses,
    /// Up.
    SetUp,
    /// Routes.
    SetRoutes,
    /// A lease.
    Lease,
    /// GARP and unsolicited neighbour advertisement.
    Announce,
    /// Read back.
    Verify,
    /// Down and bare, where it is or in the holding namespace.
    Release,
}

/// Why a link could not be bound. Messages are fragments that fit "binding failed: …".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "error", rename_all = "snake_case", deny_unknown_fields)]
pub enum BindError {
    /// No such process or named namespace.
    #[error("the target {target} does not exist")]
    TargetGone {
        /// The target asked for.
        target: Target,
    },
    /// The pid lives in another namespace than the caller saw: it has been reused.
    #[error("the target {target} is in network namespace {found:?} now")]
    TargetChanged {
        /// The target asked for.
        target: Target,
        /// Where that pid is now.
        found: NetnsInode,
    },
    /// The target is the guest's own or the holding namespace.
    #[error("the target {target} is the guest's own network namespace")]
    TargetIsGuest {
        /// The target asked for.
        target: Target,
    },
    /// A link of that name is in the target already.
    #[error("the target has a link named {name} already")]
    NameTaken {
        /// The name asked for.
        name: LinkName,
    },
    /// The link disappeared on the way: unplugged.
    #[error("the link vanished during {step:?}")]
    LinkVanished {
        /// What was being done.
        step: BindStep,
    },
    /// A device sits at the declared place with another address.
    #[error("the device at {path} has MAC address {found}, not {expected}")]
    MacMismatch {
        /// Where.
        path: PciPath,
        /// What was declared.
        expected: MacAddr,
        /// What is there.
        found: MacAddr,
    },
    /// No lease in time.
    #[error("no DHCP server answered within {waited_ms} ms")]
    NoLease {
        /// Milliseconds.
        waited_ms: u64,
    },
    /// The kernel refused a step.
    #[error("the guest kernel refused {step:?}: {message}")]
    Kernel {
        /// What was being done.
        step: BindStep,
        /// What the kernel said, for people; capped at 200 bytes.
        message: String,
    },
}
