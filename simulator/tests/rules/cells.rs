//! The cells of the table of misbehaviour, as rules.

use std::collections::BTreeSet;
use std::time::Duration;

use misbehaviour::{Effect, EffectKind, Rule, Side, Span, When, World, members_of, possible_in};

const FAMILIES: [&str; 8] = [
    "qmp", "event", "guest", "agent", "dhcp", "channel", "journal", "port",
];

pub(crate) fn effects() -> impl Iterator<Item = EffectKind> {
    use EffectKind::{
        Corrupt, Crash, Cut, Delay, DiskFull, Duplicate, Eject, Error, FsyncError, Ignore, Lose,
        Refuse, Reorder, Reset, Stall,
    };
    let sides = [Side::Before, Side::After];
    let plain = [
        Delay, Error, Lose, Duplicate, Reorder, Corrupt, Stall, Refuse, Ignore, Eject, Reset,
        DiskFull, FsyncError,
    ];
    let sided = sides.into_iter().flat_map(|side| [Cut(side), Crash(side)]);
    plain.into_iter().chain(sided)
}

/// Every operation, known in some world.
pub(crate) fn operations() -> Vec<String> {
    let of =
        |family: &'static str| members_of(family).map(move |member| format!("{family}.{member}"));
    FAMILIES.into_iter().flat_map(of).collect()
}

/// A rule of this name that does this to every one.
pub(crate) fn rule(name: &str, operation: &str, effect: EffectKind) -> Rule {
    let span = Span(Duration::from_millis(20));
    let effect = match effect {
        EffectKind::Delay => Effect::Delay(span),
        EffectKind::Error => Effect::Error {
            class: "GenericError".to_owned(),
            text: "EBUSY".to_owned(),
        },
        EffectKind::Lose => Effect::Lose,
        EffectKind::Duplicate => Effect::Duplicate,
        EffectKind::Reorder => Effect::Reorder,
        EffectKind::Corrupt => Effect::Corrupt,
        EffectKind::Cut(side) => Effect::Cut(side),
        EffectKind::Stall => Effect::Stall,
        EffectKind::Refuse => Effect::Refuse,
        EffectKind::Ignore => Effect::Ignore,
        EffectKind::Eject => Effect::Eject(span),
        EffectKind::Crash(side) => Effect::Crash(side),
        EffectKind::Reset => Effect::Reset,
        EffectKind::DiskFull => Effect::DiskFull,
        EffectKind::FsyncError => Effect::FsyncError,
    };
    rule_with(name, operation, effect)
}

/// A rule for the whole world, as often as its operation comes.
pub(crate) fn rule_with(name: &str, operation: &str, effect: Effect) -> Rule {
    Rule {
        name: name.to_owned(),
        operation: operation.parse().unwrap(),
        vm: None,
        nic: None,
        when: When::Always,
        times: None,
        effect,
    }
}

/// Every rule that a world does not take in, and how its refusal begins.
pub(crate) fn impossible_in(world: World) -> impl Iterator<Item = (Rule, String)> {
    let possible: BTreeSet<(String, EffectKind)> = possible_in(world).collect();
    let all = operations()
        .into_iter()
        .flat_map(|operation| effects().map(move |effect| (operation.clone(), effect)));
    let impossible = all.filter(move |cell| !possible.contains(cell));
    impossible.map(|(operation, effect)| {
        let begins = format!("effect: {} cannot happen to {operation}", effect.name());
        (rule("r", &operation, effect), begins)
    })
}
