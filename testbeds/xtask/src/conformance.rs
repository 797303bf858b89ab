//! The truth test: what is simulated, held against the real thing.
//!
//! Its program is a package of its own below `testbeds`, since it links what it judges.

use crate::console::Verdict;
use crate::harness;

/// What to hold against what.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    subject: Subject,
}

#[derive(Debug, clap::Subcommand)]
enum Subject {
    /// Says the same to fake-qemu and to a real QEMU, and compares what they answer
    Qmp {
        /// Only transcripts whose name contains this
        filter: Option<String>,
    },
    /// Records what fake-qemu knows of devices and schema, from a real QEMU
    Record,
}

/// `cargo xtask conformance`
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Verdict> {
    harness::hand_over_to_conformance(&arguments.for_program())
}

impl Arguments {
    fn for_program(&self) -> Vec<String> {
        match &self.subject {
            Subject::Qmp { filter } => {
                let command = ["qmp".to_owned()].into_iter();
                command.chain(filter.clone()).collect()
            }
            Subject::Record => vec!["record".to_owned()],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_reaches_the_program() {
        let filter = Some("netdev".to_owned());
        let arguments = Arguments {
            subject: Subject::Qmp { filter },
        };

        assert_eq!(arguments.for_program(), ["qmp", "netdev"]);
    }
}
