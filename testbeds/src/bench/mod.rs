//! Measurements: what hostd adds to an attach, beside the floor inside the same operation and the
//! same thing done by hand.
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
mod hostd;
mod machine;
mod percentiles;
pub mod probe;
mod summary;

pub use by_hand::{ByHand, HandTimes};
pub use hostd::{HostdSide, HostdTimes, StepTime};
pub use machine::Machine;
pub use percentiles::Percentiles;
pub use summary::{Setting, Summary};

/// A duration in milliseconds.
pub(crate) fn milliseconds(duration: std::time::Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
