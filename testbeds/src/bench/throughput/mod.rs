//! How many attaches a second one hostd does, beside what its journal's engine commits a second.
//!
//! ```text
//!   one round, for each number of clients
//!     hostd:  clients ─► attach, every NIC once ─► detach       batches that are committed: noted
//!     engine: as many ─► the same batches of the same NICs, in order, with nothing in between
//! ```
//!
//! hostd's own core runs over its real journal on a real disk; QEMUs and guests are fake, in memory
//! and on a thread of their own: guests probe and let go at once. No attach can be faster than its
//! commits, which follow one another, so the engine's rate divided by the commits of one attach is
//! the bound. Both write the same rows, group what waits, and take turns.

mod load;
mod recorder;
mod stand;
mod summary;

pub use load::{Load, Way};
pub use recorder::{Program, Recorder, programs};
pub use stand::{Stand, StandPlan};
pub use summary::{Case, Round, Setting, Side, Summary};
