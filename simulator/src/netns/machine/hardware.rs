//! The hardware of one VM, and what its guest does with it.
//!
//! ```text
//!   machine: Plugged ─────────► (pace, rules) ──► link in the guest
//!            UnplugRequested ─► (pace, rules) ──► link gone ──► Ejected | Refused | nothing
//!            Reset ───────────► guest killed ──► (pace) boots anew ──► links in the new guest
//!   link gone with its container ──► back in the guest's own namespace
//! ```
//!
//! One task does all of it, one thing after the other, so what the guest sees has one order.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use fake_qemu::driver::{FakeQemu, SharedRules};
use fake_qemu::{BackendChange, GuestAct, GuestDevice, GuestSignal};
use linux_network::{AdminState, LinkEvent, LinkWatch};
use misbehaviour::{
    BOOT_LOOP, Clock, ClockOrder, Cue, CueOrder, Effect, Occasion, Pace, Paces, Rulebook,
    Transition,
};
use nic_model::{NicId, PciPath, VmId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::around::{Around, Told};
use super::guest_process::GuestProcess;
use super::orders::{Answer, GuestState, Order, RuleStatus, Status, TransitionStatus};
use super::transitions::{Moment, Pending, Transitions, Turn, Until};
use super::wiring::Wiring;
use crate::netns::plan::Programs;
use crate::netns::site::Site;
use crate::netns::trouble::{Doing, Trouble, in_full};

/// For how long only what the machine has done is followed, before anything else has a chance: one
/// that is reset over and over has always done something more.
const TOLD_FIRST: Duration = Duration::from_millis(500);

/// A machine of this world.
pub(super) type Qemu = FakeQemu<OwnedFd, Around>;

/// An order, and whoever waits for its answer.
pub(super) type Ordered = (Order, oneshot::Sender<Answer>);

/// What the hardware is made with.
pub(super) struct Parts {
    pub(super) vm: VmId,
    pub(super) site: Site,
    pub(super) programs: Programs,
    pub(super) qemu: Qemu,
    pub(super) told: mpsc::Receiver<Told>,
    pub(super) orders: mpsc::Receiver<Ordered>,
    /// How many commands the monitors have been given.
    pub(super) polls: watch::Receiver<u64>,
    pub(super) rules: SharedRules,
    pub(super) paces: Paces,
    /// Orders that the script has for this VM, by the real clock, the next one first.
    pub(super) cues: VecDeque<Cue>,
    pub(super) wiring: Wiring,
}

/// The hardware of one VM.
pub(super) struct Hardware {
    parts: Parts,
    links: LinkWatch,
    guest: Option<GuestProcess>,
    /// Devices whose links have yet to come, in the order of their plugging.
    arriving: Vec<Arriving>,
    transitions: Transitions,
    clock: Clock,
    began: Instant,
    cpu: Cpu,
    /// Since when the machine has always done something more.
    told_since: Option<Instant>,
}

/// A device that the guest has no link for yet, or none any more.
#[derive(Debug, Clone)]
struct Arriving {
    device: GuestDevice,
    carrier: AdminState,
}

/// Whether the virtual CPU executes: a guest that does not, does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cpu {
    Runs,
    Stands,
}

/// What woke the hardware up.
enum Woken {
    Ordered(Ordered),
    Told(Told),
    Link(LinkEvent),
    Lost(PciPath),
    Polled,
    GuestEnded,
    Due,
    Cued,
}

impl Hardware {
    /// Boots the guest, unless its pace says later, and is the hardware from then on.
    pub(super) async fn new(parts: Parts) -> Result<Self, Trouble> {
        let links = LinkWatch::subscribe(parts.wiring.netns()).await;
        let mut hardware = Self {
            links: links.doing("watch the host's links")?,
            parts,
            guest: None,
            arriving: Vec::new(),
            transitions: Transitions::default(),
            clock: Clock::default(),
            began: Instant::now(),
            cpu: Cpu::Runs,
            told_since: None,
        };
        hardware.begin(Transition::Boot, None, 0).await?;
        Ok(hardware)
    }

    /// Does what comes up, for ever. What goes wrong with one thing is told and left at that: the
    /// guest of a real machine does not see its errors either.
    pub(super) async fn run(mut self) -> Result<(), Trouble> {
        loop {
            let done = match self.wake().await? {
                Woken::Ordered((order, answer)) => {
                    let reply = self.obey(order).await;
                    // Refused when nobody waits any more.
                    answer.send(reply).unwrap_or_default();
                    Ok(())
                }
                Woken::Told(told) => self.follow(told).await,
                Woken::Link(event) => self.see(event).await,
                Woken::Lost(path) => self.give_back(&path).await,
                Woken::GuestEnded => {
                    self.guest = None;
                    self.parts.qemu.act(GuestAct::Reset);
                    Ok(())
                }
                Woken::Cued => self.follow_cues().await,
                Woken::Polled | Woken::Due => Ok(()),
            };
            let done = match done {
                Ok(()) => self.do_due().await,
                failed => failed,
            };
            if let Err(error) = done {
                tracing::warn!(error = in_full(&error), "the hardware goes on without");
            }
        }
    }

    async fn wake(&mut self) -> Result<Woken, Trouble> {
        let told_first = self.told_first();
        let due = sleep_until(self.next_due());
        let cued = sleep_until(self.parts.cues.front().map(|cue| self.began + cue.at.0));
        let parts = &mut self.parts;
        let others = async {
            tokio::select! {
                biased;
                event = self.links.next() => event.map(Woken::Link).doing("watch the host's links"),
                () = GuestProcess::ended(self.guest.as_mut()) => Ok(Woken::GuestEnded),
                Some(path) = parts.wiring.next_lost() => Ok(Woken::Lost(path)),
                Ok(()) = parts.polls.changed() => Ok(Woken::Polled),
                () = cued => Ok(Woken::Cued),
                () = due => Ok(Woken::Due),
                // Last, because there may be as many as somebody likes to give.
                Some(ordered) = parts.orders.recv() => Ok(Woken::Ordered(ordered)),
            }
        };
        if told_first {
            tokio::select! {
                biased;
                Some(told) = parts.told.recv() => Ok(Woken::Told(told)),
                woken = others => woken,
            }
        } else {
            // tidy: select-order because whoever came first would leave nothing to the other
            tokio::select! {
                Some(told) = parts.told.recv() => Ok(Woken::Told(told)),
                woken = others => woken,
            }
        }
    }

    /// Whether what the machine has done is followed before anything else, or gets no more than its
    /// share.
    fn told_first(&mut self) -> bool {
        if self.parts.told.is_empty() {
            self.told_since = None;
            return true;
        }
        let since = self.told_since.get_or_insert_with(Instant::now);
        since.elapsed() <= TOLD_FIRST
    }

    /// When time alone brings something, by the real clock.
    fn next_due(&self) -> Option<Instant> {
        let time = match self.cpu {
            Cpu::Runs => self.transitions.next_time()?,
            Cpu::Stands => return None,
        };
        let left = self.clock.real_until(time, self.began.elapsed())?;
        Instant::now().checked_add(left)
    }

    fn time(&self) -> Duration {
        self.clock.now(self.began.elapsed())
    }

    fn now(&self) -> Moment {
        Moment {
            time: self.time(),
            looks: *self.parts.polls.borrow(),
        }
    }

    async fn follow(&mut self, told: Told) -> Result<(), Trouble> {
        match told {
            Told::Backend(change) => self.follow_backend(change).await,
            Told::Guest(signal, looks) => self.follow_machine(signal, looks).await,
        }
    }

    async fn follow_backend(&mut self, change: BackendChange<OwnedFd>) -> Result<(), Trouble> {
        match change {
            BackendChange::Made {
                id,
                link: Some(link),
                ..
            } => self.parts.wiring.hold(&id, &link).await,
            BackendChange::Made { id, .. } => {
                let queue = self.parts.qemu.with(|machine, _| {
                    let backend = machine.backends().find(|backend| backend.id == id);
                    let queue = backend.and_then(|backend| backend.descriptors.first());
                    queue.map(OwnedFd::try_clone)
                });
                if let Some(queue) = queue.transpose().doing("hold the queue of a tap")? {
                    self.parts.wiring.hold_queue(&id, queue);
                }
                Ok(())
            }
            BackendChange::Removed { id, .. } => self.parts.wiring.let_go(&id).await,
        }
    }

    async fn follow_machine(&mut self, signal: GuestSignal, looks: u64) -> Result<(), Trouble> {
        match signal {
            GuestSignal::Plugged(device) => {
                // As a native hot-plug driver does at once; with ACPI nobody looks at it.
                if let Some(port) = device.path.slots().first().copied() {
                    self.parts.qemu.act(GuestAct::SlotOn { port });
                }
                let path = device.path.clone();
                let carrier = AdminState::Up;
                self.arriving.push(Arriving { device, carrier });
                self.begin(Transition::Plug, Some(path), looks).await
            }
            GuestSignal::UnplugRequested { path } => {
                self.begin(Transition::Unplug, Some(path), looks).await
            }
            GuestSignal::Removed { path } => self.take_out(&path).await,
            GuestSignal::CarrierUp { path } => self.carrier(&path, AdminState::Up).await,
            GuestSignal::CarrierDown { path } => self.carrier(&path, AdminState::Down).await,
            GuestSignal::Stopped => {
                self.cpu = Cpu::Stands;
                Ok(())
            }
            GuestSignal::Resumed => {
                self.cpu = Cpu::Runs;
                Ok(())
            }
            GuestSignal::Reset => self.reset(looks).await,
            // The guest announces what it has by itself, and has no power button.
            GuestSignal::Announce { .. } | GuestSignal::PowerButton => Ok(()),
            GuestSignal::Gone => std::process::exit(1),
        }
    }

    async fn carrier(&mut self, path: &PciPath, carrier: AdminState) -> Result<(), Trouble> {
        let arriving = self.arriving.iter_mut();
        for known in arriving.filter(|known| known.device.path == *path) {
            known.carrier = carrier;
        }
        self.parts.wiring.set_carrier(path, carrier).await
    }

    async fn take_out(&mut self, path: &PciPath) -> Result<(), Trouble> {
        self.arriving.retain(|known| known.device.path != *path);
        self.transitions.forget(Some(path));
        self.parts.wiring.unplug(path).await
    }

    async fn reset(&mut self, looks: u64) -> Result<(), Trouble> {
        self.end_guest().await;
        self.begin(Transition::Boot, None, looks).await
    }

    async fn end_guest(&mut self) {
        self.transitions.forget(None);
        if let Some(guest) = self.guest.take() {
            guest.kill().await;
        }
    }

    async fn see(&mut self, event: LinkEvent) -> Result<(), Trouble> {
        match event {
            LinkEvent::Changed(_) => Ok(()),
            LinkEvent::Gone(index) => match self.parts.wiring.nic_of(index) {
                Some(path) => self.give_back(&path).await,
                None => Ok(()),
            },
            LinkEvent::Overrun => {
                for path in self.parts.wiring.lost().await? {
                    self.give_back(&path).await?;
                }
                Ok(())
            }
        }
    }

    /// Puts a NIC whose link has gone with its namespace into the guest's own: a kernel gives a
    /// link that has hardware back to the machine (`default_device_exit_net` in net/core/dev.c),
    /// and deletes one that has none.
    async fn give_back(&mut self, path: &PciPath) -> Result<(), Trouble> {
        if self.guest.is_none() {
            // It will find it when it boots.
            return Ok(());
        }
        let Some((device, carrier)) = self.parts.wiring.nic(path) else {
            return Ok(());
        };
        self.arriving.push(Arriving { device, carrier });
        // What is left of it, if the namespace is only on its way out.
        self.parts.wiring.unplug(path).await?;
        self.arrive(path).await
    }

    /// Begins a transition, at the pace there is for it, unless a rule says otherwise; `looks` are
    /// those at the VM before what has brought it about.
    async fn begin(
        &mut self,
        transition: Transition,
        path: Option<PciPath>,
        looks: u64,
    ) -> Result<(), Trouble> {
        let time = self.time();
        let now = Moment { time, looks };
        let pace = self.parts.paces.of(transition, &self.parts.vm);
        let mut pace = pace.unwrap_or(Pace::Instant);
        match self.consult(transition, path.as_ref()) {
            Some(Effect::Delay(span)) => pace = Pace::After(span),
            Some(Effect::Refuse) => return self.refuse(transition, path),
            Some(Effect::Ignore | Effect::Lose) => return Ok(()),
            Some(Effect::Reset) => return self.reset_itself(transition, now),
            Some(Effect::Crash(_)) => {
                self.panic().await;
                return Ok(());
            }
            Some(Effect::Eject(span)) => {
                // It is plugged in, and so much later the guest lets go of it by itself.
                let unasked = (Transition::Unplug, path.clone(), Pace::After(span));
                self.transitions.begin(unasked.0, unasked.1, unasked.2, now);
            }
            // The rulebook takes no other effect in for a guest.
            Some(_) | None => {}
        }
        let at_once = self.transitions.begin(transition, path, pace, now);
        match (at_once, self.cpu) {
            (Some(pending), Cpu::Runs) => self.finish(pending).await,
            (Some(pending), Cpu::Stands) => {
                self.transitions.put_off(pending);
                Ok(())
            }
            (None, _) => Ok(()),
        }
    }

    /// A guest that resets itself over a device finds it when it boots; one that does so while it
    /// boots is on for a while.
    fn reset_itself(&mut self, transition: Transition, now: Moment) -> Result<(), Trouble> {
        match transition {
            Transition::Boot => self.transitions.reset_at(now.time + BOOT_LOOP),
            Transition::Plug | Transition::Unplug => self.parts.qemu.act(GuestAct::Reset),
        }
        Ok(())
    }

    /// The guest's kernel is no more, and says so; the machine waits for a reset or its end.
    async fn panic(&mut self) {
        self.end_guest().await;
        self.parts.qemu.act(GuestAct::Panic);
    }

    fn consult(&self, transition: Transition, path: Option<&PciPath>) -> Option<Effect> {
        let operation = match transition {
            Transition::Boot => "guest.boot",
            Transition::Plug => "guest.plug",
            Transition::Unplug => "guest.unplug",
        };
        let nic = path.and_then(|path| self.nic_at(path));
        self.rules().consult(&Occasion {
            operation,
            vm: Some(&self.parts.vm),
            nic: nic.as_ref(),
        })
    }

    fn rules(&self) -> MutexGuard<'_, Rulebook> {
        let rules = self.parts.rules.lock();
        rules.unwrap_or_else(PoisonError::into_inner)
    }

    fn nic_at(&self, path: &PciPath) -> Option<NicId> {
        let mut arriving = self.arriving.iter().map(|known| &known.device);
        let arriving = arriving.find(|device| device.path == *path);
        let device = arriving.or_else(|| self.parts.wiring.device(path))?;
        NicId::from_device_id(device.id.as_deref()?)
    }

    /// A guest can refuse to let go; what else it refuses, it simply does not do.
    fn refuse(&self, transition: Transition, path: Option<PciPath>) -> Result<(), Trouble> {
        if let (Transition::Unplug, Some(path)) = (transition, path) {
            self.parts.qemu.act(GuestAct::Refused { path });
        }
        Ok(())
    }

    /// Does everything whose time has come.
    async fn do_due(&mut self) -> Result<(), Trouble> {
        while self.cpu == Cpu::Runs {
            let now = self.now();
            match self.transitions.due(now) {
                Some(pending) => self.finish(pending).await?,
                None => break,
            }
        }
        Ok(())
    }

    async fn finish(&mut self, pending: Pending) -> Result<(), Trouble> {
        match (pending.transition, pending.path) {
            (Transition::Boot, _) if pending.turn == Turn::Reset => {
                self.parts.qemu.act(GuestAct::Reset);
                Ok(())
            }
            (Transition::Boot, _) => self.boot().await,
            (Transition::Plug, Some(path)) => self.arrive(&path).await,
            (Transition::Unplug, Some(path)) => {
                self.take_out(&path).await?;
                self.parts.qemu.act(GuestAct::Ejected { path });
                Ok(())
            }
            (Transition::Plug | Transition::Unplug, None) => Ok(()),
        }
    }

    /// A kernel that boots finds every device that is there. One that cannot be had is no reason
    /// to go without the others.
    async fn boot(&mut self) -> Result<(), Trouble> {
        let Parts {
            vm, site, programs, ..
        } = &self.parts;
        self.guest = Some(GuestProcess::boot(site, vm, programs).await?);
        let coming = self.arriving.iter().map(|known| known.device.path.clone());
        let coming: Vec<PciPath> = coming.collect();
        for path in self.parts.wiring.plugged() {
            let given = self.give_back(&path).await;
            self.tell_failure(given);
        }
        for path in coming {
            let arrived = self.arrive(&path).await;
            self.tell_failure(arrived);
        }
        Ok(())
    }

    fn tell_failure(&self, done: Result<(), Trouble>) {
        if let Err(error) = done {
            let (vm, error) = (&self.parts.vm, in_full(&error));
            tracing::warn!(%vm, error, "the guest goes without a device");
        }
    }

    /// What cannot be had now is still there for the next boot.
    async fn arrive(&mut self, path: &PciPath) -> Result<(), Trouble> {
        let Some(guest) = &self.guest else {
            // It comes with the boot.
            return Ok(());
        };
        let is_it = |known: &Arriving| known.device.path == *path;
        let Some(found) = self.arriving.iter().find(|known| is_it(known)).cloned() else {
            return Ok(());
        };
        let Arriving { device, carrier } = found;
        let wiring = &mut self.parts.wiring;
        wiring.plug(device, carrier, &guest.netns).await?;
        self.arriving.retain(|known| !is_it(known));
        Ok(())
    }

    async fn obey(&mut self, order: Order) -> Answer {
        match self.try_obey(order).await {
            Ok(answer) => answer,
            Err(error) => Answer::Failed(in_full(&error)),
        }
    }

    async fn try_obey(&mut self, order: Order) -> Result<Answer, Trouble> {
        match order {
            Order::Status => return Ok(Answer::Status(self.status())),
            Order::AddRule(rule) => self.rules().add(rule).doing("take in a rule")?,
            Order::RemoveRule(name) => drop(self.rules().remove(&name)),
            Order::ClearRules => self.rules().clear(),
            Order::SetPace(pace) => self.parts.paces.set(pace),
            Order::ClearPaces => self.parts.paces = Paces::default(),
            Order::Clock(order) => {
                order.speed().doing("change the clock")?;
                self.set_clock(order);
            }
            Order::Step => self.step().await?,
            Order::Reset => self.parts.qemu.act(GuestAct::Reset),
        }
        Ok(Answer::Done)
    }

    fn set_clock(&mut self, order: ClockOrder) {
        self.clock.obey(self.began.elapsed(), order);
        self.parts.qemu.set_clock(order);
    }

    /// Does the transition that has waited longest to be told.
    async fn step(&mut self) -> Result<(), Trouble> {
        match self.transitions.step() {
            Some(pending) => self.finish(pending).await,
            None => Ok(()),
        }
    }

    /// Does what the script has for now.
    async fn follow_cues(&mut self) -> Result<(), Trouble> {
        let passed = self.began.elapsed();
        while let Some(cue) = self.parts.cues.front().filter(|cue| cue.at.0 <= passed) {
            let order = cue.order;
            self.parts.cues.pop_front();
            match order {
                CueOrder::Clock(order) => self.set_clock(order),
                CueOrder::Step => self.step().await?,
            }
        }
        Ok(())
    }

    fn status(&self) -> Status {
        let rules = self.rules();
        let rule = |(rule, done): (&misbehaviour::Rule, u64)| RuleStatus {
            rule: rule.clone(),
            done,
        };
        let now = self.now();
        let transition = |pending: &Pending| TransitionStatus {
            transition: pending.transition,
            path: pending.path.as_ref().map(ToString::to_string),
            waits_for: match pending.until {
                Until::At(time) => format!("{} ms on its clock", time.as_millis()),
                Until::Polls(looks) => {
                    let left = looks.saturating_sub(now.looks);
                    format!("{left} more looks at the VM")
                }
                Until::Told => "being told to step".to_owned(),
            },
        };
        let nics = self.parts.wiring.plugged();
        Status {
            clock_ms: u64::try_from(now.time.as_millis()).unwrap_or(u64::MAX),
            speed: self.clock.speed().factor(),
            rules: rules.rules().map(rule).collect(),
            paces: self.parts.paces.rules().to_vec(),
            under_way: self.transitions.iter().map(transition).collect(),
            nics: nics.iter().map(ToString::to_string).collect(),
            guest: match self.guest {
                Some(_) => GuestState::Up,
                None => GuestState::Down,
            },
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
