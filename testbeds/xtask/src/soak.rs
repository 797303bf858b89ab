//! Random worlds: many seeds, or one of them again with all that happens in it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;

use anyhow::Context;

use crate::console::{Verdict, say};
use crate::{harness, process};

/// The program that runs the worlds.
const PROGRAM: &str = "simulator";

/// Which seeds.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many seeds
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Run the other seeds too when one has found something
    #[arg(long)]
    keep_going: bool,
}

/// Which seed.
#[derive(Debug, clap::Args)]
pub(crate) struct Replay {
    /// The one to run again
    seed: u64,
    /// Look for the fewest steps that show the same
    #[arg(long)]
    shorten: bool,
}

/// `cargo xtask soak`
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Verdict> {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut words = vec![
        "soak".to_owned(),
        format!("--seeds={}", arguments.seeds),
        format!("--from={}", arguments.from),
        format!("--jobs={jobs}"),
    ];
    words.extend(arguments.keep_going.then(|| "--keep-going".to_owned()));
    hand_over(words)
}

/// `cargo xtask replay`
pub(crate) fn replay(arguments: &Replay) -> anyhow::Result<Verdict> {
    let mut words = vec!["replay".to_owned(), arguments.seed.to_string()];
    words.extend(arguments.shorten.then(|| "--shorten".to_owned()));
    hand_over(words)
}

/// In our place, so that an interrupt reaches the worlds alone. With optimisation: it is what most
/// of the time goes into.
fn hand_over(words: impl IntoIterator<Item = impl Into<OsString>>) -> anyhow::Result<Verdict> {
    say("building (a first build takes minutes, later ones seconds)");
    let mut cargo = process::cargo()?;
    cargo.args(["build", "--release", "--package", PROGRAM, "--bin", PROGRAM]);
    let program = harness::built(&mut cargo, PROGRAM)?;
    let mut command = process::command(&program)?;
    let error = command.args(words.into_iter().map(Into::into)).exec();
    Err(error).with_context(|| format!("cannot run `{}`", process::shown(&command)))
}
