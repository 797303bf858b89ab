//! What clients see, made of what is recorded and what is observed. Nothing is decided here.

mod event;
mod limit;
mod nic;
mod vm;

pub(super) use event::event;
pub(super) use limit::limits;
pub(super) use nic::{nic, state as nic_state, step_name, step_source};
pub(super) use vm::{may_use, vm, vms};
