//! Events, with the time at which they happen.

use std::time::Duration;

use serde_json::{Value, json};

use super::monitor::Mode;
use super::{Machine, Output};

/// Why a machine is reset or ends (QEMU's `ShutdownCause` in `qapi/run-state.json`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    HostQuit,
    HostSignal,
    HostReset,
    GuestShutdown,
    GuestReset,
}

impl Reason {
    pub(super) fn data(self) -> Value {
        let (guest, reason) = match self {
            Self::HostQuit => (false, "host-qmp-quit"),
            Self::HostSignal => (false, "host-signal"),
            Self::HostReset => (false, "host-qmp-system-reset"),
            Self::GuestShutdown => (true, "guest-shutdown"),
            Self::GuestReset => (true, "guest-reset"),
        };
        json!({"guest": guest, "reason": reason})
    }
}

impl<D> Machine<D> {
    /// Tells every monitor that is in command mode, and nobody else.
    pub(super) fn event(&mut self, name: &'static str, data: Option<Value>, now: Duration) {
        let listening = |mode: Mode| mode == Mode::Commands;
        if !self
            .monitors
            .values()
            .any(|monitor| listening(monitor.mode))
        {
            return;
        }
        let mut message = json!({
            "event": name,
            "timestamp": {"seconds": now.as_secs(), "microseconds": now.subsec_micros()},
        });
        if let Some(data) = data {
            message["data"] = data;
        }
        self.outputs.push_back(Output::Event { name, message });
    }

    /// The monitors that are to hear of events, in their order.
    pub fn listeners(&self) -> impl Iterator<Item = super::MonitorId> {
        let listening = self
            .monitors
            .iter()
            .filter(|(_, monitor)| monitor.mode == Mode::Commands);
        listening.map(|(id, _)| *id)
    }
}
