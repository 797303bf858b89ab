//! What can go wrong in which world: each operation, each effect, and where it does anything.
//!
//! ```text
//!   rule: operation, effect, vm, nic, when ──► check in a world ──► in force
//!                                                  └──► the field that could do nothing, and why
//! ```
//!
//! One table, which whoever takes rules in asks: a rule that could never do anything is refused
//! when it is made, not silently kept.

use std::fmt;

use crate::effect::EffectKind;
use crate::rows::ROWS;

/// Where rules are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum World {
    /// Everything in memory, in virtual time, as a test makes it.
    Sim,
    /// The same as `simulator fleet` makes it.
    Fleet,
    /// Processes and namespaces, as `simulator up` makes them.
    Netns,
    /// A fake QEMU by itself.
    Qemu,
}

/// Why an effect cannot be had of an operation in a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhyNot {
    /// It is nothing that could happen to it anywhere.
    Senseless,
    /// In this world it cannot, for this reason.
    Here(&'static str),
}

/// One operation, or several of which the same is true.
pub(crate) struct Row {
    pub(crate) family: &'static str,
    pub(crate) members: &'static [&'static str],
    pub(crate) effects: &'static [EffectKind],
    pub(crate) about: About,
    pub(crate) except: &'static [Except],
}

/// Whom an operation can be told by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum About {
    /// The host's, whichever VM it is for.
    Host,
    /// The host's, for one NIC.
    HostAndNic,
    /// A VM's.
    Vm,
    /// A VM's, for one NIC.
    VmAndNic,
}

/// A part of a row that is not so in one world.
pub(crate) struct Except {
    pub(crate) worlds: &'static [World],
    /// None stands for all.
    pub(crate) effects: &'static [EffectKind],
    /// For people.
    pub(crate) why: &'static str,
}

impl World {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Sim, Self::Fleet, Self::Netns, Self::Qemu];

    /// As people call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sim => "sim",
            Self::Fleet => "fleet",
            Self::Netns => "netns",
            Self::Qemu => "fake-qemu",
        }
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Row {
    /// Why an effect cannot be had of it; `None` where it can.
    pub(crate) fn why_not(&self, world: World, effect: EffectKind) -> Option<WhyNot> {
        if !self.effects.contains(&effect) {
            return Some(WhyNot::Senseless);
        }
        let concerns = |except: &&Except| {
            let every = except.effects.is_empty() || except.effects.contains(&effect);
            every && except.worlds.contains(&world)
        };
        let found = self.except.iter().find(concerns);
        found.map(|except| WhyNot::Here(except.why))
    }
}

/// Every operation there is, with its row.
pub(crate) fn operations() -> impl Iterator<Item = (&'static str, &'static str, &'static Row)> {
    let members = |row: &'static Row| {
        let name = move |member: &&'static str| (row.family, *member, row);
        row.members.iter().map(name)
    };
    ROWS.iter().flat_map(members)
}

/// Whether an effect is, for as long as its rule is in force, instead of happening now and then:
/// what is real asks nobody.
pub(crate) fn is_standing(world: World, effect: EffectKind) -> bool {
    world == World::Netns && effect == EffectKind::DiskFull
}

/// Every effect that can be had of an operation in a world: each is one that something simulated
/// asks for, or that is brought about by other means.
pub fn possible_in(world: World) -> impl Iterator<Item = (String, EffectKind)> {
    operations().flat_map(move |(family, member, row)| {
        let effects = row.effects.iter().copied();
        let had = effects.filter(move |effect| row.why_not(world, *effect).is_none());
        had.map(move |effect| (format!("{family}.{member}"), effect))
    })
}

/// The names of a family's operations, such as all QMP commands.
pub fn members_of(family: &str) -> impl Iterator<Item = &'static str> {
    let of_it = operations().filter(move |(known, _, _)| *known == family);
    of_it.map(|(_, member, _)| member)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use nic_model::{NicId, VmId};

    use super::*;
    use crate::{Effect, Occasion, Rule, Rulebook, Side, Span, When};
    use EffectKind::{
        Corrupt, Crash, Cut, Delay, DiskFull, Duplicate, Eject, Error, FsyncError, Ignore, Lose,
        Refuse, Reorder, Reset, Stall,
    };

    fn rule(operation: &str, effect: EffectKind) -> Rule {
        let span = Span(std::time::Duration::from_secs(1));
        Rule {
            name: "a".to_owned(),
            operation: operation.parse().unwrap(),
            vm: None,
            nic: None,
            when: When::Always,
            times: None,
            effect: match effect {
                Delay => Effect::Delay(span),
                Error => Effect::Error {
                    class: "GenericError".to_owned(),
                    text: "no".to_owned(),
                },
                Lose => Effect::Lose,
                Duplicate => Effect::Duplicate,
                Reorder => Effect::Reorder,
                Corrupt => Effect::Corrupt,
                Cut(side) => Effect::Cut(side),
                Stall => Effect::Stall,
                Refuse => Effect::Refuse,
                Ignore => Effect::Ignore,
                Eject => Effect::Eject(span),
                Crash(side) => Effect::Crash(side),
                Reset => Effect::Reset,
                DiskFull => Effect::DiskFull,
                FsyncError => Effect::FsyncError,
            },
        }
    }

    fn every_effect() -> impl Iterator<Item = EffectKind> {
        let sides = [Side::Before, Side::After];
        let plain = [
            Delay, Error, Lose, Duplicate, Reorder, Corrupt, Stall, Refuse, Ignore, Eject, Reset,
            DiskFull, FsyncError,
        ];
        plain
            .into_iter()
            .chain(sides.map(Cut))
            .chain(sides.map(Crash))
    }

    fn consulted(world: World, operation: &str, effect: EffectKind) -> Option<Effect> {
        let mut book = Rulebook::of(world, 1);
        book.add(rule(operation, effect)).ok()?;
        let vm: VmId = "vm1".parse().unwrap();
        let nic: NicId = "nic-abc0123xyz".parse().unwrap();
        book.consult(&Occasion {
            operation,
            vm: Some(&vm),
            nic: Some(&nic),
        })
    }

    #[test]
    fn every_cell_of_the_table_is_followed_or_refused() {
        for world in World::ALL {
            let possible: BTreeSet<(String, EffectKind)> = possible_in(world).collect();
            for (family, member, _) in operations() {
                let operation = format!("{family}.{member}");
                for effect in every_effect() {
                    let followed = consulted(world, &operation, effect);

                    let is_possible = possible.contains(&(operation.clone(), effect));
                    assert_eq!(
                        followed.map(|effect| effect.kind()),
                        is_possible.then_some(effect),
                        "{operation} {} in {world}",
                        effect.name()
                    );
                }
            }
        }
    }

    #[test]
    fn an_operation_is_in_one_row_alone() {
        let names: Vec<_> = operations().map(|(of, name, _)| (of, name)).collect();
        let distinct: BTreeSet<_> = names.iter().collect();

        assert_eq!(distinct.len(), names.len());
    }

    #[test]
    fn a_family_is_followed_where_its_effect_can_happen_alone() {
        let vm: VmId = "vm1".parse().unwrap();
        let mut book = Rulebook::of(World::Sim, 1);
        book.add(rule("guest.*", Delay)).unwrap();

        let effects = ["guest.plug", "guest.link-event", "guest.boot"].map(|operation| {
            let occasion = Occasion {
                operation,
                vm: Some(&vm),
                nic: None,
            };
            book.consult(&occasion).is_some()
        });

        assert_eq!(effects, [true, false, true]);
        assert_eq!(book.rules().map(|(_, done)| done).sum::<u64>(), 2);
    }

    #[test]
    fn a_refusal_names_the_field_and_the_world() {
        let vm: Option<VmId> = Some("vm1".parse().unwrap());
        let nic: Option<NicId> = Some("nic-abc0123xyz".parse().unwrap());
        let of_vm = |rule: Rule| Rule {
            vm: vm.clone(),
            ..rule
        };
        let of_nic = |rule: Rule| Rule {
            nic: nic.clone(),
            ..rule
        };
        let cases = [
            (
                World::Netns,
                rule("journal.commit", FsyncError),
                "effect: fsync-error cannot happen to journal.commit in netns: the kernel syncs",
            ),
            (
                World::Fleet,
                rule("journal.commit", Corrupt),
                "effect: corrupt cannot happen to journal.commit in fleet: hostd does not start",
            ),
            (
                World::Netns,
                rule("guest.link-event", Lose),
                "effect: lose cannot happen to guest.link-event in netns: the real kernel",
            ),
            (
                World::Netns,
                Rule {
                    times: Some(1),
                    ..rule("journal.commit", DiskFull)
                },
                "times: in netns disk-full is so for as long as",
            ),
            (
                World::Fleet,
                rule("dhcp.*", Lose),
                "effect: lose cannot happen to dhcp.* in fleet: no DHCP server",
            ),
            (
                World::Sim,
                rule("guest.plug", Crash(Side::After)),
                "effect: crash=after cannot happen to guest.plug; what can is delay, lose",
            ),
            (
                World::Sim,
                of_vm(rule("port.make", Delay)),
                "vm: port.make is not told by it",
            ),
            (
                World::Sim,
                of_nic(rule("event.RESET", Lose)),
                "nic: event.RESET is not told by it",
            ),
            (
                World::Sim,
                Rule {
                    times: Some(0),
                    ..rule("guest.plug", Delay)
                },
                "times: 0 is never",
            ),
        ];
        for (world, rule, expected) in cases {
            let refused = rule.check_in(world).unwrap_err().to_string();

            assert!(refused.starts_with(expected), "{refused}");
        }
    }

    #[test]
    fn a_rule_for_anywhere_has_to_do_something_somewhere() {
        assert_eq!(rule("journal.commit", FsyncError).check(), Ok(()));
        let nowhere = rule("event.NIC_RX_FILTER_CHANGED", Lose).check();
        assert!(nowhere.is_err(), "{nowhere:?}");
    }
}
