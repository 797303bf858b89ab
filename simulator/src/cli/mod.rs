//! What can be typed after `simulator`, and what the parts of a cloud are started with.
//!
//! `sandbox`, `machine`, `guest` and `container` are not for people: a cloud runs this program many
//! times over, so that all of it is one file to copy.

mod console;
mod inner;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use simulator::netns::CloudName;

/// A cloud and its hypervisors on a laptop.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts a cloud of this machine's own processes, and keeps it running
    Up(up::Arguments),
    #[command(hide = true)]
    Sandbox(inner::Sandbox),
    #[command(hide = true)]
    Machine(inner::Machine),
    #[command(hide = true)]
    Guest(inner::Guest),
    #[command(hide = true)]
    Container(inner::Container),
}

/// Which cloud is meant.
#[derive(Debug, clap::Args)]
pub(crate) struct Which {
    /// Name of the cloud: several can run side by side
    #[arg(long, default_value = "default")]
    name: CloudName,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let done = match &arguments.command {
        Command::Up(arguments) => up::run(arguments),
        Command::Sandbox(arguments) => arguments.run(),
        Command::Machine(arguments) => arguments.run(),
        Command::Guest(arguments) => arguments.run(),
        Command::Container(arguments) => arguments.run(),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            console::complain(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
