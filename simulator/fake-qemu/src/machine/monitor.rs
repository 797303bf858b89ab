//! One monitor: what was negotiated with its client, and the descriptors it was given.
//!
//! ```text
//!   closed ──► opened: greeting ──► qmp_capabilities ──► commands ──► closed
//!                └ names of descriptors and their sets stay over clients
//! ```

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::refusal::Refusal;
use super::run_state::RunState;
use super::{Machine, Output};

/// Which of a machine's monitors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MonitorId(pub u8);

/// What a monitor's client may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Closed,
    Negotiation,
    Commands,
}

/// Whether commands may be run ahead of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OutOfBand {
    On,
    Off,
}

/// Descriptors of a QEMU with one monitor and no more begin about here; the numbers are for people.
pub(super) const FIRST_DESCRIPTOR: i64 = 11;

/// Most descriptors a monitor holds by name. A process may hold 1024 unless told otherwise
/// (`RLIMIT_NOFILE`), and that is where a QEMU stops taking them.
const NAMES_MAX: usize = 1024;

#[derive(Debug)]
pub(super) struct Monitor<D> {
    pub(super) mode: Mode,
    pub(super) out_of_band: OutOfBand,
    /// What came with the last bytes and nobody has taken yet.
    arrived: Option<D>,
    names: BTreeMap<String, D>,
}

impl<D> Default for Monitor<D> {
    fn default() -> Self {
        Self {
            mode: Mode::Closed,
            out_of_band: OutOfBand::Off,
            arrived: None,
            names: BTreeMap::new(),
        }
    }
}

/// One descriptor of a set that `add-fd` made.
#[derive(Debug)]
pub(super) struct SetMember<D> {
    number: i64,
    opaque: Option<String>,
    removed: bool,
    /// Held open for as long as the set lives.
    #[expect(dead_code, reason = "owning it is its use")]
    descriptor: D,
}

impl<D> Machine<D> {
    /// A client has connected: the greeting goes out.
    pub fn opened(&mut self, monitor: MonitorId) {
        let version = self.hardware.profile.version();
        let opened = self.monitors.entry(monitor).or_default();
        opened.mode = Mode::Negotiation;
        opened.out_of_band = OutOfBand::Off;
        let message = json!({"QMP": {"version": version, "capabilities": ["oob"]}});
        self.outputs.push_back(Output::Reply { monitor, message });
    }

    /// The client is gone.
    pub fn closed(&mut self, monitor: MonitorId) {
        if let Some(monitor) = self.monitors.get_mut(&monitor) {
            monitor.mode = Mode::Closed;
            monitor.arrived = None;
        }
        self.sweep_sets();
    }

    /// Descriptors have come with bytes. A `getfd` takes the first of the newest ones; what else
    /// there was is closed (`tcp_chr_recv` and `tcp_get_msgfds` in QEMU's `chardev/char-socket.c`).
    pub fn arrived(&mut self, monitor: MonitorId, descriptors: Vec<D>) {
        if let Some(first) = descriptors.into_iter().next() {
            self.monitors.entry(monitor).or_default().arrived = Some(first);
        }
    }

    /// Whether the monitor's client may have commands run ahead of others.
    #[must_use]
    pub fn runs_out_of_band(&self, monitor: MonitorId) -> bool {
        let monitor = self.monitors.get(&monitor);
        monitor.is_some_and(|monitor| monitor.out_of_band == OutOfBand::On)
    }

    pub(super) fn mode(&self, monitor: MonitorId) -> Mode {
        let monitor = self.monitors.get(&monitor);
        monitor.map_or(Mode::Closed, |monitor| monitor.mode)
    }

    pub(super) fn negotiate(&mut self, monitor: MonitorId, arguments: &Map<String, Value>) {
        let monitor = self.monitors.entry(monitor).or_default();
        let enabled = arguments.get("enable").and_then(Value::as_array);
        let wanted = enabled.is_some_and(|enabled| enabled.contains(&json!("oob")));
        monitor.mode = Mode::Commands;
        if wanted {
            monitor.out_of_band = OutOfBand::On;
        }
    }

    pub(super) fn getfd(&mut self, monitor: MonitorId, name: &str) -> Result<(), Refusal> {
        let monitor = self.monitors.entry(monitor).or_default();
        let descriptor = monitor.arrived.take().ok_or_else(no_descriptor)?;
        if name.starts_with(|first: char| first.is_ascii_digit()) {
            return Err(Refusal::expects(
                "fdname",
                "a name not starting with a digit",
            ));
        }
        if monitor.names.len() >= NAMES_MAX && !monitor.names.contains_key(name) {
            return Err(no_descriptor());
        }
        monitor.names.insert(name.to_owned(), descriptor);
        Ok(())
    }

    pub(super) fn closefd(&mut self, monitor: MonitorId, name: &str) -> Result<(), Refusal> {
        let monitor = self.monitors.entry(monitor).or_default();
        let closed = monitor.names.remove(name);
        let missing = || Refusal::generic(format!("File descriptor named '{name}' not found"));
        closed.map(drop).ok_or_else(missing)
    }

    /// Takes the descriptor that a backend asks for by name (`monitor_fd_param` in QEMU's
    /// `monitor/misc.c`).
    pub(super) fn take_descriptor(
        &mut self,
        monitor: MonitorId,
        netdev: &str,
        name: &str,
    ) -> Result<(D, i64), Refusal> {
        if name.starts_with(|first: char| first.is_ascii_digit()) {
            return Err(numbered(netdev, name));
        }
        let monitor = self.monitors.entry(monitor).or_default();
        let descriptor = monitor.names.remove(name).ok_or_else(|| {
            Refusal::generic(format!("File descriptor named '{name}' has not been found"))
        })?;
        let number = self.next_descriptor;
        self.next_descriptor += 1;
        Ok((descriptor, number))
    }

    pub(super) fn add_fd(
        &mut self,
        monitor: MonitorId,
        arguments: &Map<String, Value>,
    ) -> Result<Value, Refusal> {
        let monitor = self.monitors.entry(monitor).or_default();
        let descriptor = monitor.arrived.take().ok_or_else(no_descriptor)?;
        let wanted = arguments.get("fdset-id").and_then(Value::as_i64);
        if wanted.is_some_and(|set| set < 0) {
            return Err(Refusal::expects("fdset-id", "a non-negative value"));
        }
        let free = || (0..).find(|set| !self.descriptor_sets.contains_key(set));
        let set = wanted.or_else(free).unwrap_or_default();
        let number = self.next_descriptor;
        self.next_descriptor += 1;
        let opaque = arguments.get("opaque").and_then(Value::as_str);
        let member = SetMember {
            number,
            opaque: opaque.map(str::to_owned),
            removed: false,
            descriptor,
        };
        self.descriptor_sets.entry(set).or_default().push(member);
        Ok(json!({"fd": number, "fdset-id": set}))
    }

    pub(super) fn remove_fd(&mut self, arguments: &Map<String, Value>) -> Result<(), Refusal> {
        let set = arguments.get("fdset-id").and_then(Value::as_i64);
        let set = set.unwrap_or_default();
        let number = arguments.get("fd").and_then(Value::as_i64);
        let missing = || {
            let number = number.map_or_else(String::new, |number| format!(", fd:{number}"));
            let name = format!("fdset-id:{set}{number}");
            Refusal::generic(format!("File descriptor named '{name}' not found"))
        };
        let members = self.descriptor_sets.get_mut(&set).ok_or_else(missing)?;
        let mut found = false;
        for member in members {
            if number.is_none_or(|number| member.number == number) {
                member.removed = true;
                found = true;
            }
        }
        self.sweep_sets();
        found.then_some(()).ok_or_else(missing)
    }

    /// While the virtual CPU runs, what was removed goes, and without a client all goes
    /// (`monitor_fdset_cleanup` in QEMU's `monitor/misc.c`).
    fn sweep_sets(&mut self) {
        if self.run_state != RunState::Running {
            return;
        }
        let alone = self
            .monitors
            .values()
            .all(|monitor| monitor.mode == Mode::Closed);
        self.descriptor_sets.retain(|_, members| {
            members.retain(|member| !member.removed && !alone);
            !members.is_empty()
        });
    }

    pub(super) fn query_fdsets(&self) -> Value {
        let member = |member: &SetMember<D>| match &member.opaque {
            Some(opaque) => json!({"fd": member.number, "opaque": opaque}),
            None => json!({"fd": member.number}),
        };
        let set = |(id, members): (&i64, &Vec<SetMember<D>>)| {
            let members: Vec<Value> = members.iter().map(member).collect();
            json!({"fdset-id": id, "fds": members})
        };
        // The newest set comes first in QEMU's list.
        self.descriptor_sets.iter().rev().map(set).collect()
    }
}

fn no_descriptor() -> Refusal {
    Refusal::generic("No file descriptor supplied via SCM_RIGHTS")
}

/// A number of a descriptor that QEMU has inherited; none is inherited here.
fn numbered(netdev: &str, name: &str) -> Refusal {
    match name.parse::<u32>() {
        Ok(number) => Refusal::generic(format!(
            "{netdev}: Can't use file descriptor {number}: Bad file descriptor"
        )),
        Err(_) => Refusal::generic(format!("Invalid file descriptor number '{name}'")),
    }
}
