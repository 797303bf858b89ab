//! What can be made to go wrong without changing where things end.
//!
//! Left out is what a guest or hypervisor may rightly answer an attach with: there the model would
//! have to know of it; and a monitor that never answers again, which nothing can be done about.
//! What is refused or fails here is asked for again by hostd itself, or by a client that does as it
//! is told.

use std::time::Duration;

use misbehaviour::{Chance, Effect, Rule, Side, Span, When};

/// One rule for one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mischief {
    /// At which operation.
    pub operation: &'static str,
    /// At the how manieth of them, from 1 on.
    pub nth: u64,
    /// What happens.
    pub effect: Effect,
}

impl Mischief {
    /// As a rule.
    pub(crate) fn rule(&self, number: usize) -> Rule {
        Rule {
            name: format!("trouble {number}"),
            operation: self.operation.parse().expect("the menu is written by hand"),
            vm: None,
            nic: None,
            when: When::Nth(self.nth),
            times: Some(1),
            effect: self.effect.clone(),
        }
    }

    /// One of the menu.
    pub fn draw(chance: &mut Chance) -> Self {
        let dish = &MENU[usize::try_from(chance.below(MENU.len() as u64)).unwrap_or_default()];
        let operation = dish.operations[index(chance, dish.operations.len())];
        let kind = dish.kinds[index(chance, dish.kinds.len())];
        let is_family = operation.ends_with('*');
        Self {
            operation,
            nth: 1 + chance.below(if is_family { 40 } else { 3 }),
            effect: effect(kind, chance),
        }
    }
}

fn index(chance: &mut Chance, length: usize) -> usize {
    usize::try_from(chance.below(length as u64)).unwrap_or_default()
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Delay,
    Lose,
    Duplicate,
    Reorder,
    Corrupt,
    Cut,
    Stall,
    Refuse,
    Crash,
    CrashBefore,
    Error,
    DiskFull,
    FsyncError,
}

struct Dish {
    operations: &'static [&'static str],
    kinds: &'static [Kind],
}

const MENU: [Dish; 11] = [
    Dish {
        operations: &[
            "qmp.device_add",
            "qmp.device_del",
            "qmp.netdev_add",
            "qmp.netdev_del",
            "qmp.set_link",
            "qmp.getfd",
            "qmp.*",
        ],
        kinds: &[Kind::Delay, Kind::Lose, Kind::Cut],
    },
    Dish {
        operations: &["event.DEVICE_DELETED", "event.*"],
        kinds: &[
            Kind::Delay,
            Kind::Lose,
            Kind::Duplicate,
            Kind::Reorder,
            Kind::Cut,
        ],
    },
    Dish {
        operations: &["guest.plug"],
        kinds: &[Kind::Delay],
    },
    Dish {
        operations: &["guest.unplug"],
        kinds: &[Kind::Delay, Kind::Lose, Kind::Refuse],
    },
    Dish {
        operations: &["guest.link-event"],
        kinds: &[Kind::Lose],
    },
    Dish {
        operations: &[
            "agent.hold",
            "agent.enter",
            "agent.set-mtu",
            "agent.set-addresses",
            "agent.set-up",
            "agent.set-routes",
            "agent.announce",
            "agent.verify",
            "agent.release",
            "agent.*",
        ],
        kinds: &[Kind::Crash, Kind::Crash, Kind::Delay],
    },
    Dish {
        operations: &["channel.to-guest", "channel.to-host", "channel.*"],
        kinds: &[
            Kind::Delay,
            Kind::Lose,
            Kind::Duplicate,
            Kind::Corrupt,
            Kind::Cut,
            Kind::Stall,
        ],
    },
    Dish {
        operations: &["journal.commit"],
        kinds: &[
            Kind::Delay,
            Kind::CrashBefore,
            Kind::FsyncError,
            Kind::DiskFull,
        ],
    },
    Dish {
        operations: &["port.make"],
        kinds: &[Kind::Delay, Kind::CrashBefore],
    },
    Dish {
        operations: &["port.isolate", "port.remove", "port.list"],
        kinds: &[Kind::Delay, Kind::Error, Kind::CrashBefore],
    },
    // Cut connections are what hides most: once more.
    Dish {
        operations: &["event.DEVICE_DELETED", "qmp.device_del", "qmp.device_add"],
        kinds: &[Kind::Cut],
    },
];

fn effect(kind: Kind, chance: &mut Chance) -> Effect {
    let side = |chance: &mut Chance| match chance.happens(0.5) {
        true => Side::Before,
        false => Side::After,
    };
    match kind {
        Kind::Delay => Effect::Delay(Span(Duration::from_millis(1 + chance.below(6000)))),
        Kind::Lose => Effect::Lose,
        Kind::Duplicate => Effect::Duplicate,
        Kind::Reorder => Effect::Reorder,
        Kind::Corrupt => Effect::Corrupt,
        Kind::Cut => Effect::Cut(side(chance)),
        Kind::Stall => Effect::Stall,
        Kind::Refuse => Effect::Refuse,
        Kind::Crash => Effect::Crash(side(chance)),
        Kind::CrashBefore => Effect::Crash(Side::Before),
        Kind::Error => Effect::Error {
            class: "GenericError".to_owned(),
            text: "Input/output error".to_owned(),
        },
        Kind::DiskFull => Effect::DiskFull,
        Kind::FsyncError => Effect::FsyncError,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_drawn_is_a_rule_that_can_be_followed() {
        let mut chance = Chance::new(1);
        for number in 0..2000 {
            let mischief = Mischief::draw(&mut chance);

            assert_eq!(mischief.rule(number).check(), Ok(()), "{mischief:?}");
        }
    }
}
