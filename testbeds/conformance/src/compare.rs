//! What two peers said, held against each other.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::difference::Difference;
use crate::mask::{Mask, command, mask};
use crate::report::GroupReport;
use crate::run::Exchange;
use crate::transcript::{Transcript, What};

/// Compares what was said in each step.
pub(crate) fn compare(
    transcript: &Transcript,
    mut real: Vec<Exchange>,
    mut fake: Vec<Exchange>,
) -> GroupReport {
    let mut masks = BTreeSet::new();
    mask(&mut real, &mut masks);
    mask(&mut fake, &mut masks);
    for (real, fake) in real.iter_mut().zip(&fake) {
        if matches!(
            command(real).as_str(),
            "query-commands" | "query-qmp-schema"
        ) {
            keep_implemented(&mut real.messages, &fake.messages);
            masks.insert(Mask::Implemented);
        }
    }
    let spoken = |exchange: &&Exchange| {
        matches!(
            exchange.step,
            What::Send(_) | What::Connect | What::Raw | What::Until { .. }
        )
    };
    let exchanges = real.iter().filter(spoken).count();
    let messages = real.iter().map(|exchange| exchange.messages.len()).sum();
    let differences = real
        .into_iter()
        .zip(fake)
        .filter(|(real, fake)| real.messages != fake.messages)
        .map(|(real, fake)| Difference::new(transcript.name, &real, &fake));
    GroupReport {
        name: transcript.name.to_owned(),
        about: transcript.about.clone(),
        exchanges,
        messages,
        differences: differences.collect(),
        masks: masks.into_iter().map(Mask::reason).collect(),
    }
}

/// Of two lists, what of the first is in the second too, in the second's order.
fn keep_implemented(real: &mut [Value], fake: &[Value]) {
    let (Some(real), Some(fake)) = (real.last_mut(), fake.last()) else {
        return;
    };
    if let (Some(Value::Array(real)), Value::Array(fake)) =
        (real.get_mut("return"), &fake["return"])
    {
        *real = fake
            .iter()
            .filter(|entry| real.contains(entry))
            .cloned()
            .collect();
    }
}
