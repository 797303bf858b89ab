//! The demonstration: what nicferry is for, for whoever types one command.

use std::os::unix::process::CommandExt;

use anyhow::Context;

use crate::console::{Verdict, say};
use crate::setup::Purpose;
use crate::{harness, process};

/// Where to show it.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// netns: in namespaces of this machine, by any user; qemu, libvirt: on real VMs, by root
    #[arg(long, default_value = "netns", value_parser = ["netns", "qemu", "libvirt"])]
    world: String,
}

/// What the demonstration without VMs runs; hostd without libvirt, which need not be installed.
const PROGRAMS: [&str; 4] = ["simulator", "hostd", "guest-agent", "nicctl"];

/// `cargo xtask demo`
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Verdict> {
    let world = arguments.world.as_str();
    let purposes: &[Purpose] = match world {
        "netns" => return simulate(),
        "libvirt" => &[Purpose::Run, Purpose::Libvirt],
        _ => &[Purpose::Run],
    };
    harness::hand_over("demo", purposes, &["--world".to_owned(), world.to_owned()])
}

/// In our place, as with the other worlds, so that an interrupt reaches the simulator alone.
fn simulate() -> anyhow::Result<Verdict> {
    say("building (a first build takes minutes, later ones seconds)");
    let mut cargo = process::cargo()?;
    cargo.args(["build", "--bins", "--no-default-features"]);
    cargo.args(PROGRAMS.iter().flat_map(|name| ["--package", name]));
    let simulator = harness::built(&mut cargo, PROGRAMS[0])?;
    let mut command = process::command(&simulator)?;
    let error = command.arg("demo").exec();
    Err(error).with_context(|| format!("cannot run `{}`", process::shown(&command)))
}
