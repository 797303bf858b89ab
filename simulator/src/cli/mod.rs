//! What can be typed after `simulator`, and what the parts of a cloud are started with.
//!
//! `sandbox`, `machine`, `guest` and `container` are not for people: a cloud runs this program many
//! times over, so that all of it is one file to copy.

mod console;
mod demo;
mod exec;
mod fleet;
mod inner;
mod log;
mod orders;
mod panic;
mod rules;
mod script;
mod soak;
mod tcp;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use simulator::netns::{CloudName, ControlClient, Site, State};

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
    Up(up::Up),
    /// Starts a cloud from a snapshot, and keeps it running
    Restore(up::Restore),
    /// Shows how a NIC gets into a container, moves and goes, with its times
    Demo(demo::Demo),
    /// Ends a cloud
    Down(orders::Down),
    /// Makes a cloud as it was at first
    Reset(orders::Reset),
    /// Shows a cloud: its VMs, what goes wrong in it, what has happened
    Status(orders::Show),
    /// Writes all there is to make a cloud anew into a file
    Snapshot(orders::Snapshot),
    /// Runs a program in a VM or one of its containers, with this terminal
    Exec(exec::Exec),
    /// What goes wrong: adds, lists and removes rules
    Rules(rules::Rules),
    /// How fast a transition goes
    Pace(rules::SetPace),
    /// The clock of the simulated hardware
    Clock(orders::Clock),
    /// Does the transition of a VM that has waited longest to be told
    Step(orders::Step),
    /// Switches a VM on or off, or resets it
    Vm(orders::Vm),
    /// Runs thousands of VMs in one process and in virtual time, and judges what comes of it
    Fleet(fleet::Fleet),
    /// Runs random worlds, one for each seed, and holds each against the reference model
    Soak(soak::Soak),
    /// Runs the world of one seed again, and shows what happens in it
    Replay(soak::Replay),
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

impl Which {
    fn site(&self) -> Site {
        Site::of(&self.name)
    }

    fn control(&self) -> anyhow::Result<ControlClient> {
        Ok(ControlClient::new(State::read(&self.site())?.control))
    }
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let done = match &arguments.command {
        Command::Up(arguments) => arguments.run(),
        Command::Restore(arguments) => arguments.run(),
        Command::Demo(arguments) => arguments.run(),
        Command::Down(arguments) => finish(arguments.run()),
        Command::Reset(arguments) => finish(arguments.run()),
        Command::Status(arguments) => finish(arguments.run()),
        Command::Snapshot(arguments) => finish(arguments.run()),
        Command::Exec(arguments) => arguments.run(),
        Command::Rules(arguments) => finish(arguments.run()),
        Command::Pace(arguments) => finish(arguments.run()),
        Command::Clock(arguments) => finish(arguments.run()),
        Command::Step(arguments) => finish(arguments.run()),
        Command::Vm(arguments) => finish(arguments.run()),
        Command::Fleet(arguments) => arguments.run(),
        Command::Soak(arguments) => arguments.run(),
        Command::Replay(arguments) => arguments.run(),
        Command::Sandbox(arguments) => arguments.run(),
        Command::Machine(arguments) => arguments.run(),
        Command::Guest(arguments) => arguments.run(),
        Command::Container(_) => simulator::netns::run_container(),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            console::complain(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// A number that JSON has a form for (RFC 8259, section 6).
fn finite(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite());
    number.ok_or_else(|| "it is not a finite number".to_owned())
}

/// Runs what waits for others, on one thread.
fn finish(order: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<ExitCode> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build()?;
    runtime.block_on(order).map(|()| ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_that_can_be_sent_are_taken() {
        assert_eq!(finite("2.5"), Ok(2.5));
        for text in ["", "fast", "nan", "inf", "-inf", "1e999"] {
            assert!(finite(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        <Arguments as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn a_soak_that_would_run_nothing_is_refused() {
        for nothing in [["--seeds", "0"], ["--jobs", "0"]] {
            let asked = Arguments::try_parse_from(["simulator", "soak"].iter().chain(&nothing));
            assert!(asked.is_err(), "{nothing:?}");
        }
        let beyond = ["simulator", "soak", "--from", "18446744073709551614"];
        let beyond = Arguments::try_parse_from(beyond).expect("each number is one");

        assert_ne!(run(&beyond), ExitCode::SUCCESS);
    }
}
