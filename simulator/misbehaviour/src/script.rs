//! Files of rules, paces and orders: what is to go wrong, how fast things go, and what is done to
//! clocks and to what waits, all of it before anything runs.
//!
//! ```toml
//! seed = 7
//! [[rule]]                            # what goes wrong
//! name = "refusal"
//! operation = "guest.unplug"
//! effect = "refuse"
//! [[pace]]                            # how fast a transition goes
//! transition = "plug"
//! pace = "manual"
//! [[clock]]                           # what becomes of clocks, and when
//! at = "5s"
//! order = { speed = 10 }
//! [[step]]                            # when what waits to be told is told
//! at = "8s"
//! vm = "vm1"
//! ```
//!
//! Times of orders are those of the world itself, which no order changes: counted from its
//! beginning, virtual in `sim` and real in `netns`. There is nobody in virtual time who could give
//! an order while it passes; in real time there are people, so orders can be given there as well.
//! A VM that is started again there has a clock as good as new, and follows what is yet to come.

use std::collections::BTreeSet;

use nic_model::VmId;
use serde::{Deserialize, Serialize};

use crate::clock::{ClockOrder, SpeedError};
use crate::pace::PaceRule;
use crate::rule::{Rule, RuleError};
use crate::span::Span;
use crate::table::World;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Script {
    /// What chance is drawn from.
    #[serde(default)]
    pub seed: u64,
    /// Rules, in the order in which they are asked.
    #[serde(default, rename = "rule")]
    pub rules: Vec<Rule>,
    /// How fast transitions go.
    #[serde(default, rename = "pace")]
    pub paces: Vec<PaceRule>,
    /// What becomes of clocks.
    #[serde(default, rename = "clock")]
    pub clocks: Vec<ClockRule>,
    /// When what waits to be told is told.
    #[serde(default, rename = "step")]
    pub steps: Vec<StepRule>,
}

/// An order to clocks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ClockRule {
    /// When, counted from the beginning.
    #[serde(default)]
    pub at: Span,
    /// To that of this VM alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<VmId>,
    /// What becomes of it.
    pub order: ClockOrder,
}

/// A step: in each VM that is meant the transition that has waited longest to be told is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct StepRule {
    /// When, counted from the beginning.
    pub at: Span,
    /// In this VM alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<VmId>,
}

/// An order of a script.
#[derive(Debug, Clone, PartialEq)]
pub struct Cue {
    /// When, counted from the beginning.
    pub at: Span,
    /// To this VM alone.
    pub vm: Option<VmId>,
    /// What.
    pub order: CueOrder,
}

/// What is ordered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum CueOrder {
    /// A clock is changed.
    Clock(ClockOrder),
    /// A transition is told.
    Step,
}

/// A script that could not be followed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ScriptError {
    /// A rule could do nothing.
    #[error("rule {name:?} cannot be followed")]
    Rule {
        /// Which.
        name: String,
        /// Why.
        #[source]
        cause: RuleError,
    },
    /// There are two of one name, which nobody could tell apart.
    #[error("rule {0:?}: name: there is one of that name already")]
    NameTaken(String),
    /// There is no such VM.
    #[error("{place}: vm: there is no VM {vm}")]
    NoVm {
        /// The rule, pace or order.
        place: String,
        /// The name.
        vm: VmId,
    },
    /// A clock cannot go like that.
    #[error("clock {number}: order cannot be followed")]
    Speed {
        /// Which order, counted from 1.
        number: usize,
        /// Why not.
        #[source]
        cause: SpeedError,
    },
    /// Nobody would do it.
    #[error("{section}: there are none in {world}")]
    Section {
        /// Which.
        section: &'static str,
        /// Where it is to be followed.
        world: World,
    },
}

impl Script {
    /// Whether all of it does something in a world whose VMs `knows` tells.
    ///
    /// # Errors
    /// The first that could not.
    pub fn check_in(&self, world: World, knows: impl Fn(&VmId) -> bool) -> Result<(), ScriptError> {
        let there = |vm: &Option<VmId>, place: &dyn Fn() -> String| match vm {
            Some(vm) if !knows(vm) => Err(ScriptError::NoVm {
                place: place(),
                vm: vm.clone(),
            }),
            _ => Ok(()),
        };
        let mut names = BTreeSet::new();
        for rule in &self.rules {
            if !names.insert(&rule.name) {
                return Err(ScriptError::NameTaken(rule.name.clone()));
            }
            rule.check_in(world).map_err(|cause| ScriptError::Rule {
                name: rule.name.clone(),
                cause,
            })?;
            there(&rule.vm, &|| format!("rule {:?}", rule.name))?;
        }
        self.check_sections(world)?;
        for (number, pace) in (1..).zip(&self.paces) {
            there(&pace.vm, &|| format!("pace {number}"))?;
        }
        for (number, clock) in (1..).zip(&self.clocks) {
            let speed = clock.order.speed();
            speed.map_err(|cause| ScriptError::Speed { number, cause })?;
            there(&clock.vm, &|| format!("clock {number}"))?;
        }
        for (number, step) in (1..).zip(&self.steps) {
            there(&step.vm, &|| format!("step {number}"))?;
        }
        Ok(())
    }

    fn check_sections(&self, world: World) -> Result<(), ScriptError> {
        let used = [
            ("pace", self.paces.is_empty()),
            ("clock", self.clocks.is_empty()),
            ("step", self.steps.is_empty()),
        ];
        let first = used.into_iter().find(|(_, unused)| !unused);
        match first.filter(|_| world == World::Qemu) {
            Some((section, _)) => Err(ScriptError::Section { section, world }),
            None => Ok(()),
        }
    }

    /// What is to be done to which VM, or to all, in the order of its times; what is to be done at
    /// the same time in the order of the file, clocks first.
    #[must_use]
    pub fn cues(&self) -> Vec<Cue> {
        let clocks = self.clocks.iter().map(|clock| Cue {
            at: clock.at,
            vm: clock.vm.clone(),
            order: CueOrder::Clock(clock.order),
        });
        let steps = self.steps.iter().map(|step| Cue {
            at: step.at,
            vm: step.vm.clone(),
            order: CueOrder::Step,
        });
        let mut cues: Vec<Cue> = clocks.chain(steps).collect();
        cues.sort_by_key(|cue| cue.at);
        cues
    }
}

impl Cue {
    /// Whether a VM is meant.
    #[must_use]
    pub fn is_for(&self, vm: &VmId) -> bool {
        self.vm.as_ref().is_none_or(|meant| meant == vm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(text: &str) -> Script {
        toml::from_str(text).unwrap()
    }

    fn knows(vm: &VmId) -> bool {
        vm.as_str() == "vm1"
    }

    #[test]
    fn what_could_do_nothing_is_refused_with_its_place() {
        let rule = "[[rule]]\nname = \"a\"\noperation = \"guest.plug\"\neffect = \"lose\"\n";
        let cases = [
            (
                World::Sim,
                format!("{rule}vm = \"vm9\"\n"),
                "rule \"a\": vm: there is no VM vm9",
            ),
            (
                World::Qemu,
                rule.to_owned(),
                "rule \"a\" cannot be followed",
            ),
            (
                World::Sim,
                format!("{rule}{rule}"),
                "rule \"a\": name: there is one",
            ),
            (
                World::Sim,
                "[[pace]]\ntransition = \"boot\"\npace = \"manual\"\nvm = \"vm2\"\n".to_owned(),
                "pace 1: vm: there is no VM vm2",
            ),
            (
                World::Sim,
                "[[clock]]\norder = { speed = -1 }\n".to_owned(),
                "clock 1: order cannot be followed",
            ),
            (
                World::Sim,
                "[[step]]\nat = \"1s\"\nvm = \"vm2\"\n".to_owned(),
                "step 1: vm: there is no VM vm2",
            ),
            (
                World::Qemu,
                "[[clock]]\norder = \"freeze\"\n".to_owned(),
                "clock: there are none in fake-qemu",
            ),
        ];
        for (world, text, expected) in cases {
            let refused = script(&text).check_in(world, knows).unwrap_err();

            let refused = refused.to_string();
            assert!(refused.starts_with(expected), "{refused}");
        }
    }

    #[test]
    fn cues_come_in_the_order_of_their_times() {
        let script = script(
            "[[clock]]\nat = \"5s\"\norder = \"run\"\n[[clock]]\norder = \"freeze\"\nvm = \"vm1\"\n\
             [[step]]\nat = \"2s\"\n",
        );
        let cues = |vm: &str| {
            let vm = vm.parse().unwrap();
            let cues = script.cues().into_iter().filter(|cue| cue.is_for(&vm));
            cues.map(|cue| cue.order).collect::<Vec<_>>()
        };
        let run = CueOrder::Clock(ClockOrder::Run);
        let freeze = CueOrder::Clock(ClockOrder::Freeze);

        assert_eq!(cues("vm1"), [freeze, CueOrder::Step, run]);
        assert_eq!(cues("vm2"), [CueOrder::Step, run]);
    }
}
