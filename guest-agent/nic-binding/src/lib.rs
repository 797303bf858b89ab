//! Pure decisions: what was seen and what was asked give the next action. No clock, no I/O.
//!
//! A link passes through a guest kernel that renames it, a container that dies and a host that
//! changes its mind, so there is no script to follow: one [`NicBinding`] per declared NIC looks at
//! what is and at what should be, and names the one next thing to do.
//!
//! ```text
//!   Sight ──see──► ┌────────────┐ ──next──► Action ──► the agent does it
//!   wish ─declare► │ NicBinding │                          │
//!   lease ───────► └────────────┘ ◄──complete, verified────┘
//! ```
//!
//! Links nobody declared are none of our business in the guest's own namespace; in the holding
//! namespace they stay, switched off ([`undeclared()`]).

mod action;
mod belief;
mod binding;
mod compare;
mod sight;
mod undeclared;

pub use action::{Action, StepFailure};
pub use binding::{NicBinding, STAY};
pub use sight::{Admin, Lease, LeaseSight, LinkPlace, LinkSeen, NameInTarget, Sight, TargetSight};
pub use undeclared::{UndeclaredAction, undeclared};
