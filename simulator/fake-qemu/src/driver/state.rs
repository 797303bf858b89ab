//! What a machine's connections share: the machine, what is to be sent, and what is due later.

use std::collections::{BTreeMap, VecDeque};
use std::sync::PoisonError;
use std::task::Waker;
use std::time::Duration;

use misbehaviour::Clock;
use nic_model::VmId;
use tokio::time::Instant;

use super::{Settings, SharedRules, Surroundings, wake};
use crate::json;
use crate::machine::{GuestAct, GuestSignal, Machine, MonitorId, Output};

/// Most bytes that wait for one client. A client that does not read while it sends is cut off here;
/// QEMU would hold all of it (`outbuf` in its `monitor/monitor.c`).
const UNSENT_BYTES_MAX: usize = 16 << 20;

/// A machine and everything about it.
pub(super) struct State<D, S> {
    pub(super) machine: Machine<D>,
    pub(super) surroundings: S,
    pub(super) rules: SharedRules,
    pub(super) vm: Option<VmId>,
    clock: Clock,
    epoch: Duration,
    origin: Instant,
    clients: BTreeMap<MonitorId, Client>,
    due: BTreeMap<(Duration, u64), Due>,
    sequence: u64,
    runner: Option<Waker>,
    life: Life,
}

/// Something that happens later.
pub(super) enum Due {
    Act(GuestAct),
    Event { line: Vec<u8> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Runs,
    /// It has ended by itself: what is to be sent still is.
    Quit,
    /// It was killed.
    Dead,
}

/// The connected client of one monitor.
#[derive(Default)]
pub(super) struct Client {
    unsent: VecDeque<u8>,
    /// An event that is to be told after what comes next.
    held: Vec<Vec<u8>>,
    waker: Option<Waker>,
    pub(super) fate: Fate,
}

/// What is to become of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Fate {
    #[default]
    Lives,
    /// Sends what is there, then closes.
    Ends,
    /// Closes at once.
    Cut,
    /// Nothing is sent any more, and nothing read.
    Stalls,
}

impl<D, S: Surroundings<D>> State<D, S> {
    pub(super) fn new(settings: Settings, surroundings: S) -> Self {
        let Settings {
            hardware,
            vm,
            rules,
            epoch,
        } = settings;
        Self {
            machine: Machine::new(hardware, epoch),
            surroundings,
            rules,
            vm,
            clock: Clock::default(),
            epoch,
            origin: Instant::now(),
            clients: BTreeMap::new(),
            due: BTreeMap::new(),
            sequence: 0,
            runner: None,
            life: Life::Runs,
        }
    }

    /// The machine's time, since the Unix epoch.
    pub(super) fn now(&self) -> Duration {
        self.epoch.saturating_add(self.clock.now(self.real()))
    }

    fn real(&self) -> Duration {
        self.origin.elapsed()
    }

    /// When a time of the machine's comes, if it does.
    pub(super) fn instant_of(&self, time: Duration) -> Option<Instant> {
        let simulated = time.saturating_sub(self.epoch);
        let left = self.clock.real_until(simulated, self.real())?;
        Instant::now().checked_add(left)
    }

    pub(super) fn change_clock(&mut self, change: impl FnOnce(&mut Clock, Duration)) {
        let real = self.real();
        change(&mut self.clock, real);
        self.wake_all();
    }

    pub(super) fn has_ended(&self) -> bool {
        self.life != Life::Runs
    }

    pub(super) fn is_dead(&self) -> bool {
        self.life == Life::Dead
    }

    /// Hands on everything the machine has done.
    pub(super) fn settle(&mut self) {
        while let Some(output) = self.machine.next_output() {
            match output {
                Output::Reply { monitor, message } => self.send(monitor, &json::line(&message)),
                Output::Event { name, message } => {
                    self.event(name, &message, json::line(&message));
                }
                Output::Guest(signal) => self.signal(signal),
                Output::Backend(change) => self.surroundings.backend(change),
                Output::Quit => self.quit(),
            }
        }
    }

    fn signal(&mut self, signal: GuestSignal) {
        let now = self.now();
        for (later, act) in self.surroundings.signal(signal) {
            self.schedule(now + later, Due::Act(act));
        }
    }

    pub(super) fn quit(&mut self) {
        if self.life == Life::Runs {
            self.life = Life::Quit;
        }
        for client in self.clients.values_mut() {
            client.fate = Fate::Ends;
        }
        self.wake_all();
    }

    pub(super) fn die(&mut self) {
        self.life = Life::Dead;
        for client in self.clients.values_mut() {
            client.fate = Fate::Cut;
        }
        // What the process held goes with it.
        self.due.clear();
        drop(self.surroundings.signal(GuestSignal::Gone));
        self.wake_all();
    }

    pub(super) fn schedule(&mut self, time: Duration, due: Due) {
        self.sequence += 1;
        self.due.insert((time, self.sequence), due);
        wake(&mut self.runner);
    }

    /// What is due by now, one at a time.
    pub(super) fn next_due(&mut self) -> Option<Due> {
        let now = self.now();
        let entry = self.due.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }

    pub(super) fn next_time(&self) -> Option<Duration> {
        self.due.first_key_value().map(|((time, _), _)| *time)
    }

    pub(super) fn wait_for_more(&mut self, waker: &Waker) {
        self.runner = Some(waker.clone());
    }

    pub(super) fn connect(&mut self, monitor: MonitorId) {
        self.clients.insert(monitor, Client::default());
        self.machine.opened(monitor);
        self.settle();
    }

    pub(super) fn disconnect(&mut self, monitor: MonitorId) {
        self.clients.remove(&monitor);
        self.machine.closed(monitor);
    }

    pub(super) fn client(&mut self, monitor: MonitorId) -> Option<&mut Client> {
        self.clients.get_mut(&monitor)
    }

    /// A line for one client. What was held back comes behind it.
    pub(super) fn send(&mut self, monitor: MonitorId, line: &[u8]) {
        if let Some(client) = self.clients.get_mut(&monitor) {
            client.push(line);
        }
    }

    /// A line for every client that hears events.
    pub(super) fn broadcast(&mut self, line: &[u8]) {
        let listeners: Vec<MonitorId> = self.machine.listeners().collect();
        for monitor in listeners {
            self.send(monitor, line);
        }
    }

    /// A line that every client is to be told after what comes next.
    pub(super) fn hold(&mut self, line: &[u8]) {
        let listeners: Vec<MonitorId> = self.machine.listeners().collect();
        for monitor in listeners {
            if let Some(client) = self.clients.get_mut(&monitor) {
                client.held.push(line.to_vec());
            }
        }
    }

    pub(super) fn cut_all(&mut self) {
        for client in self.clients.values_mut() {
            client.decide(Fate::Cut);
        }
    }

    /// Every connection closes once it has sent what there is.
    pub(super) fn end_all(&mut self) {
        for client in self.clients.values_mut() {
            client.decide(Fate::Ends);
        }
    }

    fn wake_all(&mut self) {
        for client in self.clients.values_mut() {
            client.wake();
        }
        wake(&mut self.runner);
    }

    pub(super) fn consult(
        &self,
        operation: &str,
        nic: Option<&str>,
    ) -> Option<misbehaviour::Effect> {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        if rules.is_empty() {
            return None;
        }
        let nic = nic.and_then(|id| {
            let device = nic_model::NicId::from_device_id(id);
            device.or_else(|| nic_model::NicId::from_netdev_id(id))
        });
        rules.consult(&misbehaviour::Occasion {
            operation,
            vm: self.vm.as_ref(),
            nic: nic.as_ref(),
        })
    }
}

impl Client {
    fn push(&mut self, line: &[u8]) {
        if self.unsent.len() + line.len() > UNSENT_BYTES_MAX {
            self.fate = Fate::Cut;
            self.unsent = VecDeque::new();
        } else {
            self.unsent.extend(line);
            for held in std::mem::take(&mut self.held) {
                self.unsent.extend(held);
            }
        }
        self.wake();
    }

    pub(super) fn decide(&mut self, fate: Fate) {
        self.fate = fate;
        self.wake();
    }

    fn wake(&mut self) {
        wake(&mut self.waker);
    }

    pub(super) fn wait(&mut self, waker: &Waker) {
        self.waker = Some(waker.clone());
    }

    /// What is to be sent next, as far as it lies in one piece.
    pub(super) fn unsent(&self) -> &[u8] {
        self.unsent.as_slices().0
    }

    pub(super) fn sent(&mut self, count: usize) {
        self.unsent.drain(..count);
        if self.unsent.is_empty() {
            // Idle clients are many.
            self.unsent = VecDeque::new();
        }
    }
}
