//! What hostd costs while nothing happens: memory, processor time and wakes.
//!
//! ```text
//!   hostd without VMs ─► killed ─► with every VM ─► every NIC attached ─► killed ─► started anew
//!         idle                        idle               idle                          idle
//! ```
//!
//! hostd is the real program, a process of its own in a network namespace of its own, with real
//! ports. Its QEMUs and guests are fake and live in the process of the benchmark, behind unix
//! sockets; they hold the taps they are given and carry no frames. So what is measured is all of
//! hostd and nothing else.

mod memory;
mod peers;
mod stand;
mod summary;

pub use memory::Memory;
pub use peers::Peers;
pub use stand::{PortKind, Stand, StandPlan};
pub use summary::{Idle, Setting, Stage, Summary};
