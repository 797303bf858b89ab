//! Programs of the harness' packages: built like any other, then started in our place with root's
//! rights.
//!
//! ```text
//!   packages ─► cargo build, as the user ─► exec, through sudo for a plain user
//! ```
//!
//! In our place and not as a child, so that an interrupt at the terminal reaches the program alone
//! and the prompt comes back only when it has put everything away.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::Context;
use cargo_metadata::Message;

use crate::console::{Verdict, say};
use crate::process;
use crate::setup::{self, Purpose};

/// Builds the program `name` and hands over to it; returns only when that fails. Packages for
/// `purposes` and for building are there by then.
pub(crate) fn hand_over(
    name: &str,
    purposes: &[Purpose],
    arguments: &[String],
) -> anyhow::Result<Verdict> {
    setup::ensure(&[&[Purpose::Build], purposes].concat())?;
    hand_over_to("testbeds", &["build", "--bin"], name, arguments)
}

/// Builds the program of the package `conformance` and hands over to it; returns only when that
/// fails.
pub(crate) fn hand_over_to_conformance(arguments: &[String]) -> anyhow::Result<Verdict> {
    const NAME: &str = "conformance";
    setup::ensure(&Purpose::ALL)?;
    hand_over_to(NAME, &["build", "--bin"], NAME, arguments)
}

/// Builds the benchmark `name` with optimisation and hands over to it; returns only when that
/// fails.
pub(crate) fn hand_over_to_benchmark(name: &str, arguments: &[String]) -> anyhow::Result<Verdict> {
    setup::ensure(&Purpose::ALL)?;
    hand_over_to(
        "testbeds",
        &["bench", "--no-run", "--bench"],
        name,
        arguments,
    )
}

fn hand_over_to(
    package: &str,
    how: &[&str],
    name: &str,
    arguments: &[String],
) -> anyhow::Result<Verdict> {
    say(format_args!(
        "building the program `{name}` (a first build takes minutes, later ones seconds)"
    ));
    let mut words = setup::root_words()?;
    words.push(build(package, how, name)?);
    words.extend_from_slice(arguments);
    let mut command = process::command(&words[0])?;
    // A password for sudo is typed there.
    command.args(&words[1..]).stdin(Stdio::inherit());
    let error = command.exec();
    Err(error).with_context(|| format!("cannot run `{}`", process::shown(&command)))
}

fn build(package: &str, how: &[&str], name: &str) -> anyhow::Result<String> {
    let mut cargo = process::cargo()?;
    cargo.args(how).args([name, "--package", package]);
    built(&mut cargo, name)
}

/// Where the program `name` is that a build gives.
pub(crate) fn built(cargo: &mut Command, name: &str) -> anyhow::Result<String> {
    cargo.arg("--message-format=json-render-diagnostics");
    let listing = process::output(cargo)?;
    for message in Message::parse_stream(listing.as_bytes()) {
        if let Message::CompilerArtifact(artifact) = message.context("cargo's listing")?
            && artifact.target.name == name
            && let Some(executable) = artifact.executable
        {
            return Ok(executable.into_string());
        }
    }
    anyhow::bail!("cargo built no program `{name}`")
}
