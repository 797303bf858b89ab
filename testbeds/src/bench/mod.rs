//! Measurements: what hostd adds to an attach, beside the floor inside the same operation and the
//! same thing done by hand. How many it does a second is measured by [`throughput`], what it costs
//! while nothing happens by [`idle`], and how soon a cloud on a laptop can be used by [`up`].
//!
//! ```text
//!   one round    hostd: attach ─► first echo ─► answer ─► detach ─► answer
//!                hand:  virsh attach-device ─► six `ip` commands ─► first echo ─► detach-device
//!   … × pairs ─► percentiles ─► goals met or not ─► JSON, table
//! ```
//!
//! Both sides take turns in one run, so that a machine that is slow for a while is slow for both,
//! and both are proven usable by the same [`probe`]. Numbers of different runs or machines are
//! never compared; ratios within one run are.

mod by_hand;
mod cpu;
mod hostd;
pub mod idle;
mod machine;
mod percentiles;
pub mod probe;
mod summary;
pub mod throughput;
pub mod up;

pub use by_hand::{ByHand, HandTimes};
pub use cpu::{Effort, Efforts};
pub use hostd::{HostdSide, HostdTimes, StepTime};
pub use machine::{Computer, Machine, disk_of};
pub use percentiles::Percentiles;
pub use summary::{Goal, Setting, Summary};

/// A duration in milliseconds.
pub(crate) fn milliseconds(duration: std::time::Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
