//! What happened, one server-sent event each.
//!
//! On the wire: `id:` is [`Event::id`], `event:` the kind, `data:` the whole [`Event`] as JSON in
//! one line. hostd keeps the latest events for clients that come back with `Last-Event-ID`; when
//! what they missed is no longer there, an event of kind [`EventKind::Missed`] comes first and
//! they must look at everything. A comment at least every 15 s shows that the stream lives.

use std::fmt;

use nic_model::{NicId, VmId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{Nic, StepTiming, openapi};

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "id": 1_795_399_265_123_042_u64, "at_ms": 1_795_399_265_329_u64, "kind": "step_done",
    "nic": "nic-abc0123xyz", "vm": "web-1",
    "step": {"step": "plug", "at_ms": 11.2, "duration_ms": 12.6, "source": "host"},
}))]
pub struct Event {
    /// Grows with time, within one run of hostd and across runs.
    pub id: u64,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// What.
    pub kind: EventKind,
    /// Which NIC it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<openapi::NicId>)]
    pub nic: Option<NicId>,
    /// Which VM it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<openapi::VmId>)]
    pub vm: Option<VmId>,
    /// With [`EventKind::StepDone`]: the step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<StepTiming>,
    /// With [`EventKind::NicChanged`] and [`EventKind::NicDeleted`]: the NIC after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Nic>,
    /// A sentence for people, where there is more to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Kinds of events.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A NIC's state, condition or addresses changed.
    NicChanged,
    /// A NIC's record is gone.
    NicDeleted,
    /// A step for a NIC is done.
    StepDone,
    /// A VM appeared, or its power, agent or slots changed.
    VmChanged,
    /// A VM is gone.
    VmGone,
    /// Events before this one are lost to this client: it must look at everything.
    Missed,
}

impl EventKind {
    /// Its name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NicChanged => "nic_changed",
            Self::NicDeleted => "nic_deleted",
            Self::StepDone => "step_done",
            Self::VmChanged => "vm_changed",
            Self::VmGone => "vm_gone",
            Self::Missed => "missed",
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Query of `GET /v1/events`: only events about these.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventQuery {
    /// Only about this NIC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub nic: Option<NicId>,
    /// Only about this VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub vm: Option<VmId>,
}
