//! All rules that are in force, and what each has done so far.
//!
//! The first rule that takes effect decides; the ones after it still count the occasion, so that
//! "the third" stays the third whatever other rules there are.

use nic_model::{NicId, VmId};

use crate::chance::Chance;
use crate::effect::Effect;
use crate::rule::{Rule, RuleError, When};
use crate::script::Script;
use crate::table::{Row, World};

/// Something is about to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Occasion<'a> {
    /// What, such as `qmp.device_add`.
    pub operation: &'a str,
    /// In which VM.
    pub vm: Option<&'a VmId>,
    /// For which NIC.
    pub nic: Option<&'a NicId>,
}

/// The rules in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Rulebook {
    /// Where the rules are followed; somewhere, where that is not said.
    world: Option<World>,
    chance: Chance,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    rule: Rule,
    /// Of the operations that it covers those to which its effect cannot happen.
    spared: Vec<String>,
    met: u64,
    done: u64,
}

/// A rule that was not taken in.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RulebookError {
    /// It could not do what it says.
    #[error("rule {name:?} cannot be followed")]
    Rule {
        /// Which.
        name: String,
        /// Why.
        #[source]
        cause: RuleError,
    },
    /// There is one of that name.
    #[error("there is a rule {0:?} already")]
    NameTaken(String),
    /// There are enough.
    #[error("there are {MAX_RULES} rules, which is the most there may be")]
    Full,
}

/// Most rules in force: each is looked at on every occasion.
pub const MAX_RULES: usize = 1000;

impl Rulebook {
    /// No rules, and this seed for those to come, which have to do something in one world at least.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self {
            world: None,
            chance: Chance::new(seed),
            entries: Vec::new(),
        }
    }

    /// The same for one world, in which each of them has to do something.
    #[must_use]
    pub const fn of(world: World, seed: u64) -> Self {
        Self {
            world: Some(world),
            chance: Chance::new(seed),
            entries: Vec::new(),
        }
    }

    /// The rules of a script.
    ///
    /// # Errors
    /// The first rule that cannot be taken in.
    pub fn from_script(world: World, script: &Script) -> Result<Self, RulebookError> {
        let mut book = Self::of(world, script.seed);
        for rule in &script.rules {
            book.add(rule.clone())?;
        }
        Ok(book)
    }

    /// Takes a rule in, after all others.
    ///
    /// # Errors
    /// When it cannot be followed, or one of its name is in force.
    pub fn add(&mut self, rule: Rule) -> Result<(), RulebookError> {
        let checked = match self.world {
            Some(world) => rule.check_in(world),
            None => rule.check(),
        };
        checked.map_err(|cause| RulebookError::Rule {
            name: rule.name.clone(),
            cause,
        })?;
        if self
            .entries
            .iter()
            .any(|entry| entry.rule.name == rule.name)
        {
            return Err(RulebookError::NameTaken(rule.name));
        }
        if self.entries.len() == MAX_RULES {
            return Err(RulebookError::Full);
        }
        self.entries.push(Entry {
            spared: spared(self.world, &rule),
            rule,
            met: 0,
            done: 0,
        });
        Ok(())
    }

    /// Takes a rule out; `None` when there is none of that name.
    pub fn remove(&mut self, name: &str) -> Option<Rule> {
        let index = self
            .entries
            .iter()
            .position(|entry| entry.rule.name == name)?;
        Some(self.entries.remove(index).rule)
    }

    /// Takes all rules out.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// Whether no rule is in force, so that nobody needs to be asked.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Every rule in force, with how often it has taken effect.
    pub fn rules(&self) -> impl Iterator<Item = (&Rule, u64)> {
        self.entries.iter().map(|entry| (&entry.rule, entry.done))
    }

    /// What is to happen instead of the operation's simply being done.
    pub fn consult(&mut self, occasion: &Occasion<'_>) -> Option<Effect> {
        let mut decided = None;
        for entry in &mut self.entries {
            if entry.takes_effect(occasion, &mut self.chance) && decided.is_none() {
                entry.done += 1;
                decided = Some(entry.rule.effect.clone());
            }
        }
        decided
    }
}

fn spared(world: Option<World>, rule: &Rule) -> Vec<String> {
    let effect = rule.effect.kind();
    let had = |world: World, row: &Row| row.why_not(world, effect).is_none();
    let happens = |row: &Row| match world {
        Some(world) => had(world, row),
        None => World::ALL.into_iter().any(|world| had(world, row)),
    };
    let covered = rule.operation.rows();
    let spared = covered.filter(|(_, _, row)| !happens(row));
    spared
        .map(|(family, member, _)| format!("{family}.{member}"))
        .collect()
}

impl Entry {
    fn takes_effect(&mut self, occasion: &Occasion<'_>, chance: &mut Chance) -> bool {
        if !self.matches(occasion) {
            return false;
        }
        self.met += 1;
        let chosen = match self.rule.when {
            When::Always => true,
            When::Nth(number) => self.met == number,
            When::Every(number) => self.met.is_multiple_of(number),
            When::Probability(probability) => chance.happens(probability),
        };
        chosen && self.rule.times.is_none_or(|times| self.done < times)
    }

    fn matches(&self, occasion: &Occasion<'_>) -> bool {
        let Rule {
            operation, vm, nic, ..
        } = &self.rule;
        operation.covers(occasion.operation)
            && vm.as_ref().is_none_or(|vm| occasion.vm == Some(vm))
            && nic.as_ref().is_none_or(|nic| occasion.nic == Some(nic))
            && !self
                .spared
                .iter()
                .any(|spared| spared == occasion.operation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book(rules: &str) -> Rulebook {
        let script: Script = toml::from_str(rules).unwrap();
        Rulebook::from_script(World::Sim, &script).unwrap()
    }

    fn ask(book: &mut Rulebook, operation: &str, vm: &str) -> Option<Effect> {
        let vm = vm.parse().unwrap();
        book.consult(&Occasion {
            operation,
            vm: Some(&vm),
            nic: None,
        })
    }

    #[test]
    fn a_rule_takes_effect_at_its_operation_and_vm_alone() {
        let mut book = book(
            r#"
            [[rule]]
            name = "refusal"
            operation = "guest.unplug"
            vm = "vm1"
            effect = "refuse"
            "#,
        );

        assert_eq!(ask(&mut book, "guest.unplug", "vm1"), Some(Effect::Refuse));
        assert_eq!(ask(&mut book, "guest.unplug", "vm2"), None);
        assert_eq!(ask(&mut book, "guest.plug", "vm1"), None);
    }

    #[test]
    fn occasions_are_counted_whoever_decides() {
        let mut book = book(
            r#"
            [[rule]]
            name = "first"
            operation = "qmp.*"
            when = { nth = 1 }
            effect = "lose"
            [[rule]]
            name = "second"
            operation = "qmp.device_add"
            when = { nth = 2 }
            effect = { cut = "after" }
            [[rule]]
            name = "each"
            operation = "qmp.device_add"
            when = { every = 2 }
            times = 1
            effect = { delay = "2s" }
            "#,
        );

        let effects = [1, 2, 3, 4, 5, 6].map(|_| ask(&mut book, "qmp.device_add", "vm1"));

        let delay = Effect::Delay("2s".parse().unwrap());
        let cut = Effect::Cut(crate::Side::After);
        let expected = [Some(Effect::Lose), Some(cut), None, Some(delay), None, None];
        assert_eq!(effects, expected);
        let done: Vec<_> = book.rules().map(|(_, done)| done).collect();
        assert_eq!(done, [1, 1, 1]);
    }

    #[test]
    fn the_same_seed_gives_the_same_effects_and_another_others() {
        let rules = |seed| {
            format!(
                "seed = {seed}\n[[rule]]\nname = \"a\"\noperation = \"event.*\"\n\
                 when = {{ probability = 0.5 }}\neffect = \"lose\""
            )
        };
        let effects = |seed| {
            let mut book = book(&rules(seed));
            [(); 64].map(|()| ask(&mut book, "event.RESET", "vm1").is_some())
        };

        assert_eq!(effects(1), effects(1));
        assert_ne!(effects(1), effects(2));
    }

    #[test]
    fn a_rule_that_can_do_nothing_names_the_field() {
        let cases = [
            (
                r#"operation = "guest.plug", effect = "disk-full""#,
                "effect: disk-full cannot",
            ),
            (
                r#"operation = "guest.plug", effect = "lose", when = { nth = 0 }"#,
                "when: nth = 0",
            ),
            (
                r#"operation = "guest.plug", effect = "lose", when = { probability = 1.5 }"#,
                "when: probability = 1.5",
            ),
        ];
        for (fields, expected) in cases {
            let rule: Rule = toml::from_str(&fields_of(fields)).unwrap();

            let error = rule.check().unwrap_err().to_string();

            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn a_text_that_is_no_rule_is_refused_with_what_there_is() {
        let cases = [
            (
                r#"operation = "guest.sleep", effect = "lose""#,
                "there are guest.{*,plug",
            ),
            (
                r#"operation = "guest.plug", effect = "explode""#,
                "unknown variant `explode`",
            ),
            (
                r#"operation = "guest.plug", effect = "lose", vms = "a""#,
                "unknown field `vms`",
            ),
            (
                r#"operation = "qmp.stop", effect = { delay = "soon" }"#,
                "no length of time",
            ),
        ];
        for (fields, expected) in cases {
            let error = toml::from_str::<Rule>(&fields_of(fields)).unwrap_err();

            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn two_rules_of_one_name_cannot_be_told_apart() {
        let mut book = book("");
        let rule: Rule =
            toml::from_str(&fields_of(r#"operation = "guest.plug", effect = "lose""#)).unwrap();
        book.add(rule.clone()).unwrap();

        let refused = book.add(rule.clone());

        assert_eq!(refused, Err(RulebookError::NameTaken("a".to_owned())));
        assert_eq!(book.remove("a"), Some(rule));
        assert!(book.is_empty());
    }

    fn fields_of(inline: &str) -> String {
        let table: toml::Table =
            toml::from_str(&format!("rule = {{ name = \"a\", {inline} }}")).unwrap();
        toml::to_string(&table["rule"]).unwrap()
    }
}
