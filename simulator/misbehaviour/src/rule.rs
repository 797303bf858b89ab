//! One rule: at which occasions, how often, and what then.

use std::collections::BTreeSet;

use nic_model::{NicId, VmId};
use serde::{Deserialize, Serialize};

use crate::effect::{Effect, EffectKind};
use crate::operation::Operation;
use crate::table::{self, About, Row, WhyNot, World};

/// A rule, as it is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Rule {
    /// To be found again by.
    pub name: RuleName,
    /// At which operation.
    pub operation: Operation,
    /// In this VM alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<VmId>,
    /// For this NIC alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nic: Option<NicId>,
    /// At which of the occasions that match.
    #[serde(default)]
    pub when: When,
    /// At most so many times; without it there is no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    /// What happens.
    pub effect: Effect,
}

/// The name of a rule.
pub type RuleName = String;

/// At which of the occasions that match a rule it takes effect.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// At each.
    #[default]
    Always,
    /// At the one of this number, counted from 1.
    Nth(u64),
    /// At each whose number is a multiple of this one.
    Every(u64),
    /// At each with this probability, 0 to 1.
    Probability(f64),
}

/// A rule that could not do what it says.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RuleError {
    /// Its name is empty or too long.
    #[error("name: {0:?} is no name of 1 to 64 characters")]
    Name(String),
    /// The effect does not exist for the operation.
    #[error("effect: {effect} cannot happen to {operation}; what can is {}", names(.possible))]
    Effect {
        /// The operation.
        operation: Operation,
        /// As the command line spells it.
        effect: &'static str,
        /// What can happen to it.
        possible: Vec<EffectKind>,
    },
    /// The effect exists, but not where the rule is to be followed.
    #[error("effect: {effect} cannot happen to {operation} in {world}: {why}")]
    Here {
        /// The operation.
        operation: Operation,
        /// As the command line spells it.
        effect: &'static str,
        /// Where it is to be followed.
        world: World,
        /// For people.
        why: &'static str,
    },
    /// The operation is no VM's, or is not told by NICs.
    #[error("{field}: {operation} is not told by it, so the rule would never take effect")]
    About {
        /// The field.
        field: &'static str,
        /// The operation.
        operation: Operation,
    },
    /// It counts from nothing, or with something that is no probability.
    #[error("{0} is never")]
    Never(String),
    /// What is real cannot be so now and then.
    #[error("{field}: in {world} {effect} is so for as long as the rule is in force")]
    Standing {
        /// The field.
        field: &'static str,
        /// Where it is to be followed.
        world: World,
        /// As the command line spells it.
        effect: &'static str,
    },
}

/// Longest name of a rule.
const NAME_MAX: usize = 64;

impl Rule {
    /// Whether it can do what it says in one world at least.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn check(&self) -> Result<(), RuleError> {
        let mut others = World::ALL.into_iter().filter(|world| *world != World::Sim);
        let in_memory = self.check_in(World::Sim);
        match others.any(|world| self.check_in(world).is_ok()) {
            true => Ok(()),
            false => in_memory,
        }
    }

    /// Whether it can do what it says in a world.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn check_in(&self, world: World) -> Result<(), RuleError> {
        if self.name.is_empty() || self.name.len() > NAME_MAX {
            return Err(RuleError::Name(self.name.clone()));
        }
        self.check_effect(world)?;
        self.check_subject(world)?;
        match self.when {
            When::Nth(0) => return Err(RuleError::Never("when: nth = 0".to_owned())),
            When::Every(0) => return Err(RuleError::Never("when: every = 0".to_owned())),
            When::Probability(p) if !(p > 0.0 && p <= 1.0) => {
                return Err(RuleError::Never(format!("when: probability = {p}")));
            }
            When::Always | When::Nth(_) | When::Every(_) | When::Probability(_) => {}
        }
        if self.times == Some(0) {
            return Err(RuleError::Never("times: 0".to_owned()));
        }
        self.check_standing(world)
    }

    /// Of the operations that are meant those to which the effect can happen.
    fn rows_in(&self, world: World) -> impl Iterator<Item = &'static Row> {
        let effect = self.effect.kind();
        let rows = self.operation.rows().map(|(_, _, row)| row);
        rows.filter(move |row| row.why_not(world, effect).is_none())
    }

    fn check_effect(&self, world: World) -> Result<(), RuleError> {
        if self.rows_in(world).next().is_some() {
            return Ok(());
        }
        let kind = self.effect.kind();
        let (operation, effect) = (self.operation.clone(), kind.name());
        let why = self.operation.rows().find_map(|(_, _, row)| {
            row.why_not(world, kind).and_then(|why| match why {
                WhyNot::Here(why) => Some(why),
                WhyNot::Senseless => None,
            })
        });
        if let Some(why) = why {
            return Err(RuleError::Here {
                operation,
                effect,
                world,
                why,
            });
        }
        let possible = self.operation.rows().flat_map(|(_, _, row)| row.effects);
        let possible: BTreeSet<EffectKind> = possible.copied().collect();
        Err(RuleError::Effect {
            operation,
            effect,
            possible: possible.into_iter().collect(),
        })
    }

    fn check_subject(&self, world: World) -> Result<(), RuleError> {
        let about = |wanted: &[About]| self.rows_in(world).any(|row| wanted.contains(&row.about));
        let operation = || self.operation.clone();
        if self.vm.is_some() && !about(&[About::Vm, About::VmAndNic]) {
            let (field, operation) = ("vm", operation());
            return Err(RuleError::About { field, operation });
        }
        let by_nic = match self.vm {
            Some(_) => about(&[About::VmAndNic]),
            None => about(&[About::HostAndNic, About::VmAndNic]),
        };
        if self.nic.is_some() && !by_nic {
            let (field, operation) = ("nic", operation());
            return Err(RuleError::About { field, operation });
        }
        Ok(())
    }

    fn check_standing(&self, world: World) -> Result<(), RuleError> {
        let kind = self.effect.kind();
        let field = match (self.when, self.times) {
            _ if !table::is_standing(world, kind) => return Ok(()),
            (When::Always, None) => return Ok(()),
            (When::Always, Some(_)) => "times",
            _ => "when",
        };
        let effect = kind.name();
        Err(RuleError::Standing {
            field,
            world,
            effect,
        })
    }
}

fn names(kinds: &[EffectKind]) -> String {
    let names: Vec<_> = kinds.iter().map(|kind| kind.name()).collect();
    names.join(", ")
}
