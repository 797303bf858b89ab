//! The pure heart of hostd: what may happen to a NIC, and what has to happen next.
//!
//! ```text
//!   request ──► Ledger::admit_* ──► new NicRecord (intent, journalled) or Refusal (a reason)
//!                                        │
//!                  observe ──► step(record, seen) ──► Next::Do(action) ──► effect ─┐
//!                     ▲                 │ Next::Wait(reason)                       │
//!                     └─────────────────┴──────────────────────────────────────────┘
//!                                       │ Next::Settle(event)
//!                                       ▼
//!                              state table: the record's next state
//! ```
//!
//! Start-up, a reconnect, a lost event and a timer all run the same [`step`]: it derives the next
//! action from what is seen, never from what was done, so it does not matter who died in between.
//! No clock, no randomness and no I/O here: they come in as arguments.

mod admission;
mod ledger;
mod limits;
mod plan;
mod record;
mod refusal;
mod state;
mod subnet;

pub use admission::{NewNic, RequestedAddressing, RequestedPlacement};
pub use ledger::{Ledger, Retirement, Site};
pub use limits::{HostQuota, LimitName, LimitUse, VmClass};
pub use plan::{
    Action, AgentSeen, Blocked, Next, Patience, PortSeen, Reason, Seen, Step, UnplugSeen, step,
};
pub use record::{Failure, NicRecord, Placement, Transit};
pub use refusal::{LimitRefusal, Refusal, RefusalKind};
pub use state::{InvalidTransition, NicEvent, NicState};
pub use subnet::Network;
