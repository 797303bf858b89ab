//! Random worlds, each held against the reference model: what happens, what goes wrong meanwhile
//! and how long everything takes is drawn from one seed.
//!
//! ```text
//!   seed ─► Plan, Steps ─► Rig ── performs a step, with its troubles ─► Sim: hostd, QEMUs, guests
//!                             │                                          │
//!                             ├── the model performs it too              ▼
//!                             └── compares: outcome, where each NIC ends, how long it took;
//!                                 and has the oracle judge the whole, under way and at rest
//! ```
//!
//! Troubles are what must not change where things end: a hostd that is killed at any of its
//! effects, connections cut, answers and events lost, late, twice or out of order, agents that die
//! in mid bind, slow disks, clients that ask twice. A run is a pure function of its seed; what is
//! found is replayed by that number alone.
//!
//! What a customer may ask for beyond that is not drawn: DHCP, addresses, routes and an MTU of its
//! own, a namespace by its name as the target, a NIC that is attached as it is made. The model
//! would have to know of leases and names; tests of their own and scenarios hold those.

mod aim;
mod bounds;
mod cast;
mod crowd;
mod customer;
mod ends;
mod generate;
mod judge;
mod menu;
mod report;
mod rig;
mod run;
mod sight;
mod step;
mod storm;

pub use bounds::Bounds;
pub use crowd::{AfterBreach, Crowd, CrowdError, News, Sum, running_seed};
pub use generate::{next_step, plan_of};
pub use menu::Mischief;
pub use report::{Breach, Caught, Report, command};
pub use rig::Rig;
pub use run::{Run, StepCount};
pub use step::{Act, Blackout, Downtime, Kill, Moment, Step, Trouble};

use oracle::model::{ContainerKey, Model, VmKey};

/// VMs of a world.
pub const VMS: u8 = 3;
/// Containers of a VM.
pub const CONTAINERS: u8 = 2;
/// NICs that there can be.
pub const NICS: u8 = 4;
/// NICs that a VM may have: fewer than there can be, so that the limit is met.
pub const NICS_PER_VM: u8 = 2;

/// The model of a world in which nothing has happened yet.
#[must_use]
pub fn first_model() -> Model {
    Model::new((0..VMS).map(VmKey), usize::from(NICS_PER_VM))
}

pub(crate) fn vm_keys() -> impl Iterator<Item = VmKey> {
    (0..VMS).map(VmKey)
}

pub(crate) fn container_keys() -> impl Iterator<Item = ContainerKey> {
    (0..CONTAINERS).map(ContainerKey)
}
