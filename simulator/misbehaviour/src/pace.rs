//! How fast a state becomes the next one: at once, after a time, after some looks, or on demand.
//!
//! ```text
//!   paces: unplug in vm1 = "after 3 polls"     transition begins ──► 3 looks at vm1 ──► it is done
//!          unplug        = "after 200ms"                         ──► 200 ms         ──►
//!          boot          = "manual"                              ──► step           ──►
//! ```

use std::fmt;
use std::str::FromStr;

use nic_model::VmId;
use serde::{Deserialize, Serialize};

use crate::span::Span;

/// A change of state that takes as long as one likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transition {
    /// A guest boots, until its kernel looks for devices and its agent runs.
    Boot,
    /// A guest's kernel probes a device, until there is a link.
    Plug,
    /// A guest's kernel lets go of a device.
    Unplug,
}

/// How fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Pace {
    /// At once.
    Instant,
    /// After this time.
    After(Span),
    /// When it has been looked for so often.
    AfterPolls(u32),
    /// When somebody says so.
    Manual,
}

/// A text that is no pace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is none of `instant`, `after 200ms` (up to {longest}), `after 3 polls`, `manual`",
    longest = Span::LONGEST
)]
pub struct PaceError(String);

/// The pace of one transition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PaceRule {
    /// Of what.
    pub transition: Transition,
    /// In this VM alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<VmId>,
    /// How fast.
    pub pace: Pace,
}

/// The paces in force: the one of the VM, else the one of all VMs, else none is said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Paces {
    rules: Vec<PaceRule>,
}

impl Paces {
    /// Those of a script; a later rule for the same thing replaces an earlier one.
    #[must_use]
    pub fn new(rules: &[PaceRule]) -> Self {
        let mut paces = Self::default();
        for rule in rules {
            paces.set(rule.clone());
        }
        paces
    }

    /// Sets one.
    pub fn set(&mut self, rule: PaceRule) {
        let is_same = |old: &PaceRule| old.transition == rule.transition && old.vm == rule.vm;
        self.rules.retain(|old| !is_same(old));
        self.rules.push(rule);
    }

    /// Those that have been set.
    #[must_use]
    pub fn rules(&self) -> &[PaceRule] {
        &self.rules
    }

    /// What has been said of a transition in a VM.
    #[must_use]
    pub fn of(&self, transition: Transition, vm: &VmId) -> Option<Pace> {
        let about = |rule: &&PaceRule| rule.transition == transition;
        let mut rules = self.rules.iter().filter(about);
        let own = rules.clone().find(|rule| rule.vm.as_ref() == Some(vm));
        own.or_else(|| rules.find(|rule| rule.vm.is_none()))
            .map(|rule| rule.pace)
    }
}

impl FromStr for Pace {
    type Err = PaceError;

    fn from_str(text: &str) -> Result<Self, PaceError> {
        let parsed = match (text, text.strip_prefix("after ")) {
            ("instant", _) => Some(Self::Instant),
            ("manual", _) => Some(Self::Manual),
            (_, Some(what)) => polls(what).or_else(|| what.parse().ok().map(Self::After)),
            (_, None) => None,
        };
        parsed.ok_or_else(|| PaceError(text.to_owned()))
    }
}

fn polls(text: &str) -> Option<Pace> {
    let number = text
        .strip_suffix(" polls")
        .or_else(|| text.strip_suffix(" poll"))?;
    number.parse().ok().map(Pace::AfterPolls)
}

impl TryFrom<String> for Pace {
    type Error = PaceError;

    fn try_from(text: String) -> Result<Self, PaceError> {
        text.parse()
    }
}

impl From<Pace> for String {
    fn from(pace: Pace) -> Self {
        pace.to_string()
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instant => f.write_str("instant"),
            Self::After(span) => write!(f, "after {span}"),
            Self::AfterPolls(1) => f.write_str("after 1 poll"),
            Self::AfterPolls(number) => write!(f, "after {number} polls"),
            Self::Manual => f.write_str("manual"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_read_as_it_is_written() {
        for text in [
            "instant",
            "after 200ms",
            "after 1 poll",
            "after 3 polls",
            "manual",
        ] {
            let pace: Pace = text.parse().unwrap();

            assert_eq!(pace.to_string(), text);
        }
        for text in [
            "",
            "soon",
            "after",
            "after a while",
            "after -1 polls",
            "200ms",
        ] {
            assert_eq!(text.parse::<Pace>(), Err(PaceError(text.to_owned())));
        }
    }

    #[test]
    fn what_is_said_of_a_vm_goes_before_what_is_said_of_all() {
        let (vm1, vm2): (VmId, VmId) = ("vm1".parse().unwrap(), "vm2".parse().unwrap());
        let mut paces = Paces::default();
        let rule = |vm: Option<&VmId>, pace| PaceRule {
            transition: Transition::Unplug,
            vm: vm.cloned(),
            pace,
        };
        paces.set(rule(Some(&vm1), Pace::Instant));
        paces.set(rule(None, Pace::Instant));
        paces.set(rule(None, Pace::Manual));

        assert_eq!(paces.of(Transition::Unplug, &vm1), Some(Pace::Instant));
        assert_eq!(paces.of(Transition::Unplug, &vm2), Some(Pace::Manual));
        assert_eq!(paces.of(Transition::Plug, &vm1), None);
    }
}
