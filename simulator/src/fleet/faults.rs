//! What goes wrong in a fleet, all the time and everywhere a little.

use misbehaviour::{Effect, Rule, Side, Span, When};
use std::time::Duration;

/// One kind of fault: where, how often, what.
struct Fault {
    operation: &'static str,
    probability: f64,
    effect: fn() -> Effect,
}

fn after(milliseconds: u64) -> Effect {
    Effect::Delay(Span(Duration::from_millis(milliseconds)))
}

fn refusal() -> Effect {
    Effect::Error {
        class: "GenericError".to_owned(),
        text: "no, by chance".to_owned(),
    }
}

/// Rare enough that most operations go well, frequent enough that hundreds do not.
const FAULTS: [Fault; 16] = [
    Fault {
        operation: "qmp.*",
        probability: 0.0002,
        effect: || Effect::Lose,
    },
    Fault {
        operation: "qmp.*",
        probability: 0.0005,
        effect: || after(30),
    },
    Fault {
        operation: "qmp.device_add",
        probability: 0.002,
        effect: refusal,
    },
    Fault {
        operation: "qmp.netdev_add",
        probability: 0.001,
        effect: || Effect::Cut(Side::After),
    },
    Fault {
        operation: "qmp.device_del",
        probability: 0.001,
        effect: || Effect::Cut(Side::Before),
    },
    Fault {
        operation: "qmp.device_del",
        probability: 0.0005,
        effect: || Effect::Crash(Side::After),
    },
    Fault {
        operation: "event.*",
        probability: 0.01,
        effect: || Effect::Lose,
    },
    Fault {
        operation: "event.*",
        probability: 0.005,
        effect: || Effect::Duplicate,
    },
    Fault {
        operation: "channel.to-guest",
        probability: 0.002,
        effect: || Effect::Lose,
    },
    Fault {
        operation: "channel.to-host",
        probability: 0.002,
        effect: || Effect::Corrupt,
    },
    Fault {
        operation: "channel.to-host",
        probability: 0.001,
        effect: || Effect::Cut(Side::Before),
    },
    Fault {
        operation: "guest.unplug",
        probability: 0.01,
        effect: || Effect::Ignore,
    },
    Fault {
        operation: "guest.plug",
        probability: 0.005,
        effect: || after(700),
    },
    Fault {
        operation: "agent.*",
        probability: 0.0005,
        effect: || Effect::Crash(Side::After),
    },
    Fault {
        operation: "port.make",
        probability: 0.001,
        effect: refusal,
    },
    Fault {
        operation: "journal.commit",
        probability: 0.002,
        effect: || after(20),
    },
];

/// The faults of a fleet of which nothing else is said.
///
/// # Panics
/// Never: the constants are operations, as a test shows.
pub fn usual_faults() -> impl Iterator<Item = Rule> {
    let numbered = FAULTS.iter().enumerate();
    numbered.map(|(number, fault)| Rule {
        name: format!("chance-{number}"),
        operation: fault
            .operation
            .parse()
            .expect("the constants are operations"),
        vm: None,
        nic: None,
        when: When::Probability(fault.probability),
        times: None,
        effect: (fault.effect)(),
    })
}

#[cfg(test)]
mod tests {
    use misbehaviour::World;

    use super::*;

    #[test]
    fn every_fault_can_happen_where_it_is_said_to() {
        for rule in usual_faults() {
            assert_eq!(rule.check_in(World::Fleet), Ok(()), "{}", rule.operation);
        }
    }
}
