//! The program in the VM: moves each arriving NIC into its target and keeps it right.
//!
//! The library is the whole of it but for the command line, so that tests and other programs can
//! run an agent in a namespace of their choice.
//!
//! ```text
//!   channel (bytes) ─► agent-protocol (session) ─► agent (one loop, one owner)
//!                                                    ├─ nic-binding (what next?)
//!                                                    ├─ nic, target, search (what is?)
//!                                                    ├─ act (do it)
//!                                                    └─ kernel ─► linux-network, mozim, sysfs
//! ```
//!
//! Everything but `kernel::linux` knows the kernel by traits alone, so that the same loop runs in a
//! guest that is simulated in memory ([`run_in`]).

mod act;
mod agent;
mod channel;
#[cfg(feature = "failpoints")]
mod failpoint;
mod guest;
mod identity;
pub mod kernel;
mod lease;
mod news;
mod nic;
mod search;
mod target;
mod task;

pub use agent::{AgentError, Settings, run, run_in};
pub use channel::Channel;
pub use guest::EnterGuestError;
pub use identity::IdentifyBy;
pub use kernel::{ChannelKind, InvalidChannel};
pub use task::Task;
