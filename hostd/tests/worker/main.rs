//! Workers over a scripted world: what real hypervisors, kernels and guests cannot be made to do
//! on demand, and what a hostile guest would.

#![expect(clippy::unwrap_used, reason = "set-up that fails is a failed test")]

mod agents;
mod attach;
mod detach;
mod held_taps;
mod hostile_agent;
mod leftovers;
mod port_limits;
mod promises;
mod restart;
mod supervision;
mod support;
mod vms;
