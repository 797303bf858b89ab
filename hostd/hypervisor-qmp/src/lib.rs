//! Hypervisor back end over QMP sockets.
//!
//! ```text
//!   QmpHypervisor ──► Link, one actor a VM ──► Session, one a connection ──► client::Connection
//!     inspect ────────────────────────────────► hardware: devices, backends, power
//!     plug, unplug, set_link ─► change, one at a time a VM
//!     events ◄──────────── connection lost, back ◄──── QEMU's events
//! ```
//!
//! For QEMUs that somebody started with a QMP socket of ours; those that libvirt manages are
//! reached through libvirt. QEMU has to listen on the socket itself: which life of the VM this is
//! goes by the listening process, and a socket handed down by a supervisor would name that one.

mod change;
pub mod client;
mod commands;
mod event;
mod hypervisor;
mod inventory;
mod link;
mod network_text;
mod process;
mod qom;
mod session;

pub use crate::hypervisor::{Jitter, QmpHypervisor, QmpVm, Settings, Vhost};
