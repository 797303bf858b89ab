//! Fleets under every rule that there may be in one.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;

use misbehaviour::{EffectKind, Rule, Script, Side, When, World, possible_in};
use simulator::fleet::{self, FleetPlan};

use crate::cells::{impossible_in, rule};

fn plan(vms: usize, rules: Vec<Rule>) -> FleetPlan {
    let script = Script {
        rules,
        ..Script::default()
    };
    FleetPlan {
        vms,
        operations: 80,
        seed: 7,
        vms_per_host: vms / 2,
        script: Arc::new(script),
    }
}

/// What brings about that which a fleet does not do by itself, and how many VMs that takes: a guest
/// that has panicked, or that never boots, is out for good.
fn cause(operation: &str) -> (usize, Option<Rule>) {
    let panic = rule("cause", "guest.plug", EffectKind::Crash(Side::Before));
    let reset = Rule {
        when: When::Every(2),
        ..rule("cause", "qmp.netdev_del", EffectKind::Reset)
    };
    let refusal = rule("cause", "guest.unplug", EffectKind::Refuse);
    let cut = Rule {
        when: When::Every(2),
        ..rule("cause", "qmp.device_add", EffectKind::Cut(Side::After))
    };
    match operation {
        "event.GUEST_PANICKED" | "event.STOP" => (24, Some(panic)),
        "event.RESET" | "guest.boot" => (16, Some(reset)),
        "event.DEVICE_UNPLUG_GUEST_ERROR" => (6, Some(refusal)),
        "qmp.qmp_capabilities" | "qmp.query-migrate" => (6, Some(cut)),
        _ => (6, None),
    }
}

/// One rule for each effect, each of which takes effect once: the first one that has not yet.
fn one_after_the_other(operation: &str, effects: &[EffectKind]) -> Vec<Rule> {
    let once = |effect: &EffectKind| Rule {
        times: Some(1),
        ..rule(effect.name(), operation, *effect)
    };
    effects.iter().map(once).collect()
}

#[test]
fn every_rule_that_is_taken_in_is_followed() {
    let mut cells: BTreeMap<String, Vec<EffectKind>> = BTreeMap::new();
    for (operation, effect) in possible_in(World::Fleet) {
        cells.entry(operation).or_default().push(effect);
    }
    let mut unheard = Vec::new();
    for (operation, effects) in cells {
        let (vms, cause) = cause(&operation);
        let mut rules = one_after_the_other(&operation, &effects);
        rules.extend(cause);
        let plan = plan(vms, rules);
        plan.check(&plan.script).unwrap();

        let report = fleet::run(&plan).unwrap();

        let idle = report.rules.iter().filter(|(_, done)| **done == 0);
        unheard.extend(idle.map(|(rule, _)| format!("{operation} {rule}")));
    }
    assert_eq!(unheard, Vec::<String>::new());
}

#[test]
fn every_other_rule_is_refused_with_the_reason() {
    let any = plan(6, Vec::new());
    for (rule, begins) in impossible_in(World::Fleet) {
        let operation = rule.operation.clone();
        let script = Script {
            rules: vec![rule],
            ..Script::default()
        };

        let refused = any.check(&script);

        let refused = refused.expect_err(&format!("{operation} is refused"));
        let said = in_full(&refused);
        assert!(said.contains(&begins), "{begins}: {said}");
    }
}

/// An error with all its causes.
fn in_full(error: &dyn Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", in_full(cause)),
        None => error.to_string(),
    }
}
