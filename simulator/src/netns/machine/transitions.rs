//! Transitions of one VM: what has begun and is done later, at a pace or by a rule.
//!
//! ```text
//!   begin ──► waiting ──┬─ its time on the simulated clock ─┐
//!                       ├─ so many looks at the VM ─────────┼──► due, in the order of beginning
//!                       └─ told to step ────────────────────┘
//! ```
//!
//! Pure: the time comes in, as the simulated clock has it, and how many looks there have been.

use std::time::Duration;

use misbehaviour::{Pace, Transition};
use nic_model::PciPath;

/// A transition that has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pending {
    /// What it is.
    pub(super) transition: Transition,
    /// Of which device, if it is about one.
    pub(super) path: Option<PciPath>,
    /// What it waits for.
    pub(super) until: Until,
    /// What it comes to.
    pub(super) turn: Turn,
}

/// What a transition comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is done.
    Usual,
    /// The guest resets itself instead.
    Reset,
}

/// What a transition waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// This time on the simulated clock.
    At(Duration),
    /// So many looks, counted from the VM's beginning.
    Polls(u64),
    /// Being told.
    Told,
}

/// How far a VM has come by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    /// What time it is on the simulated clock.
    pub(super) time: Duration,
    /// How many looks there have been at the VM since its beginning.
    pub(super) looks: u64,
}

/// Those of one VM.
#[derive(Debug, Default)]
pub(super) struct Transitions {
    pending: Vec<Pending>,
}

impl Transitions {
    /// Begins one at a pace; what is to be at once is given back at once.
    pub(super) fn begin(
        &mut self,
        transition: Transition,
        path: Option<PciPath>,
        pace: Pace,
        now: Moment,
    ) -> Option<Pending> {
        let until = match pace {
            Pace::Instant | Pace::AfterPolls(0) => Until::At(now.time),
            Pace::After(span) => Until::At(now.time.saturating_add(span.0)),
            Pace::AfterPolls(number) => Until::Polls(now.looks + u64::from(number)),
            Pace::Manual => Until::Told,
        };
        let pending = Pending {
            transition,
            path,
            until,
            turn: Turn::Usual,
        };
        if until == Until::At(now.time) {
            return Some(pending);
        }
        self.pending.push(pending);
        None
    }

    /// Begins a boot that ends in a reset at a time of the simulated clock.
    pub(super) fn reset_at(&mut self, time: Duration) {
        self.pending.push(Pending {
            transition: Transition::Boot,
            path: None,
            until: Until::At(time),
            turn: Turn::Reset,
        });
    }

    /// Keeps one whose time has come while the guest does not execute.
    pub(super) fn put_off(&mut self, pending: Pending) {
        self.pending.push(pending);
    }

    /// Forgets what is under way for a device, or all of it.
    pub(super) fn forget(&mut self, path: Option<&PciPath>) {
        self.pending
            .retain(|pending| path.is_some() && pending.path.as_ref() != path);
    }

    /// One that is due by now, if there is one.
    pub(super) fn due(&mut self, now: Moment) -> Option<Pending> {
        let is_due = |pending: &Pending| match pending.until {
            Until::At(time) => time <= now.time,
            Until::Polls(looks) => looks <= now.looks,
            Until::Told => false,
        };
        let index = self.pending.iter().position(is_due)?;
        Some(self.pending.remove(index))
    }

    /// When the next one is due, if time alone brings one.
    pub(super) fn next_time(&self) -> Option<Duration> {
        let times = self
            .pending
            .iter()
            .filter_map(|pending| match pending.until {
                Until::At(time) => Some(time),
                Until::Polls(_) | Until::Told => None,
            });
        times.min()
    }

    /// Takes out the one that has waited longest to be told.
    pub(super) fn step(&mut self) -> Option<Pending> {
        let told = |pending: &Pending| pending.until == Until::Told;
        let index = self.pending.iter().position(told)?;
        Some(self.pending.remove(index))
    }

    /// All of them, the longest waiting first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Pending> {
        self.pending.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(milliseconds: u64) -> Moment {
        after_looks(milliseconds, 7)
    }

    const fn after_looks(milliseconds: u64, looks: u64) -> Moment {
        Moment {
            time: Duration::from_millis(milliseconds),
            looks,
        }
    }

    fn path(text: &str) -> Option<PciPath> {
        Some(text.parse().unwrap())
    }

    fn begun(paces: &[&str]) -> Transitions {
        let mut transitions = Transitions::default();
        for (number, pace) in paces.iter().enumerate() {
            let pace = pace.parse().unwrap();
            let slot = path(&format!("0{number}.0"));
            let at_once = transitions.begin(Transition::Unplug, slot, pace, at(100));
            assert_eq!(at_once, None);
        }
        transitions
    }

    fn slot(pending: Option<Pending>) -> Option<PciPath> {
        pending.and_then(|pending| pending.path)
    }

    #[test]
    fn what_is_instant_never_waits() {
        let mut transitions = Transitions::default();

        let done = transitions.begin(Transition::Plug, path("02.0"), Pace::Instant, at(5));

        assert_eq!(slot(done), path("02.0"));
        assert_eq!(transitions.iter().count(), 0);
    }

    #[test]
    fn each_waits_for_its_own_and_for_nothing_else() {
        let mut transitions = begun(&["after 50ms", "after 2 polls", "manual"]);

        assert_eq!(transitions.next_time(), Some(at(150).time));
        assert_eq!(transitions.due(at(149)), None);
        assert_eq!(slot(transitions.due(at(150))), path("00.0"));
        assert_eq!(transitions.next_time(), None);
        assert_eq!(transitions.due(after_looks(999, 8)), None);
        assert_eq!(slot(transitions.due(after_looks(999, 9))), path("01.0"));
        assert_eq!(transitions.due(at(99_999)), None);
        assert_eq!(slot(transitions.step()), path("02.0"));
        assert_eq!(transitions.step(), None);
    }

    #[test]
    fn a_device_that_is_gone_takes_its_transitions_with_it() {
        let mut transitions = begun(&["manual", "manual"]);

        transitions.forget(path("00.0").as_ref());
        assert_eq!(transitions.iter().count(), 1);
        transitions.forget(None);
        assert_eq!(transitions.iter().count(), 0);
    }
}
