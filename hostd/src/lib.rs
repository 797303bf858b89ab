//! The daemon on the host: admits, journals, hot-plugs, reconciles.
//!
//! ```text
//!   HTTP ──► Service ──► Store: ledger + journal (intent durable) ──► nudge
//!                                                                      │
//!   hypervisor events ──► Keeper ──────► nudge ──► VmWorker (one per VM, sole owner of its NICs)
//!                                                    observe ──► nic_lifecycle::step ──► act
//!   agent channel ◄──────► AgentLink (one per VM) ──────┘           │
//!                                                                   └──► Board: what a person sees
//! ```
//!
//! A request only changes a record; the worker of the VM concerned sees the record and makes the
//! world follow it. So a restart, a lost event and a request are all the same to a worker.

pub mod agent_link;
pub mod board;
pub mod config;
pub mod daemon;
pub mod failpoint;
pub mod http;
pub mod pace;
pub mod ports;
pub mod sabotage;
pub mod service;
pub mod store;
pub mod supervisor;
pub mod surroundings;
pub mod watched;
pub mod worker;

mod janitor;
mod keeper;
mod tokens;
