//! A VM as the API shows it, and hostd's own health.

use std::fmt;

use nic_model::{HotplugMode, NicId, PowerState, RateLimits, VmClassName, VmId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::openapi;

/// One VM: what its hypervisor and its agent say of it, and what it may have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "id": "web-1", "power": "running", "class": "small",
    "agent": {
        "state": "ready", "version": "0.1.0",
        "boot_id": "3f0b5d1c-8a53-4f0e-9b5e-0d6c1f2a7b44", "since_ms": 1_795_399_265_123_u64,
    },
    "hotplug": "acpi", "slots": {"total": 8, "free": 6, "reserved": 1},
    "limits": {
        "max_nics": 8, "max_addresses_per_nic": 4, "max_queues": 1,
        "rates": {"in": {}, "out": {"bandwidth": 1_000_000_000}},
    },
    "usage": {"nics": 2, "addresses": 4}, "nics": ["nic-abc0123xyz", "nic-qb2q7fj4q6"],
}))]
pub struct Vm {
    /// Its name.
    #[schema(value_type = openapi::VmId)]
    pub id: VmId,
    /// What its virtual CPUs do; absent while the hypervisor does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<openapi::PowerState>)]
    pub power: Option<PowerState>,
    /// The class that its limits come from.
    #[schema(value_type = openapi::VmClassName)]
    pub class: VmClassName,
    /// The agent in it.
    pub agent: Agent,
    /// How the guest is asked to let go of a device; absent while nobody has told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<openapi::HotplugMode>)]
    pub hotplug: Option<HotplugMode>,
    /// Its hot-plug slots.
    pub slots: Slots,
    /// What it may have.
    pub limits: VmLimits,
    /// What it has.
    pub usage: VmUsage,
    /// The NICs placed in it, those on their way included.
    #[schema(value_type = Vec<openapi::NicId>)]
    pub nics: Vec<NicId>,
}

/// The agent in a VM, as hostd sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Agent {
    /// Whether one can work with it.
    pub state: AgentState,
    /// Its version, once it has told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The guest kernel's boot id, once the agent has told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// Since when it is in this state, in milliseconds since the Unix epoch.
    pub since_ms: u64,
}

/// Whether one can work with an agent.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum AgentState {
    /// There is no channel to it.
    Absent,
    /// There is a channel and no answer yet.
    Connecting,
    /// It answers.
    Ready,
    /// It speaks no version of the protocol that hostd speaks.
    Incompatible,
    /// It broke the protocol and is cut off for a while.
    Misbehaving,
}

impl fmt::Display for AgentState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Absent => "absent",
            Self::Connecting => "connecting",
            Self::Ready => "ready",
            Self::Incompatible => "incompatible",
            Self::Misbehaving => "misbehaving",
        })
    }
}

/// Hot-plug slots of a VM. All zero while the hypervisor does not answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Slots {
    /// All of them.
    pub total: u64,
    /// Neither occupied nor reserved.
    pub free: u64,
    /// Reserved for a NIC that is not in it yet.
    pub reserved: u64,
}

/// What a VM may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmLimits {
    /// NICs at once, arriving and leaving ones counted.
    pub max_nics: u64,
    /// Addresses of one NIC.
    pub max_addresses_per_nic: u64,
    /// Queues of one NIC.
    pub max_queues: u16,
    /// Most that one NIC may pass, whatever it asks for.
    #[schema(value_type = openapi::RateLimits)]
    pub rates: RateLimits,
}

/// What a VM has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmUsage {
    /// NICs, arriving and leaving ones counted.
    pub nics: u64,
    /// Addresses of all of them.
    pub addresses: u64,
}

/// Answer to `GET /v1/vms`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmList {
    /// Every VM, ordered by name.
    pub vms: Vec<Vm>,
}

/// Answer to `GET /v1/health`: status 200 when `ok`, else 503.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "status": "degraded", "version": "0.1.0",
    "problems": ["the hypervisor of VM web-1 does not answer"],
}))]
pub struct Health {
    /// Whether hostd can do all of its work.
    pub status: HealthStatus,
    /// hostd's version.
    pub version: String,
    /// What is wrong, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// Whether hostd can do its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    /// All of it.
    Ok,
    /// Not all of it.
    Degraded,
}
