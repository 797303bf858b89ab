//! One rule: at which occasions, how often, and what then.

use nic_model::{NicId, VmId};
use serde::{Deserialize, Serialize};

use crate::effect::{Effect, EffectKind};
use crate::operation::{Operation, effects_of};

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
        /// As rules spell it.
        effect: &'static str,
        /// What can happen to it.
        possible: &'static [EffectKind],
    },
    /// It counts from nothing, or with something that is no probability.
    #[error("when: {0} is never")]
    Never(String),
}

/// Longest name of a rule.
const NAME_MAX: usize = 64;

impl Rule {
    /// Whether it can do what it says.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn check(&self) -> Result<(), RuleError> {
        if self.name.is_empty() || self.name.len() > NAME_MAX {
            return Err(RuleError::Name(self.name.clone()));
        }
        let possible = effects_of(&self.operation);
        if !possible.contains(&self.effect.kind()) {
            return Err(RuleError::Effect {
                operation: self.operation.clone(),
                effect: self.effect.kind().name(),
                possible,
            });
        }
        match self.when {
            When::Nth(0) => Err(RuleError::Never("nth = 0".to_owned())),
            When::Every(0) => Err(RuleError::Never("every = 0".to_owned())),
            When::Probability(p) if !(p > 0.0 && p <= 1.0) => {
                Err(RuleError::Never(format!("probability = {p}")))
            }
            When::Always | When::Nth(_) | When::Every(_) | When::Probability(_) => Ok(()),
        }
    }
}

fn names(kinds: &[EffectKind]) -> String {
    let names: Vec<_> = kinds.iter().map(|kind| kind.name()).collect();
    names.join(", ")
}
