//! What is said to a monitor, line by line.
//!
//! A line that starts with a byte of JSON is sent as it stands. The others:
//!
//! ```text
//!   # words               for the reader; the first such line says what the transcript is about
//!   @machine WORDS        native: hot-plug without ACPI; running: not stopped; guest: one boots
//!   @raw                  a new client, which does not negotiate
//!   @connect              a new client, which does
//!   @quiet                from here on each step ends with a question of the harness's own, and
//!                         its answer: for input that gets none or several
//!   @descriptor KIND      the next line brings a descriptor: null, tap or multiqueue
//!   @bytes TEXT           sent without a line feed; \n, \r, \t, \\ and \xNN are understood
//!   @part TEXT            the same, and no answer is waited for
//!   @nested N             N brackets open, N close
//!   @until EVENT [ID]     waits for an event, unless it has come since the last command; about a
//!                         device, by its id or its path
//!   @probed ID            waits until the guest's driver has the device
//!   @pass TIME            lets time pass
//!   @end                  the monitor closes
//! ```

use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Every transcript there is.
pub const ALL: [(&str, &str); 16] = [
    (
        "negotiation",
        include_str!("../transcripts/negotiation.qmp"),
    ),
    ("requests", include_str!("../transcripts/requests.qmp")),
    ("json", include_str!("../transcripts/json.qmp")),
    ("queries", include_str!("../transcripts/queries.qmp")),
    (
        "object_model",
        include_str!("../transcripts/object_model.qmp"),
    ),
    ("netdev", include_str!("../transcripts/netdev.qmp")),
    (
        "descriptors",
        include_str!("../transcripts/descriptors.qmp"),
    ),
    ("device_add", include_str!("../transcripts/device_add.qmp")),
    ("device_del", include_str!("../transcripts/device_del.qmp")),
    ("run_state", include_str!("../transcripts/run_state.qmp")),
    (
        "out_of_band",
        include_str!("../transcripts/out_of_band.qmp"),
    ),
    ("migration", include_str!("../transcripts/migration.qmp")),
    (
        "removal_running",
        include_str!("../transcripts/removal_running.qmp"),
    ),
    (
        "removal_native",
        include_str!("../transcripts/removal_native.qmp"),
    ),
    ("guest_acpi", include_str!("../transcripts/guest_acpi.qmp")),
    (
        "guest_native",
        include_str!("../transcripts/guest_native.qmp"),
    ),
];

/// One conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transcript {
    /// Its file's name.
    pub name: &'static str,
    /// What it is about.
    pub about: String,
    /// Which machine it is held with.
    pub machine: Machine,
    /// What is said and waited for.
    pub steps: Vec<Step>,
}

/// What a transcript asks of its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Machine {
    /// How a guest is asked to let go of a device.
    pub hotplug: Hotplug,
    /// What runs in it.
    pub runs: Runs,
}

/// How a guest is asked to let go of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Hotplug {
    /// By ACPI.
    #[default]
    Acpi,
    /// By the slot itself.
    Native,
}

/// What runs in a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Runs {
    /// Nothing: it is stopped.
    #[default]
    Nothing,
    /// Its firmware, which finds nothing to boot.
    Firmware,
    /// A guest.
    Guest,
}

/// One line of a transcript.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Where it stands in the file, from 1.
    pub line: usize,
    /// What it says.
    pub what: What,
}

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// Sends these bytes and waits for an answer.
    Send(Vec<u8>),
    /// Sends these bytes.
    Part(Vec<u8>),
    /// See the module.
    Raw,
    /// See the module.
    Connect,
    /// See the module.
    Quiet,
    /// See the module.
    Descriptor(Descriptor),
    /// See the module.
    Until {
        /// Name of the event.
        event: String,
        /// The device it is about.
        device: Option<String>,
    },
    /// See the module.
    Probed(String),
    /// See the module.
    Pass(Duration),
    /// See the module.
    End,
}

/// What a line brings along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Descriptor {
    /// Of `/dev/null`.
    Null,
    /// A tap's only queue.
    Tap,
    /// One of a tap's two queues.
    Multiqueue,
}

impl Transcript {
    /// Reads one.
    ///
    /// # Errors
    /// When a line is not understood; the error names it.
    pub fn read(name: &'static str, text: &str) -> Result<Self> {
        let mut transcript = Self {
            name,
            about: String::new(),
            machine: Machine::default(),
            steps: Vec::new(),
        };
        for (line, text) in (1..).zip(text.lines()) {
            if let Some(about) = text.strip_prefix("# ") {
                if transcript.about.is_empty() {
                    about.clone_into(&mut transcript.about);
                }
            } else if let Some(machine) = text.strip_prefix("@machine ") {
                transcript.machine = read_machine(machine)?;
            } else {
                let what = read_step(text).with_context(|| format!("{name}.qmp:{line}"))?;
                transcript.steps.push(Step { line, what });
            }
        }
        Ok(transcript)
    }
}

fn read_machine(words: &str) -> Result<Machine> {
    let mut machine = Machine::default();
    for word in words.split(' ') {
        match word {
            "native" => machine.hotplug = Hotplug::Native,
            "running" => machine.runs = Runs::Firmware,
            "guest" => machine.runs = Runs::Guest,
            word => bail!("no machine is {word:?}"),
        }
    }
    Ok(machine)
}

fn read_step(text: &str) -> Result<What> {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    Ok(match word {
        "@raw" => What::Raw,
        "@connect" => What::Connect,
        "@quiet" => What::Quiet,
        "@end" => What::End,
        "@bytes" => What::Send(unescape(rest)?),
        "@part" => What::Part(unescape(rest)?),
        "@nested" => {
            let count = rest.parse()?;
            What::Send([vec![b'['; count], vec![b']'; count]].concat())
        }
        "@descriptor" => What::Descriptor(match rest {
            "null" => Descriptor::Null,
            "tap" => Descriptor::Tap,
            "multiqueue" => Descriptor::Multiqueue,
            kind => bail!("no descriptor is {kind:?}"),
        }),
        "@until" => {
            let (event, device) = rest.split_once(' ').unwrap_or((rest, ""));
            let device = (!device.is_empty()).then(|| device.to_owned());
            let event = event.to_owned();
            What::Until { event, device }
        }
        "@probed" => What::Probed(rest.to_owned()),
        "@pass" => What::Pass(rest.parse::<misbehaviour::Span>()?.0),
        _ => What::Send(format!("{text}\n").into_bytes()),
    })
}

fn unescape(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte != b'\\' {
            bytes.push(byte);
            rest = after;
            continue;
        }
        let (&kind, after) = after.split_first().context("a backslash ends the line")?;
        rest = after;
        match kind {
            b'n' => bytes.push(b'\n'),
            b'r' => bytes.push(b'\r'),
            b't' => bytes.push(b'\t'),
            b'\\' => bytes.push(b'\\'),
            b'x' => {
                let digits = std::str::from_utf8(after.get(..2).context("\\x wants two digits")?)?;
                bytes.push(u8::from_str_radix(digits, 16)?);
                rest = &after[2..];
            }
            kind => bail!("\\{} means nothing", char::from(kind)),
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_transcript_can_be_read_and_says_what_it_is_about() {
        for (name, text) in ALL {
            let transcript = Transcript::read(name, text).unwrap();

            assert!(!transcript.about.is_empty(), "{name}");
            assert!(transcript.steps.len() > 5, "{name}");
        }
    }

    #[test]
    fn a_line_that_is_not_understood_is_named() {
        let error = Transcript::read("x", "{}\n@descriptor none").unwrap_err();

        assert_eq!(format!("{error:#}"), "x.qmp:2: no descriptor is \"none\"");
    }

    #[test]
    fn bytes_that_are_no_text_can_be_written() {
        assert_eq!(
            read_step(r"@bytes \xff\n").unwrap(),
            What::Send(vec![0xff, b'\n'])
        );
    }
}
