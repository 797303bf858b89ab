//! Whether the virtual CPU runs, and the clock that stands still when it does not.

use std::time::Duration;

use serde_json::{Value, json};

use super::event::Reason;
use super::refusal::Refusal;
use super::{GuestSignal, Machine, Output};

/// QEMU's `RunState` (`qapi/run-state.json`), as far as commands lead there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RunState {
    Prelaunch,
    Running,
    Paused,
    /// The guest has panicked.
    GuestPanicked,
}

/// Whether a migration is going on, which refuses hot-plug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Migration {
    /// There has been none.
    None,
    Active,
    Cancelled,
    Failed,
}

impl RunState {
    fn name(self) -> &'static str {
        match self {
            Self::Prelaunch => "prelaunch",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::GuestPanicked => "guest-panicked",
        }
    }
}

/// QEMU's `QEMU_CLOCK_VIRTUAL`: it moves while the virtual CPU runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    ran: Duration,
    running_since: Option<Duration>,
}

impl Clock {
    pub(super) fn new(run_state: RunState, now: Duration) -> Self {
        Self {
            ran: Duration::ZERO,
            running_since: (run_state == RunState::Running).then_some(now),
        }
    }

    pub(super) fn at(&self, now: Duration) -> Duration {
        let since = |since| now.saturating_sub(since);
        self.ran + self.running_since.map_or(Duration::ZERO, since)
    }

    fn start(&mut self, now: Duration) {
        self.running_since.get_or_insert(now);
    }

    fn stop(&mut self, now: Duration) {
        self.ran = self.at(now);
        self.running_since = None;
    }
}

impl<D> Machine<D> {
    pub(super) fn query_status(&self) -> Value {
        json!({
            "status": self.run_state.name(),
            "singlestep": false,
            "running": self.run_state == RunState::Running,
        })
    }

    /// As `info status` prints it (`hmp_info_status` in QEMU's `monitor/hmp-cmds.c`).
    pub(super) fn status_text(&self) -> String {
        match self.run_state {
            RunState::Running => "VM status: running\r\n".to_owned(),
            RunState::Paused => "VM status: paused\r\n".to_owned(),
            state @ (RunState::Prelaunch | RunState::GuestPanicked) => {
                format!("VM status: paused ({})\r\n", state.name())
            }
        }
    }

    pub(super) fn query_migrate(&self) -> Value {
        match self.migration {
            Migration::None => json!({}),
            Migration::Active => json!({"status": "active"}),
            Migration::Cancelled => json!({"status": "cancelled"}),
            Migration::Failed => json!({"status": "failed"}),
        }
    }

    /// A migration begins: hot-plug is refused until it has ended.
    pub fn begin_migration(&mut self) {
        self.migration = Migration::Active;
    }

    /// The migration is over, and the machine is still here.
    pub fn end_migration(&mut self) {
        if self.is_migrating() {
            self.migration = Migration::Cancelled;
        }
    }

    /// `migrate`: it begins, and goes on until it is cancelled, since nobody is there to migrate
    /// to.
    pub(super) fn migrate(&mut self, uri: &str) -> Result<(), Refusal> {
        if self.is_migrating() {
            let text = "There's a migration process in progress";
            return Err(Refusal::generic(text));
        }
        // `qmp_migrate` in QEMU's `migration/migration.c`.
        let protocols = ["tcp:", "unix:", "vsock:", "exec:", "fd:"];
        if !protocols.iter().any(|protocol| uri.starts_with(protocol)) {
            self.migration = Migration::Failed;
            return Err(Refusal::expects("uri", "a valid migration protocol"));
        }
        self.begin_migration();
        Ok(())
    }

    pub(super) fn is_migrating(&self) -> bool {
        self.migration == Migration::Active
    }

    /// `stop`: only a running machine is told to, and says so.
    pub(super) fn stop(&mut self, now: Duration) {
        if self.run_state == RunState::Running {
            self.run_state = RunState::Paused;
            self.clock.stop(now);
            self.event("STOP", None, now);
            self.outputs.push_back(Output::Guest(GuestSignal::Stopped));
        }
    }

    pub(super) fn cont(&mut self, now: Duration) -> Result<(), Refusal> {
        match self.run_state {
            RunState::Running => return Ok(()),
            RunState::Prelaunch | RunState::Paused => {}
            // `qmp_cont` in QEMU's `monitor/qmp-cmds.c` asks for a reset first.
            RunState::GuestPanicked => {
                return Err(Refusal::generic(
                    "Resetting the Virtual Machine is required",
                ));
            }
        }
        self.run_state = RunState::Running;
        self.clock.start(now);
        self.devices.number_buses();
        self.event("RESUME", None, now);
        self.outputs.push_back(Output::Guest(GuestSignal::Resumed));
        Ok(())
    }

    pub(super) fn powerdown(&mut self, now: Duration) {
        self.event("POWERDOWN", None, now);
        self.outputs
            .push_back(Output::Guest(GuestSignal::PowerButton));
    }

    /// A reset of the machine, up to what happens before a monitor gets its answer.
    pub(super) fn announce_reset(&mut self, reason: Reason, now: Duration) {
        self.event("RESET", Some(reason.data()), now);
    }

    /// A reset of the machine itself.
    pub(super) fn reset(&mut self, now: Duration) {
        // `main_loop_should_exit` in QEMU's `softmmu/runstate.c`.
        if self.run_state != RunState::Running {
            self.run_state = RunState::Prelaunch;
        }
        self.complete_removals(now);
        self.devices.reset_slots();
        if self.run_state == RunState::Running {
            self.devices.number_buses();
        } else {
            self.devices.forget_buses();
        }
        self.outputs.push_back(Output::Guest(GuestSignal::Reset));
    }

    pub(super) fn announce_quit(&mut self, reason: Reason, now: Duration) {
        self.event("SHUTDOWN", Some(reason.data()), now);
    }

    /// The process is told by a signal to end (`qemu_system_killed` in QEMU's
    /// `softmmu/runstate.c`).
    pub(crate) fn terminate(&mut self, now: Duration) {
        self.announce_quit(Reason::HostSignal, now);
        self.quit();
    }

    pub(super) fn quit(&mut self) {
        self.outputs.push_back(Output::Guest(GuestSignal::Gone));
        self.outputs.push_back(Output::Quit);
    }

    pub(super) fn panic(&mut self, now: Duration) {
        if self.run_state == RunState::Running {
            self.event("GUEST_PANICKED", Some(json!({"action": "pause"})), now);
            self.run_state = RunState::GuestPanicked;
            self.clock.stop(now);
            self.event("STOP", None, now);
        }
    }
}
