//! What must hold of a whole system: hostd's records, its journal, the host, every QEMU and guest.
//!
//! ```text
//!   world sim, netns, qemu, libvirt ─ looks ─► SystemView ─ violations ─► nothing, or sentences
//!                                                 │
//!                                    Moment::Any    what holds while things are under way
//!                                    Moment::AtRest what holds besides when nothing is
//! ```
//!
//! One function judges every world. It takes plain data and shares no code with hostd's decisions:
//! an oracle that shares the logic it judges agrees with every one of its faults. What a world
//! cannot look at it leaves out, and that part is not judged.

mod always;
mod at_rest;
pub mod model;
mod records;
mod view;

pub use view::{
    DeviceView, Filters, GuestLink, GuestView, Holder, HostView, JournalClaim, JournalRow,
    JournalView, Place, PortView, Reachability, Sight, SystemView, VmView,
};

/// What the system is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Anything: requests, faults, a hostd that has just died.
    Any,
    /// Nothing is under way, no fault is in force, and hostd has had time to put things away.
    AtRest,
}

/// One thing that should not be, or is missing: a sentence.
pub type Violation = String;

/// Everything that is wrong with a system.
#[must_use]
pub fn violations(view: &SystemView, moment: Moment) -> Vec<Violation> {
    let mut found = always::violations(view);
    if moment == Moment::AtRest {
        found.extend(at_rest::violations(view));
    }
    found
}
