//! The project's own commands, one per line a person or the CI types.
//!
//! They are a program and not a pile of scripts because most of them judge the code: the judging
//! parts are pure functions with tests that show each rule firing. A command is one variant of
//! [`Command`], one arm of [`run`] and one module.
//!
//! Nothing here may link libvirt: `setup` has to build on a machine that does not have it yet.

mod bench;
mod check;
mod conformance;
mod console;
mod demo;
mod harness;
mod process;
mod setup;
mod soak;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::console::Verdict;

/// The project's own commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows how a NIC gets into a container of a VM, moves and goes, with its times
    Demo(demo::Arguments),
    /// Installs the system packages that are missing, or lists them where there is no apt
    Setup(setup::Arguments),
    /// Runs every check that needs no guest: format, lints, docs, tidy, licences
    Check,
    /// Checks the rules of this repository that no compiler knows
    Tidy,
    /// Measures, beside a peer in the same run
    Bench(bench::Arguments),
    /// Holds what is simulated against the real thing
    Conformance(conformance::Arguments),
    /// Runs random worlds, one for each seed, and holds each against the reference model
    Soak(soak::Arguments),
    /// Runs the world of one seed again, and shows what happens in it
    Replay(soak::Replay),
    /// Runs every test and ends with `N passed, N failed, N skipped`
    Test(test::Arguments),
}

fn main() -> ExitCode {
    match run(&Arguments::parse().command) {
        Ok(Verdict::Good) => ExitCode::SUCCESS,
        Ok(Verdict::Bad) => ExitCode::FAILURE,
        Err(error) => {
            console::complain(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> anyhow::Result<Verdict> {
    match command {
        Command::Demo(arguments) => demo::run(arguments),
        Command::Setup(arguments) => setup::run(arguments),
        Command::Check => check::run(),
        Command::Tidy => tidy::run(),
        Command::Bench(arguments) => bench::run(arguments),
        Command::Conformance(arguments) => conformance::run(arguments),
        Command::Soak(arguments) => soak::run(arguments),
        Command::Replay(arguments) => soak::replay(arguments),
        Command::Test(arguments) => test::run(arguments),
    }
}

/// The names a person can type after `cargo xtask`, so that tidy can hold the documents to them.
fn command_names() -> Vec<String> {
    let command = <Arguments as clap::CommandFactory>::command();
    command
        .get_subcommands()
        .map(|sub| sub.get_name().to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Arguments as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn a_filter_may_look_like_an_option() {
        let arguments = Arguments::try_parse_from(["xtask", "test", "attach", "--exact"]);

        assert!(matches!(
            arguments.map(|arguments| arguments.command),
            Ok(Command::Test(test::Arguments { filter })) if filter == ["attach", "--exact"]
        ));
    }

    #[test]
    fn every_command_can_be_named_in_a_document() {
        assert!(command_names().contains(&"tidy".to_owned()));
    }
}
