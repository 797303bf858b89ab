//! What all handles of a guest share, and the task that gives its kernel the time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Waker;
use std::time::Duration;

use guest_agent::kernel::Errno;
use guest_agent::{Channel, IdentifyBy, Settings, Task};
use misbehaviour::{BOOT_LOOP, Clock, ClockOrder, Effect, Pace};
use nic_model::{NicId, PciPath};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, sleep_until};

use super::linux::FakeKernel;
use super::port::{Port, Stalled};
use super::{GuestOptions, GuestSignal, NicPlug, Segment};
use crate::kernel::{Kernel, Output, Phase, ProcessKey, SubscriptionId};

/// See the module.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) options: GuestOptions,
    pub(super) port: Port,
    origin: Instant,
    /// Something is due earlier than the driver knows.
    rearm: Notify,
    resumed: Notify,
    signals: mpsc::Sender<GuestSignal>,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    kernel: Kernel,
    /// What its kernel takes the time from, over the time in which its virtual CPUs run.
    clock: Clock,
    /// What the driver waits for.
    armed: Option<Duration>,
    /// Since when the virtual CPUs stand still.
    paused_at: Option<Instant>,
    /// How long they have stood still before.
    stood_still: Duration,
    agent: Option<Task>,
    /// Whether the agent stands still, as a process that has got `SIGSTOP`.
    agent_is_stopped: bool,
    /// What the next request of the agent fails with.
    pub(super) failing: Option<Errno>,
    /// Whether it dies when its step is over.
    pub(super) crash_after_step: bool,
    pub(super) readers: BTreeMap<SubscriptionId, Waker>,
    pub(super) exits: BTreeMap<ProcessKey, Arc<Notify>>,
    pub(super) names_gone: u64,
    pub(super) name_reader: Option<Waker>,
    plugs: BTreeMap<PciPath, (Option<NicId>, Option<Segment>)>,
}

impl Inner {
    pub(super) fn new(
        options: GuestOptions,
        kernel: Kernel,
        signals: mpsc::Sender<GuestSignal>,
    ) -> Self {
        Self {
            options,
            port: Port::default(),
            origin: Instant::now(),
            rearm: Notify::new(),
            resumed: Notify::new(),
            signals,
            state: Mutex::new(State {
                kernel,
                clock: Clock::default(),
                armed: None,
                paused_at: None,
                stood_still: Duration::ZERO,
                agent: None,
                agent_is_stopped: false,
                failing: None,
                crash_after_step: false,
                readers: BTreeMap::new(),
                exits: BTreeMap::new(),
                names_gone: 0,
                name_reader: None,
                plugs: BTreeMap::new(),
            }),
        }
    }

    /// Wakes the kernel whenever something is due, for as long as the guest exists.
    pub(super) async fn drive(guest: Weak<Self>) {
        while let Some(inner) = guest.upgrade() {
            let deadline = inner.next_wake();
            let due = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = inner.rearm.notified() => {}
                () = due => inner.with(|_kernel| {}),
            }
        }
    }

    /// Does something to the kernel at the present time, and what follows from it.
    pub(super) fn with<T>(self: &Arc<Self>, work: impl FnOnce(&mut Kernel) -> T) -> T {
        self.with_state(|state| work(&mut state.kernel))
    }

    pub(super) fn with_state<T>(self: &Arc<Self>, work: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let uptime = self.uptime(&state);
        state.kernel.advance(uptime);
        let result = work(&mut state);
        for output in state.kernel.take_outputs() {
            self.follow(&mut state, output);
        }
        let deadline = state.kernel.deadline();
        if state.armed != deadline {
            state.armed = deadline;
            self.rearm.notify_one();
        }
        result
    }

    /// When something is due in the guest; never while its CPUs stand still.
    fn next_wake(&self) -> Option<Instant> {
        let state = self.state();
        let runs = state.paused_at.is_none();
        let due = state.armed.filter(|_| runs)?;
        let ran = self.ran(&state);
        Instant::now().checked_add(state.clock.real_until(due, ran)?)
    }

    /// Takes what has come of the kernel already, which is not given the time: the driver does
    /// that when something is due.
    pub(super) fn take<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(self: &Arc<Self>, state: &mut State, output: Output) {
        match output {
            Output::Ejected(path) => {
                state.plugs.remove(&path);
                self.signal(GuestSignal::Ejected(path));
            }
            Output::Refused(path) => self.signal(GuestSignal::Refused(path)),
            Output::SlotBusy(path) => self.signal(GuestSignal::SlotBusy(path)),
            Output::SlotOn(path) => self.signal(GuestSignal::SlotOn(path)),
            Output::Phase(Phase::Up) => self.start(state, Duration::ZERO),
            Output::Phase(Phase::Off) => {
                state.end();
                self.port.unplug();
            }
            Output::Phase(Phase::Firmware) => state.end(),
            Output::Phase(Phase::NoHotplug | Phase::NoAgent) => {}
            Output::LinkEvents(id) => state.readers.remove(&id).into_iter().for_each(Waker::wake),
            Output::ProcessEnded(key) => {
                let exit = state.exits.remove(&key);
                exit.iter().for_each(|exit| exit.notify_waiters());
            }
            Output::Reset => self.signal(GuestSignal::Reset),
            Output::NameGone => {
                state.names_gone += 1;
                state.name_reader.take().into_iter().for_each(Waker::wake);
            }
        }
    }

    /// One that finds the receiver full is lost, as an interrupt that nobody serves.
    fn signal(&self, signal: GuestSignal) {
        if let Err(error) = self.signals.try_send(signal) {
            tracing::warn!(vm = %self.options.vm, %error, "a signal is lost");
        }
    }

    /// What is to go wrong with an operation in this guest.
    pub(super) fn consult(&self, operation: &str, nic: Option<&NicId>) -> Option<Effect> {
        let rules = self.options.rules.as_ref()?;
        rules.consult(operation, &self.options.vm, nic)
    }

    /// Powers the kernel on or resets it, or has rules see to it that this goes wrong.
    pub(super) fn boot(self: &Arc<Self>, how: impl FnOnce(&mut Kernel)) {
        match self.consult("guest.boot", None) {
            None => self.with(how),
            Some(Effect::Delay(span)) => self.with(|kernel| {
                let usual = kernel.settings_mut().clone();
                let settings = kernel.settings_mut();
                settings.boot.firmware += span.0;
                settings.boot_pace = usual.boot_pace.map(|_| Pace::After(span));
                how(kernel);
                *kernel.settings_mut() = usual;
            }),
            Some(Effect::Reset) => self.with(|kernel| {
                how(kernel);
                kernel.hang_and_reset(BOOT_LOOP);
            }),
            Some(Effect::Crash(_)) => {
                self.with(how);
                self.panic();
            }
            // What is left is never to boot.
            Some(_) => self.with(|kernel| {
                how(kernel);
                kernel.hang();
            }),
        }
    }

    /// The guest asks its hypervisor for a reset, as a keyboard controller does.
    pub(super) fn reset_itself(self: &Arc<Self>) {
        self.with(Kernel::hang);
        self.signal(GuestSignal::Reset);
    }

    pub(super) fn panic(self: &Arc<Self>) {
        self.with(Kernel::hang);
        self.signal(GuestSignal::Panicked);
    }

    pub(super) fn shut_down(self: &Arc<Self>) {
        let runs = self.with(|kernel| kernel.phase() >= Phase::NoHotplug);
        if runs {
            self.with(Kernel::power_off);
            self.signal(GuestSignal::PowerOff);
        }
    }

    /// Time stands still in the guest, and nobody in it gets an answer.
    pub(super) fn pause(self: &Arc<Self>) {
        self.with_state(|state| state.paused_at = state.paused_at.or(Some(Instant::now())));
        self.port.stall(Stalled::Yes);
        self.rearm.notify_one();
    }

    pub(super) fn resume(self: &Arc<Self>) {
        let mut state = self.state();
        if let Some(at) = state.paused_at.take() {
            state.stood_still += at.elapsed();
        }
        drop(state);
        self.resumed.notify_waiters();
        self.port.stall(Stalled::No);
        self.rearm.notify_one();
    }

    /// Waits while the virtual CPUs stand still, or the agent does.
    pub(super) async fn running(&self) {
        loop {
            let resumed = self.resumed.notified();
            let stands_still = {
                let state = self.state();
                state.paused_at.is_some() || state.agent_is_stopped
            };
            if !stands_still {
                return;
            }
            resumed.await;
        }
    }

    /// The agent does nothing from now on, and nothing else notices.
    pub(super) fn stop_agent(&self) {
        self.state().agent_is_stopped = true;
        self.port.stall(Stalled::Yes);
    }

    /// Ends [`Self::stop_agent`].
    pub(super) fn continue_agent(&self) {
        self.state().agent_is_stopped = false;
        self.resumed.notify_waiters();
        self.port.stall(Stalled::No);
    }

    /// Changes the clock. What is due by it from now on is done at once.
    pub(super) fn set_clock(self: &Arc<Self>, order: ClockOrder) {
        self.with_state(|state| {
            let ran = self.ran(state);
            state.clock.obey(ran, order);
        });
        self.with(|_kernel| {});
        self.rearm.notify_one();
    }

    /// What time it is in the guest, since it was made.
    fn uptime(&self, state: &State) -> Duration {
        state.clock.now(self.ran(state))
    }

    /// How long the virtual CPUs have run.
    fn ran(&self, state: &State) -> Duration {
        let now = state.paused_at.unwrap_or_else(Instant::now);
        now.duration_since(self.origin)
            .saturating_sub(state.stood_still)
    }

    /// Starts the agent after a pause, in place of one that runs.
    pub(super) fn start(self: &Arc<Self>, state: &mut State, pause: Duration) {
        let kernel = FakeKernel::new(self.clone(), state.kernel.life());
        if std::mem::take(&mut state.agent_is_stopped) {
            self.port.stall(Stalled::No);
        }
        state.agent = Some(Task::spawn(run_agent(kernel, pause)));
    }

    pub(super) fn remember(&self, plug: NicPlug) {
        let known = (plug.nic, plug.segment);
        self.state().plugs.insert(plug.path, known);
    }

    pub(super) fn forget(&self, path: &PciPath) {
        self.state().plugs.remove(path);
    }

    pub(super) fn nic_at(&self, path: &PciPath) -> Option<NicId> {
        self.state().plugs.get(path)?.0.clone()
    }

    pub(super) fn segment_at(&self, path: &PciPath) -> Option<Segment> {
        self.state().plugs.get(path)?.1.clone()
    }
}

impl State {
    pub(super) fn kernel(&mut self) -> &mut Kernel {
        &mut self.kernel
    }

    /// Ends the agent, as `kill -9` does.
    pub(super) fn end_agent(&mut self) {
        self.agent = None;
        self.failing = None;
        self.crash_after_step = false;
    }

    pub(super) fn take_crash(&mut self) -> bool {
        std::mem::take(&mut self.crash_after_step)
    }

    /// Nothing of what ran runs any more.
    fn end(&mut self) {
        self.end_agent();
        self.readers.clear();
        self.exits.clear();
        self.name_reader = None;
    }
}

/// The agent as its service manager runs it: always again.
async fn run_agent(kernel: FakeKernel, pause: Duration) {
    if !pause.is_zero() {
        sleep(pause).await;
    }
    loop {
        let options = kernel.options();
        let settings = Settings {
            identify_by: IdentifyBy::Path,
            holding: options.holding.clone(),
        };
        let channel = Channel::over(kernel.listen());
        if let Err(error) = guest_agent::run_in(kernel.clone(), channel, settings).await {
            tracing::warn!(vm = %options.vm, %error, "the agent has ended");
        }
        sleep(options.restart).await;
    }
}
