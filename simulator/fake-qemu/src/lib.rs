//! A QEMU that runs no guest and speaks QMP as the real one does, down to the error texts.
//!
//! For everyone who automates QMP: it needs no root, no KVM and no image, thousands of it fit into
//! one process, and it can be told to misbehave in every way the real one does.
//!
//! ```text
//!   client ◄─► MonitorStream ◄─► Serve ─► MessageReader ─► Machine ─► replies and events
//!             (unix socket or      │         (json)         (pure)  ├► GuestSignal ─► guest side
//!              memory, with        └ asks the Rulebook before       └► BackendChange
//!              descriptors)          and after each command           ◄── GuestAct
//! ```
//!
//! [`Machine`] is the whole behaviour and pure: commands and what the guest does go in, with the
//! time; replies, events and signals to the guest come out, as values. [`driver`] moves bytes,
//! keeps time and misbehaves where it is told to: a machine itself never does. What a real QEMU
//! says about its devices is recorded (`data/`), and one suite of transcripts is held against both
//! (`cargo xtask conformance qmp`).

mod catalogue;
pub mod driver;
mod hardware;
mod json;
mod machine;
mod profile;
mod schema;

pub use hardware::{Hardware, HardwareError, PortHotplug, ROOT_PORTS_MAX, RootPort, Start};
pub use json::{JsonError, MessageReader};
pub use machine::{
    Backend, BackendChange, Device, GuestAct, GuestDevice, GuestSignal, HardwareAddress, Host,
    Machine, MonitorId, Output, TapError, subject,
};
pub use profile::{HotplugMode, Profile, ProfileError};
