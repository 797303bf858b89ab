//! The program in the VM: moves each arriving NIC into its target and keeps it right.
//!
//! The library is the whole of it but for the command line, so that tests and other programs can
//! run an agent in a namespace of their choice.
//!
//! ```text
//!   channel (bytes) ─► agent-protocol (session) ─► agent (one loop, one owner)
//!                                                    ├─ nic-binding (what next?)
//!                                                    ├─ nic, target, search (what is?)
//!                                                    ├─ act (do it) ─► linux-network
//!                                                    └─ lease (DHCP) ─► mozim, a thread per link
//! ```

mod act;
mod agent;
mod channel;
mod failpoint;
mod guest;
mod identity;
mod lease;
mod nic;
mod search;
mod target;

pub use agent::{AgentError, Settings, run};
pub use channel::{ChannelKind, InvalidChannel};
pub use guest::EnterGuestError;
pub use identity::IdentifyBy;
