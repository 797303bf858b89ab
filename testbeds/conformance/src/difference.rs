//! One difference, as a person wants to see it.

use std::fmt;

use serde_json::Value;

use crate::run::Exchange;
use crate::transcript::What;

/// Most lines of a difference that are printed.
const LINES_MAX: usize = 60;

/// Where the two have said different things.
#[derive(Debug)]
pub(crate) struct Difference {
    place: String,
    sent: String,
    real: Vec<String>,
    fake: Vec<String>,
}

impl Difference {
    pub(crate) fn new(transcript: &str, real: &Exchange, fake: &Exchange) -> Self {
        Self {
            place: format!("{transcript}.qmp:{}", real.line),
            sent: sent(&real.step),
            real: lines(&real.messages),
            fake: lines(&fake.messages),
        }
    }
}

fn sent(step: &What) -> String {
    match step {
        What::Send(bytes) | What::Part(bytes) => {
            let text: String = String::from_utf8_lossy(bytes).chars().take(300).collect();
            format!("{text:?}")
        }
        What::Until { event, device } => {
            let about = device.as_deref().unwrap_or_default();
            format!("until {event} {about}")
        }
        What::Raw
        | What::Connect
        | What::Quiet
        | What::Descriptor(_)
        | What::Probed(_)
        | What::Pass(_)
        | What::End => format!("{step:?}"),
    }
}

fn lines(messages: &[Value]) -> Vec<String> {
    let pretty = |message: &Value| {
        let text = serde_json::to_string_pretty(message).unwrap_or_default();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    messages.iter().flat_map(pretty).collect()
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {}", self.place, self.sent)?;
        writeln!(f, "--- the real QEMU\n+++ fake-qemu")?;
        let unified = unified(&self.real, &self.fake);
        for line in unified.iter().take(LINES_MAX) {
            writeln!(f, "{line}")?;
        }
        match unified.len().checked_sub(LINES_MAX) {
            Some(more) if more > 0 => writeln!(f, "… and {more} lines more"),
            _ => Ok(()),
        }
    }
}

/// What is in one alone, with what is in both shortened to a line around it.
fn unified(real: &[String], fake: &[String]) -> Vec<String> {
    let common = real
        .iter()
        .zip(fake)
        .take_while(|(real, fake)| real == fake)
        .count();
    let (real_rest, fake_rest) = (&real[common..], &fake[common..]);
    let tail = real_rest.iter().rev().zip(fake_rest.iter().rev());
    let tail = tail.take_while(|(real, fake)| real == fake).count();
    let context = |lines: &[String]| {
        lines
            .iter()
            .map(|line| format!(" {line}"))
            .collect::<Vec<_>>()
    };
    let mut unified = context(&real[common.saturating_sub(2)..common]);
    unified.extend(
        real_rest[..real_rest.len() - tail]
            .iter()
            .map(|line| format!("-{line}")),
    );
    unified.extend(
        fake_rest[..fake_rest.len() - tail]
            .iter()
            .map(|line| format!("+{line}")),
    );
    unified.extend(context(&real_rest[real_rest.len() - tail..][..tail.min(2)]));
    unified
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_shown_with_a_little_around_it() {
        let lines = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();

        let shown = unified(&lines("a b c d e f g"), &lines("a b c X e f g"));

        assert_eq!(shown, [" b", " c", "-d", "+X", " e", " f"]);
    }
}
