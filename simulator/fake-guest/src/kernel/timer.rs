//! What happens later: after a time, after some looks, or when somebody says so.

use std::time::Duration;

use misbehaviour::Pace;
use nic_model::{NetnsInode, PciPath};

use super::link::LinkId;
use super::{Kernel, Output, Phase};

/// What is due. Each names what it was meant for so closely that it does nothing to a successor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Timer {
    /// The firmware is done, in this life.
    KernelRuns(u64),
    /// All of the boot is done, in this life.
    Booted(u64),
    /// It asks for a reset, in this life.
    ResetsItself(u64),
    /// The kernel looks for devices, in this life.
    HotplugWorks(u64),
    /// The agent is started, in this life.
    AgentRuns(u64),
    /// The device there, by its number, gets its link.
    Probe(PciPath, u64),
    /// udev renames the link.
    Rename(LinkId),
    /// The device there, by its number, loses its link and is let go of.
    LetGo(PciPath, u64),
    /// The same in a native slot: it loses its link, and power is switched off.
    PowerDown(PciPath, u64),
    /// The device there, by its number, is let go of.
    Eject(PciPath, u64),
    /// Nobody has held the namespace for a while.
    Teardown(NetnsInode),
}

/// Something that does not go by time.
#[derive(Debug)]
pub(super) struct Waiting {
    /// Looks that are left; `None` where somebody has to say so.
    polls: Option<u32>,
    timer: Timer,
}

impl Kernel {
    /// When something is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.timers.first_key_value().map(|((at, _), _)| *at)
    }

    /// Does everything that is due by `now`, each at its time.
    pub fn advance(&mut self, now: Duration) {
        while let Some(entry) = self.timers.first_entry()
            && entry.key().0 <= now
        {
            let ((at, _), timer) = entry.remove_entry();
            self.now = self.now.max(at);
            self.fire(timer);
        }
        self.now = self.now.max(now);
    }

    /// Somebody has looked at the guest: what waits for looks comes nearer.
    pub fn look(&mut self) {
        for waiting in &mut self.waiting {
            if let Some(polls) = &mut waiting.polls {
                *polls = polls.saturating_sub(1);
            }
        }
        self.fire_waiting(|waiting| waiting.polls == Some(0));
    }

    /// Whether anything waits for looks.
    #[must_use]
    pub fn waits_for_looks(&self) -> bool {
        self.waiting.iter().any(|waiting| waiting.polls.is_some())
    }

    /// Does what has waited longest to be told.
    pub fn step(&mut self) {
        let told = |waiting: &Waiting| waiting.polls.is_none() && self.is_current(&waiting.timer);
        if let Some(index) = self.waiting.iter().position(told) {
            let waiting = self.waiting.remove(index);
            self.fire(waiting.timer);
        }
    }

    /// Does everything that waits for looks or to be told.
    pub fn hurry(&mut self) {
        self.fire_waiting(|_| true);
    }

    /// Whether what a timer is meant for is still there.
    fn is_current(&self, timer: &Timer) -> bool {
        match timer {
            Timer::Probe(path, number) | Timer::LetGo(path, number) => {
                self.is_numbered(path, *number)
            }
            Timer::KernelRuns(_)
            | Timer::Booted(_)
            | Timer::ResetsItself(_)
            | Timer::HotplugWorks(_)
            | Timer::AgentRuns(_)
            | Timer::Rename(_)
            | Timer::PowerDown(..)
            | Timer::Eject(..)
            | Timer::Teardown(_) => true,
        }
    }

    fn fire_waiting(&mut self, is_due: impl Fn(&Waiting) -> bool) {
        let all = std::mem::take(&mut self.waiting).into_iter();
        let (due, waiting): (Vec<Waiting>, Vec<Waiting>) = all.partition(is_due);
        self.waiting = waiting;
        for waiting in due {
            self.fire(waiting.timer);
        }
    }

    pub(super) fn after(&mut self, delay: Duration, timer: Timer) {
        let number = self.next_number();
        self.timers
            .insert((self.now.saturating_add(delay), number), timer);
        // What is due at once is done by the call that asked for it.
        self.advance(self.now);
    }

    pub(super) fn at_pace(&mut self, pace: Pace, timer: Timer) {
        let polls = match pace {
            Pace::Instant | Pace::AfterPolls(0) => return self.after(Duration::ZERO, timer),
            Pace::After(span) => return self.after(span.0, timer),
            Pace::AfterPolls(polls) => Some(polls),
            Pace::Manual => None,
        };
        self.waiting.push(Waiting { polls, timer });
    }

    fn fire(&mut self, timer: Timer) {
        match timer {
            Timer::KernelRuns(boot) if boot == self.lives => {
                self.enter(Phase::NoHotplug);
                self.after(self.settings.boot.hotplug, Timer::HotplugWorks(boot));
            }
            Timer::HotplugWorks(boot) if boot == self.lives => {
                self.enter(Phase::NoAgent);
                self.find_devices();
                self.after(self.settings.boot.agent, Timer::AgentRuns(boot));
            }
            Timer::AgentRuns(boot) if boot == self.lives => self.enter(Phase::Up),
            Timer::Booted(boot) if boot == self.lives => {
                self.enter(Phase::NoHotplug);
                self.enter(Phase::NoAgent);
                self.find_devices();
                self.enter(Phase::Up);
            }
            Timer::ResetsItself(life) if life == self.lives => self.outputs.push(Output::Reset),
            Timer::KernelRuns(_) | Timer::HotplugWorks(_) | Timer::AgentRuns(_) => {}
            Timer::Booted(_) | Timer::ResetsItself(_) => {}
            Timer::Probe(path, number) => self.probe(&path, number),
            Timer::Rename(link) => self.rename_by_udev(link),
            Timer::LetGo(path, number) => self.let_go(&path, number),
            Timer::PowerDown(path, number) => self.power_down(&path, number),
            Timer::Eject(path, number) => self.eject_numbered(&path, number),
            Timer::Teardown(netns) => self.tear_down(netns),
        }
    }
}
