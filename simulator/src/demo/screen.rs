//! What the viewer sees. Colours for a terminal only; a viewer who has gone (`| head`) is no reason
//! to stop before everything is put away.

use std::cell::Cell;
use std::fmt::Display;
use std::io::{IsTerminal, Write};

use host_api::StepTiming;

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const GREEN: &str = "\x1b[32m";
const RED: &str = "\x1b[31m";
const CYAN: &str = "\x1b[36m";
const PLAIN: &str = "\x1b[0m";

/// Whether the terminal is told to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Colours {
    On,
    Off,
}

/// The viewer's terminal.
#[derive(Debug)]
pub struct Screen {
    colours: Colours,
    /// Stages of the story, for "3/8".
    stages: u32,
    stage: Cell<u32>,
}

impl Screen {
    /// For a story of so many stages. Colours go by the terminal and by `NO_COLOR` (no-color.org).
    #[must_use]
    pub fn of_this_terminal(stages: u32) -> Self {
        let wanted = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let colours = if wanted { Colours::On } else { Colours::Off };
        Self {
            colours,
            stages,
            stage: Cell::new(0),
        }
    }

    /// What happens next and why it matters.
    pub fn heading(&self, text: &str) {
        self.stage.set(self.stage.get() + 1);
        let (stage, stages) = (self.stage.get(), self.stages);
        self.painted("", BOLD, &format!("\n{stage}/{stages}  {text}"));
    }

    /// What nicctl would be told to do the same.
    pub fn command(&self, line: &str) {
        self.painted("     ", CYAN, &format!("$ {line}"));
    }

    /// One step, as nicctl shows it. A guest has a clock of its own: how long is known, not when.
    pub fn step(&self, timing: &StepTiming) {
        let at = timing.at_ms.map(|at_ms| format!("{at_ms:+.1} ms"));
        let at = at.unwrap_or_default();
        let StepTiming {
            step,
            duration_ms,
            source,
            ..
        } = timing;
        let meaning = meaning(&step.0);
        self.line(format_args!(
            "{at:>11}  {step:<19} {duration_ms:>7.1} ms  {source:<5}  {meaning}"
        ));
    }

    /// A fact.
    pub fn line(&self, text: impl Display) {
        self.painted("     ", "", &text.to_string());
    }

    /// Something beside the point.
    pub fn note(&self, text: &str) {
        self.painted("     ", DIM, text);
    }

    /// Something that went as it should.
    pub fn good(&self, text: &str) {
        self.painted("     ", GREEN, text);
    }

    /// Something that went wrong, to standard error.
    pub fn bad(&self, text: &str) {
        let line = self.paint("", RED, text);
        writeln!(std::io::stderr().lock(), "{line}").ok();
    }

    fn painted(&self, indent: &str, colour: &str, text: &str) {
        let line = self.paint(indent, colour, text);
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{line}")
            .and_then(|()| stdout.flush())
            .ok();
    }

    fn paint(&self, indent: &str, colour: &str, text: &str) -> String {
        match self.colours {
            Colours::On if !colour.is_empty() => format!("{indent}{colour}{text}{PLAIN}"),
            Colours::On | Colours::Off => format!("{indent}{text}"),
        }
    }
}

/// What a step does, for whoever sees its name for the first time.
fn meaning(step: &str) -> &'static str {
    match step {
        "admit" => "checked, reserved, written to disk before anything is touched",
        "make-port" => "the host end: filtered, rate-limited, into the bridge, up",
        "declare" => "the agent is told what is to come, or to go",
        "plug" => "netdev_add, device_add",
        "arrive" => "the guest kernel finds the device and makes a link",
        "guest-hold" => "into the agent's holding namespace",
        "guest-enter" => "into the container's namespace, under its name",
        "guest-set-mtu" => "its MTU",
        "guest-set-addresses" => "its addresses",
        "guest-set-up" => "up",
        "guest-set-routes" => "its routes",
        "guest-announce" => "neighbours learn where the address is (GARP, NA)",
        "guest-verify" => "the agent reads all of it back",
        "bind" => "the agent's steps together, as hostd saw them",
        "record" => "the outcome, written to disk",
        "guest-release" => "switched off, without addresses",
        "release" => "the same, as hostd saw it",
        "quiesce" => "no frame passes any more",
        "unplug" => "device_del, and once the guest has let go netdev_del",
        "guest-unplug" => "the guest lets go of the device",
        "forget" => "the agent need not know of it any more",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn screen(colours: Colours) -> Screen {
        Screen {
            colours,
            stages: 9,
            stage: Cell::new(0),
        }
    }

    #[test]
    fn a_pipe_gets_plain_text() {
        assert_eq!(screen(Colours::Off).paint(" ", GREEN, "done"), " done");
        assert_eq!(
            screen(Colours::On).paint(" ", GREEN, "done"),
            " \x1b[32mdone\x1b[0m"
        );
    }
}
