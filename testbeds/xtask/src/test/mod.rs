//! Runs every test and counts honestly.
//!
//! ```text
//!   packages ─► one build ─► every crate ─► examples ─► sabotage ─► scenarios ─► closing line
//!                of all       but testbeds   in docs     own build     testbeds
//! ```
//!
//! What boots in a guest, and a hostd that can be killed at a chosen step, the scenarios build for
//! themselves: they alone know with which flags.
//!
//! The scenarios come last and alone, because they boot guests: beside a compiler or another test
//! program their times would mean nothing. Everything runs to its end whatever fails.
//!
//! The closing line counts libtest's own lines. What no such line shows (a crate that does not
//! compile, a program that dies, an overrun deadline) counts as one failure and is named above it,
//! so that nobody reads "0 failed" from a broken run.

mod programs;
mod tally;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::Context;

use self::programs::Programs;
use self::tally::Tally;
use crate::console::{Verdict, complain, say};
use crate::process;
use crate::setup::{self, Purpose};

/// The package whose tests are the scenarios.
const SCENARIOS: &str = "testbeds";

/// The worlds that a CI run may not skip: they are the truth the others are held against.
const WORLDS_OF_TRUTH: [&str; 2] = ["qemu", "libvirt"];

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Handed to every test program: part of a name, `--exact`, `--skip NAME`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) filter: Vec<String>,
}

/// `cargo xtask test`
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Verdict> {
    let tally = count(arguments);
    for complaint in tally.complaints() {
        complain(format_args!("error: {complaint}"));
    }
    say("");
    say(tally.closing_line());
    Ok(Verdict::good_if(tally.is_good()))
}

fn count(arguments: &Arguments) -> Tally {
    let mut tally = Tally::default();
    if let Err(error) = run_all(&arguments.filter, &mut tally) {
        tally.broken(format!("{error:#}"));
    }
    tally.expect_something();
    if in_ci() && arguments.filter.is_empty() {
        tally.expect_worlds(&WORLDS_OF_TRUTH);
    }
    tally
}

fn run_all(filter: &[String], tally: &mut Tally) -> anyhow::Result<()> {
    setup::ensure(&Purpose::ALL)?;
    say("── building");
    let programs = Programs::build()?;
    run_programs(&programs, |package| package != SCENARIOS, filter, tally)?;
    run_program("the examples in the docs", doc_tests()?.args(filter), tally)?;
    say("── building a hostd that can be broken on purpose");
    run_programs(&Programs::build_sabotaged()?, |_| true, filter, tally)?;
    run_programs(&programs, |package| package == SCENARIOS, filter, tally)
}

fn run_programs(
    programs: &Programs,
    wanted: impl Fn(&str) -> bool,
    filter: &[String],
    tally: &mut Tally,
) -> anyhow::Result<()> {
    for test in programs.tests.iter().filter(|test| wanted(&test.package)) {
        let name = format!("{} {}", test.package, test.name);
        run_program(&name, programs.command(test)?.args(filter), tally)?;
    }
    Ok(())
}

fn doc_tests() -> anyhow::Result<Command> {
    let mut cargo = process::cargo()?;
    cargo.args([
        "test",
        "--quiet",
        "--workspace",
        "--doc",
        "--no-fail-fast",
        "--",
    ]);
    cargo.stdout(Stdio::piped());
    Ok(cargo)
}

/// CI systems set this; a person who wants the same strictness may too.
fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| !value.is_empty() && value != "false")
}

fn run_program(name: &str, command: &mut Command, tally: &mut Tally) -> anyhow::Result<()> {
    say(format_args!("── {name}"));
    count_output(name, command, tally, |line| say(line))
}

/// Runs a command to its end, hands on every line it prints, and counts.
fn count_output(
    name: &str,
    command: &mut Command,
    tally: &mut Tally,
    show: impl Fn(&str),
) -> anyhow::Result<()> {
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    let stdout = child.stdout.take().context("the pipe is gone")?;
    let failed_before = tally.failed();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.with_context(|| format!("cannot read what {name} prints"))?;
        let line = String::from_utf8_lossy(&line);
        show(&line);
        tally.line(&line);
    }
    let status = child
        .wait()
        .with_context(|| format!("cannot wait for {name}"))?;
    if !status.success() && tally.failed() == failed_before {
        tally.broken(format!(
            "{name} ended with {status} and named no failed test"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_dies_without_a_result_is_one_failure() {
        let mut tally = Tally::default();
        let mut program = Command::new("sh");
        program
            .args(["-c", "echo running 3 tests; kill -ABRT $$"])
            .stdout(Stdio::piped());

        count_output("the program", &mut program, &mut tally, |_| {}).expect("sh is everywhere");

        assert_eq!(tally.failed(), 1);
        assert!(tally.complaints()[0].starts_with("the program ended with signal"));
    }

    #[test]
    fn a_program_that_names_its_failures_is_not_counted_twice() {
        let mut tally = Tally::default();
        let mut program = Command::new("sh");
        let result = "echo 'test result: FAILED. 1 passed; 2 failed; 0 ignored'; exit 101";
        program.args(["-c", result]).stdout(Stdio::piped());

        count_output("the program", &mut program, &mut tally, |_| {}).expect("sh is everywhere");

        assert_eq!(tally.closing_line(), "1 passed, 2 failed, 0 skipped");
    }
}
