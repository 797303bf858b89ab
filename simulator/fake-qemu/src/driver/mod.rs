//! A machine in the world: bytes to and from its monitors, time, and misbehaviour.
//!
//! ```text
//!   MonitorStream ◄─► Connection ──► FakeQemu (one lock) ──► Machine
//!        one client at a time,       │  asks the Rulebook    │ signals, backends
//!        polled, no task of its own  │  due: what is delayed ▼
//!                                    └─────────────────── Surroundings (guest side, taps)
//! ```
//!
//! Nothing here spawns a task: whoever owns a [`FakeQemu`] polls [`FakeQemu::run`] and one
//! [`FakeQemu::serve`] for each client, and drops them to end them. All time comes from tokio's
//! clock through [`misbehaviour::Clock`], so a paused runtime makes it virtual, and a frozen clock
//! stops the machine alone.

mod connection;
mod effects;
mod guest;
pub mod memory;
mod schedule;
mod state;
mod stream;
#[cfg(target_os = "linux")]
pub mod unix;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use misbehaviour::{ClockOrder, Rulebook};
use nic_model::VmId;

use crate::hardware::Hardware;
use crate::machine::{BackendChange, GuestSignal};
use crate::machine::{GuestAct, Host, Machine, MonitorId};

pub use connection::{Ending, Serve};
pub use guest::{AnyTap, LetsGo, PlainGuest};
pub use schedule::Run;
pub use stream::{MonitorStream, Parcel};

use state::State;

/// What surrounds a machine: its guest and its host's network.
///
/// Called while the machine is locked: an implementation must return at once and must not call the
/// [`FakeQemu`] it belongs to.
pub trait Surroundings<D>: Host<D> + Send {
    /// The guest notices something. What it does about it, and how much later, comes back; it may
    /// also act later by [`FakeQemu::act`].
    fn signal(&mut self, signal: GuestSignal) -> Vec<(Duration, GuestAct)>;

    /// A network backend has come or gone.
    fn backend(&mut self, change: BackendChange<D>);

    /// A monitor's client gives a command, which is yet to be carried out: whoever waits for
    /// something looks at the machine again and again.
    fn looked(&mut self) {}
}

/// The rules of one or many machines.
pub type SharedRules = Arc<Mutex<Rulebook>>;

/// Everything a machine is started with.
#[derive(Debug)]
pub struct Settings {
    /// What it is made of.
    pub hardware: Arc<Hardware>,
    /// What rules call its VM.
    pub vm: Option<VmId>,
    /// What goes wrong.
    pub rules: SharedRules,
    /// The time at which it starts, since the Unix epoch: what its events count from.
    pub epoch: Duration,
}

/// A machine that can be connected to. Cloning makes another handle to the same one.
pub struct FakeQemu<D, S> {
    state: Arc<Mutex<State<D, S>>>,
}

impl<D, S> Clone for FakeQemu<D, S> {
    fn clone(&self) -> Self {
        let state = Arc::clone(&self.state);
        Self { state }
    }
}

impl<D, S: Surroundings<D>> FakeQemu<D, S> {
    /// Starts a machine.
    #[must_use]
    pub fn start(settings: Settings, surroundings: S) -> Self {
        let state = State::new(settings, surroundings);
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Speaks with one client until one of them ends it. QEMU lets a second client of the same
    /// monitor wait until the first is gone: so must the caller.
    pub fn serve<M>(&self, monitor: MonitorId, stream: M) -> Serve<D, S, M>
    where
        M: MonitorStream<Descriptor = D>,
    {
        Serve::new(self.clone(), monitor, stream)
    }

    /// Does what is due later, until the machine has ended.
    pub fn run(&self) -> Run<D, S> {
        Run::new(self.clone())
    }

    /// The guest does something now.
    pub fn act(&self, act: GuestAct) {
        let mut state = self.lock();
        let now = state.now();
        state.machine.guest(act, now);
        state.settle();
    }

    /// Looks at the machine, or changes it otherwise; what follows from it happens behind.
    pub fn with<R>(&self, look: impl FnOnce(&mut Machine<D>, Duration) -> R) -> R {
        let mut state = self.lock();
        let now = state.now();
        let outcome = look(&mut state.machine, now);
        state.settle();
        outcome
    }

    /// Looks at its surroundings.
    pub fn with_surroundings<R>(&self, look: impl FnOnce(&mut S) -> R) -> R {
        look(&mut self.lock().surroundings)
    }

    /// Ends it as a signal does that asks for the end: monitors are told.
    pub fn terminate(&self) {
        let mut state = self.lock();
        let now = state.now();
        state.machine.terminate(now);
        state.settle();
    }

    /// Ends it as `kill -9` does: connections close, nobody is told why.
    pub fn kill(&self) {
        self.lock().die();
    }

    /// Whether it has ended, by itself or not.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.lock().has_ended()
    }

    /// Changes its clock.
    pub fn set_clock(&self, order: ClockOrder) {
        self.lock()
            .change_clock(|clock, real| clock.obey(real, order));
    }

    fn lock(&self) -> MutexGuard<'_, State<D, S>> {
        // Nothing panics while holding it; and a machine that is half changed is better looked at
        // than lost.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}
