//! A guest kernel in memory, in which the real guest agent runs.
//!
//! [`kernel`] is the model: links, namespaces, processes and PCI slots as Linux has them, without a
//! clock and without I/O. [`FakeGuest`] runs it in tokio's time, puts the agent's own loop on it,
//! and gives it a pipe to the host; it is told what the hypervisor and people in the guest do, and
//! can be made to misbehave.
//!
//! ```text
//!   hypervisor ──plug, request_unplug──► ┌───────────┐ ──Ejected, Refused──► hypervisor
//!   people ─────containers, names──────► │ FakeGuest │
//!   rules ──────"guest.unplug"─────────► │  Kernel   │ ◄──kernel::GuestKernel── the agent's loop
//!                                        └───────────┘ ◄──────── port ────────► host
//! ```

mod dhcp;
mod guest;
pub mod kernel;

pub use dhcp::{Dealings, DhcpAnswer, DhcpMode, DhcpQuestion, DhcpServer, InvalidPool};
pub use guest::{
    Container, FakeAnnouncer, FakeDhcpClient, FakeGuest, FakeKernel, FakeLinkEvents,
    FakeNameEvents, FakeNetns, FakeProcess, FakeRtnetlink, GuestOptions, GuestSignal, NicPlug,
    PortEnd, Segment, SharedRules,
};
