//! Types and client of hostd's HTTP API, version 1.
//!
//! hostd serves these types and every client of it speaks them, so that a field can be neither
//! misspelt nor forgotten on one side. The API document is made from the same types.
//!
//! ```text
//!   POST /v1/nics ─► Nic (202, attaching) ─► events: step, step, … nic_changed ─► Nic (in_use)
//!        ?wait=30s: the answer comes when the NIC is settled (200) or the time is over (202)
//! ```
//!
//! Requests refuse unknown fields: a misspelt limit must not read as "no limit". Answers do not,
//! so that an older client can talk to a newer hostd.

pub mod client;
mod event;
mod limits;
mod nic;
pub mod openapi;
pub mod path;
mod problem;
mod request;
mod target;
mod vm;
mod wait;

pub use client::Client;
pub use event::{Event, EventKind, EventQuery};
pub use limits::{Limit, LimitScope, Limits};
pub use nic::{
    Blocked, Degraded, Nic, NicList, NicState, Placement, StepName, StepSource, StepTiming,
};
pub use problem::{LimitDetail, Problem, ProblemCode, UnknownProblemCode};
pub use request::{
    AddressingMode, AddressingRequest, AttachNic, CreateNic, MoveNic, MutationQuery,
};
pub use vm::{Agent, AgentState, Health, HealthStatus, Slots, Vm, VmLimits, VmList, VmUsage};
pub use wait::{InvalidWait, Wait};
