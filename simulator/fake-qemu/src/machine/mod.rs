//! One machine: its state, and what each command, each act of its guest and time do to it.
//!
//! ```text
//!   execute(command) ─┐                       ┌─► Output::Reply, Output::Event   (to monitors)
//!   guest(act) ───────┼──► Machine ──► queue ─┼─► Output::Guest                  (to the guest)
//!   opened, closed ───┘                       ├─► Output::Backend                (netdevs)
//!                                             └─► Output::Quit
//!
//!   a device:  device_add ──► plugged ──► device_del ──► asked ──► ejected ──► DEVICE_DELETED
//!                                │                         │ reset (ACPI)──┘
//!                                └ its slot has no power (native): removed at once
//! ```
//!
//! Pure: no clock, no sockets, no randomness. The order of outputs is the order in which a QEMU
//! sends them. What a machine needs of its host at once (is this descriptor a tap?) it asks through
//! [`Host`].

mod announce;
mod device;
mod dispatch;
mod event;
mod guest;
mod hardware_address;
mod monitor;
mod network;
mod network_text;
mod object_model;
mod pci;
mod plug;
mod property;
mod queries;
mod refusal;
mod run_state;
mod rx_filter;
mod unplug;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub use device::Device;
pub use dispatch::subject;
pub use guest::{GuestAct, GuestDevice, GuestSignal};
pub use hardware_address::HardwareAddress;
pub use monitor::MonitorId;
pub use network::{Backend, BackendChange, Host, TapError};

use device::{DeviceKey, Devices};
use monitor::Monitor;
use network::Network;
use run_state::{Clock, Migration, RunState};
use serde_json::Value;

use crate::hardware::{Hardware, Start};

/// Something a machine does to the world around it.
#[derive(Debug)]
pub enum Output<D> {
    /// An answer to one monitor.
    Reply {
        /// Whose command it answers.
        monitor: MonitorId,
        /// The whole message.
        message: Value,
    },
    /// An event for every monitor in command mode.
    Event {
        /// Such as `DEVICE_DELETED`.
        name: &'static str,
        /// The whole message.
        message: Value,
    },
    /// Something the guest notices.
    Guest(GuestSignal),
    /// A network backend has come or gone.
    Backend(BackendChange<D>),
    /// The process ends.
    Quit,
}

/// One machine, whose descriptors are `D`.
#[derive(Debug)]
pub struct Machine<D> {
    hardware: Arc<Hardware>,
    clock: Clock,
    run_state: RunState,
    migration: Migration,
    monitors: BTreeMap<MonitorId, Monitor<D>>,
    /// Descriptors that `add-fd` has put into sets.
    descriptor_sets: BTreeMap<i64, Vec<monitor::SetMember<D>>>,
    next_descriptor: i64,
    network: Network<D>,
    devices: Devices,
    /// Devices that go once the command that asked for it has been answered.
    leaving: Vec<DeviceKey>,
    outputs: VecDeque<Output<D>>,
}

impl<D> Machine<D> {
    /// A machine that begins at `now`, counted from the Unix epoch as all its times are.
    #[must_use]
    pub fn new(hardware: Arc<Hardware>, now: Duration) -> Self {
        let running = hardware.start == Start::Running;
        let run_state = if running {
            RunState::Running
        } else {
            RunState::Prelaunch
        };
        Self {
            devices: Devices::new(hardware.root_ports.len(), running),
            hardware,
            clock: Clock::new(run_state, now),
            run_state,
            migration: Migration::None,
            monitors: BTreeMap::new(),
            descriptor_sets: BTreeMap::new(),
            next_descriptor: monitor::FIRST_DESCRIPTOR,
            network: Network::default(),
            leaving: Vec::new(),
            outputs: VecDeque::new(),
        }
    }

    /// What it has done since it was last asked, in order.
    pub fn next_output(&mut self) -> Option<Output<D>> {
        let output = self.outputs.pop_front();
        if self.outputs.is_empty() {
            // Idle machines are many.
            self.outputs = VecDeque::new();
        }
        output
    }

    /// Takes back what it is about to do.
    pub(crate) fn drop_output(&mut self, is_it: impl Fn(&Output<D>) -> bool) {
        self.outputs.retain(|output| !is_it(output));
    }

    /// What it is made of.
    #[must_use]
    pub fn hardware(&self) -> &Hardware {
        &self.hardware
    }

    /// The devices that have been plugged in.
    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        self.devices.iter()
    }

    /// The network backends that have been made.
    pub fn backends(&self) -> impl Iterator<Item = &Backend<D>> {
        self.network.backends()
    }
}
