//! A NIC as the API shows it.

use std::fmt;

use nic_model::{
    Addressing, IpNet, LinkName, MacAddr, Mtu, NetworkName, NicId, PciPath, RateLimits, Route,
    SlotId, Target, TenantId, VmId,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Problem, openapi};

/// One NIC: what was asked for, where it stands, and how it got there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "id": "nic-abc0123xyz", "tenant": "acme", "network": "blue", "mac": "5a:00:12:ab:cd:ef",
    "addressing": {"mode": "static", "addresses": ["10.0.0.5/24"]},
    "addresses": ["10.0.0.5/24"], "mtu": 1500, "routes": [],
    "limits": {"in": {"bandwidth": 100_000_000}, "out": {}}, "queues": 1,
    "state": "in_use", "generation": 1,
    "placement": {
        "vm": "web-1", "target": {"kind": "netns", "name": "shop"}, "link_name": "eth0",
        "slot": "rp1", "pci_path": "02.0/00.0",
    },
    "timings": [
        {"step": "admit", "at_ms": 0.0, "duration_ms": 3.7, "source": "host"},
        {"step": "guest-enter", "duration_ms": 24.2, "source": "guest"},
    ],
    "created_at_ms": 1_795_399_265_123_u64, "updated_at_ms": 1_795_399_265_329_u64,
}))]
pub struct Nic {
    /// Its name for life.
    #[schema(value_type = openapi::NicId)]
    pub id: NicId,
    /// Whose.
    #[schema(value_type = openapi::TenantId)]
    pub tenant: TenantId,
    /// The network it is on.
    #[schema(value_type = openapi::NetworkName)]
    pub network: NetworkName,
    /// Its MAC address, for life.
    #[schema(value_type = openapi::MacAddr)]
    pub mac: MacAddr,
    /// How it gets its addresses, with those that are reserved for it.
    #[schema(value_type = openapi::Addressing)]
    pub addressing: Addressing,
    /// The addresses in force: those reserved, and leased ones as the guest reports them.
    #[schema(value_type = Vec<openapi::IpNet>)]
    pub addresses: Vec<IpNet>,
    /// Largest packet in bytes.
    #[schema(value_type = openapi::Mtu)]
    pub mtu: Mtu,
    /// Its routes beside those that its addresses imply.
    #[schema(value_type = Vec<openapi::Route>)]
    pub routes: Vec<Route>,
    /// The rates in force.
    #[schema(value_type = openapi::RateLimits)]
    pub limits: RateLimits,
    /// Queues of the device.
    #[schema(minimum = 1)]
    pub queues: u16,
    /// Where it stands in its life.
    pub state: NicState,
    /// Counts changes of what is wanted of it.
    pub generation: u64,
    /// Where it is, is going, or is leaving.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// During a move: where it goes next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moving_to: Option<Placement>,
    /// What is being done now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<StepName>,
    /// What stands in its way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked: Option<Blocked>,
    /// In use, but less than was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub degraded: Option<Degraded>,
    /// Why the last attempt came to nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<Problem>,
    /// What was done for the latest request, in order.
    pub timings: Vec<StepTiming>,
    /// Milliseconds since the Unix epoch.
    pub created_at_ms: u64,
    /// Milliseconds since the Unix epoch.
    pub updated_at_ms: u64,
}

/// States of a NIC, those of a cloud's ENI.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum NicState {
    /// Has a record, an address and a MAC, and is nowhere.
    Available,
    /// On its way into its target.
    Attaching,
    /// In its target, read back.
    InUse,
    /// On its way out.
    Detaching,
    /// Its record is being removed.
    Deleting,
}

impl NicState {
    /// Whether nothing is under way.
    #[must_use]
    pub const fn is_settled(self) -> bool {
        matches!(self, Self::Available | Self::InUse)
    }
}

impl fmt::Display for NicState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Available => "available",
            Self::Attaching => "attaching",
            Self::InUse => "in_use",
            Self::Detaching => "detaching",
            Self::Deleting => "deleting",
        })
    }
}

/// A place in a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Placement {
    /// Which VM.
    #[schema(value_type = openapi::VmId)]
    pub vm: VmId,
    /// Where in it.
    #[schema(value_type = openapi::Target)]
    pub target: Target,
    /// What the link is called there.
    #[schema(value_type = openapi::LinkName)]
    pub link_name: LinkName,
    /// The hot-plug slot reserved for it.
    #[schema(value_type = openapi::SlotId)]
    pub slot: SlotId,
    /// Where the guest sees that slot.
    #[schema(value_type = openapi::PciPath)]
    pub pci_path: PciPath,
}

/// What stands in a NIC's way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Blocked {
    /// A sentence for people.
    #[schema(example = "the guest has not let go of the device")]
    pub reason: String,
    /// Since when, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// When hostd tries again, in milliseconds since the Unix epoch.
    pub next_retry_ms: u64,
}

/// How a NIC in use is less than was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Degraded {
    /// A sentence for people.
    #[schema(example = "the agent in the guest does not answer")]
    pub reason: String,
}

/// The name of a step. An open set: a newer hostd may take steps that an older client has not
/// heard of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(example = "plug")]
pub struct StepName(pub String);

impl StepName {
    /// The steps of this version, roughly in the order of an attach and then of a detach.
    pub const KNOWN: [&str; 22] = [
        "admit",
        "make-port",
        "declare",
        "plug",
        "arrive",
        "guest-hold",
        "guest-enter",
        "guest-set-mtu",
        "guest-set-addresses",
        "guest-lease",
        "guest-set-up",
        "guest-set-routes",
        "guest-announce",
        "guest-verify",
        "bind",
        "guest-release",
        "release",
        "quiesce",
        "unplug",
        "guest-unplug",
        "forget",
        "record",
    ];
}

impl From<&str> for StepName {
    fn from(name: &str) -> Self {
        Self(name.to_owned())
    }
}

impl fmt::Display for StepName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// One step that is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StepTiming {
    /// Which.
    pub step: StepName,
    /// When it began, in milliseconds since the request was received. Absent for a step of the
    /// guest: the agent's clock tells how long it took, and nobody when by hostd's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 11.2)]
    pub at_ms: Option<f64>,
    /// How long it took, in milliseconds.
    #[schema(example = 12.6)]
    pub duration_ms: f64,
    /// Whose clock measured it.
    pub source: StepSource,
}

/// Who took a step, and measured it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum StepSource {
    /// hostd.
    Host,
    /// The agent in the guest.
    Guest,
}

impl StepTiming {
    /// When it was over, in milliseconds since the request was received, where that is known.
    #[must_use]
    pub fn end_ms(&self) -> Option<f64> {
        self.at_ms.map(|at_ms| at_ms + self.duration_ms)
    }
}

impl StepSource {
    /// Its word on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Guest => "guest",
        }
    }
}

impl fmt::Display for StepSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Answer to `GET /v1/nics`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NicList {
    /// Every NIC the caller may see, ordered by id.
    pub nics: Vec<Nic>,
}
