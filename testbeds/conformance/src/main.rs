//! `conformance`: what `cargo xtask conformance` hands over to.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use conformance::{compare_all, python, record};

/// Holds fake-qemu against a real QEMU
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Says the same to both and compares the answers
    Qmp {
        /// Only transcripts whose name contains this
        #[arg(default_value = "")]
        filter: String,
    },
    /// Asks a real QEMU about its devices and its schema, for fake-qemu to know
    Record,
}

fn main() -> Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    match Arguments::parse().command {
        Command::Qmp { filter } => {
            let report = compare_all(&filter)?;
            if filter.is_empty() {
                writeln!(out, "{}\n", python::session()?)?;
            }
            writeln!(out, "{report}")?;
            Ok(match report.agrees() {
                true => ExitCode::SUCCESS,
                false => ExitCode::FAILURE,
            })
        }
        Command::Record => {
            let file = record::record()?;
            writeln!(out, "written: {}", file.display())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
