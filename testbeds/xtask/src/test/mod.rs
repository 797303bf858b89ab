//! Runs every test and counts honestly.
//!
//! ```text
//!   packages ─► programs the scenarios start ─► tests of every crate ─► scenarios ─► closing line
//!               (hostd, nicctl, static agent)   (all but testbeds)      (testbeds)
//! ```
//!
//! The scenarios come last and alone, because they boot guests: beside a compiler or another test
//! program their times would mean nothing. Both groups run to their end whatever fails.
//!
//! The closing line counts libtest's own lines. What no such line shows (a crate that does not
//! compile, a program that dies, an overrun deadline) counts as one failure and is named above it,
//! so that nobody reads "0 failed" from a broken run.

mod tally;

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::Context;

use crate::console::{Verdict, complain, say};
use crate::setup::{self, Purpose};
use crate::workspace::host_triple;
use crate::{process, test::tally::Tally};

/// The worlds that a CI run may not skip: they are the truth the others are held against.
const WORLDS_OF_TRUTH: [&str; 2] = ["qemu", "libvirt"];

/// One test program may take this long, in seconds. The slowest ones boot some dozen guests under
/// TCG at about 5 s each; one that takes longer hangs, and CI must end all the same.
const PROGRAM_DEADLINE_SECONDS: &str = "1200";

/// After the polite signal, in seconds.
const KILL_AFTER_SECONDS: &str = "10";

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
    if let Err(error) = prepare() {
        tally.broken(format!("{error:#}"));
        return tally;
    }
    for (name, selection) in GROUPS {
        say(format_args!("── {name}"));
        if let Err(error) = run_group(name, selection, &arguments.filter, &mut tally) {
            tally.broken(format!("{error:#}"));
        }
    }
    tally.expect_something();
    if in_ci() && arguments.filter.is_empty() {
        tally.expect_worlds(&WORLDS_OF_TRUTH);
    }
    tally
}

const GROUPS: [(&str, &[&str]); 2] = [
    (
        "the tests of every crate",
        &["--workspace", "--exclude", "testbeds"],
    ),
    ("the scenarios", &["--package", "testbeds"]),
];

/// CI systems set this; a person who wants the same strictness may too.
fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| !value.is_empty() && value != "false")
}

fn prepare() -> anyhow::Result<()> {
    setup::ensure(&[Purpose::Build, Purpose::Run])?;
    say("── the programs under test");
    build_guest_agent()?;
    build(&["--package", "hostd", "--package", "nicctl"])
}

/// The guest has no C library, so its agent brings its own. There is no musl target here; the gnu
/// target links statically. It gets a target directory of its own: other flags, other artefacts.
fn build_guest_agent() -> anyhow::Result<()> {
    let triple = host_triple()?;
    let directory = process::root()?.join("target/guest");
    let mut cargo = process::cargo()?;
    cargo
        .args(["build", "--quiet", "--release", "--package", "guest-agent"])
        .args(["--target", &triple, "--target-dir"])
        .arg(&directory)
        .env(
            target_variable(&triple, "RUSTFLAGS"),
            "-C target-feature=+crt-static",
        );
    let done = process::succeeds(&mut cargo)?;
    anyhow::ensure!(done, "the static guest agent does not build");
    Ok(())
}

fn build(selection: &[&str]) -> anyhow::Result<()> {
    let mut cargo = process::cargo()?;
    cargo.args(["build", "--quiet"]).args(selection);
    let done = process::succeeds(&mut cargo)?;
    anyhow::ensure!(done, "`{}` failed", process::shown(&cargo));
    Ok(())
}

/// cargo's name for a setting of one target: `CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER`.
fn target_variable(triple: &str, setting: &str) -> String {
    let triple = triple.to_uppercase().replace(['-', '.'], "_");
    format!("CARGO_TARGET_{triple}_{setting}")
}

/// What starts each test program. Namespaces and taps need root, but only the test programs get
/// it: what cargo writes stays the user's.
fn runner() -> anyhow::Result<String> {
    let deadline = format!(
        "timeout --foreground --kill-after={KILL_AFTER_SECONDS} {PROGRAM_DEADLINE_SECONDS}"
    );
    if setup::is_root()? {
        return Ok(deadline);
    }
    process::find_program("sudo").context("the tests need root: run them as root, or with sudo")?;
    Ok(format!("sudo --preserve-env {deadline}"))
}

fn run_group(
    name: &str,
    selection: &[&str],
    filter: &[String],
    tally: &mut Tally,
) -> anyhow::Result<()> {
    let mut cargo = process::cargo()?;
    cargo
        .args(["test", "--no-fail-fast"])
        .args(selection)
        .arg("--")
        .args(filter)
        .env(target_variable(&host_triple()?, "RUNNER"), runner()?)
        .stdout(Stdio::piped());
    let mut child = cargo
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    let stdout = child.stdout.take().context("the pipe to cargo is gone")?;
    let before = tally.failed();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.with_context(|| format!("cannot read what {name} print"))?;
        let line = String::from_utf8_lossy(&line);
        say(&line);
        tally.line(&line);
    }
    let status = child
        .wait()
        .with_context(|| format!("cannot wait for {name}"))?;
    tally.end_of_program();
    if !status.success() && tally.failed() == before {
        tally.broken(format!("{name}: cargo ended with {status}, see above"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_of_a_target_has_cargos_name() {
        assert_eq!(
            target_variable("x86_64-unknown-linux-gnu", "RUNNER"),
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER"
        );
    }

    #[test]
    fn the_runner_gives_each_program_a_deadline() {
        assert!(runner().is_ok_and(|runner| runner.contains("timeout --foreground")));
    }
}
