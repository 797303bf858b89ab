//! `simulator up`: a cloud that runs until it is told to stop.

use std::path::PathBuf;
use std::process::ExitCode;

use misbehaviour::Script;
use simulator::netns::{Frames, Plan, Programs, Site, Topology, launch};
use tokio::signal::unix::{SignalKind, signal};

use super::{Which, console};

/// What the cloud is to be like.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    which: Which,
    /// What there is to be: hosts, VMs, containers, networks, limits (TOML)
    topology: Option<PathBuf>,
    /// How many VMs there are, where no topology says it
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=100))]
    vms: u8,
    /// How frames get from the host into a guest: a tap's descriptor is passed, as with a real
    /// QEMU, or pairs of virtual links carry them, for which nobody needs `/dev/net/tun`
    #[arg(long, value_enum, default_value = "auto")]
    frames: FramesChoice,
    /// Say in one line of JSON what runs, once it is ready
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum FramesChoice {
    Auto,
    Tap,
    Veth,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let topology = match &arguments.topology {
        Some(file) => Topology::load(file)?,
        None => Topology::of_vms(arguments.vms),
    };
    let plan = Plan {
        topology,
        frames: match arguments.frames {
            FramesChoice::Auto => Frames::possible_here(),
            FramesChoice::Tap => Frames::Tap,
            FramesChoice::Veth => Frames::Veth,
        },
        script: Script::default(),
        programs: Programs::beside_this_one()?,
    };
    let launched = launch(&plan, &Site::of(&arguments.which.name))?;
    if arguments.json {
        console::say(serde_json::to_string(&launched.state)?);
    } else {
        console::say(format_args!("{:#?}", launched.state));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(until_told(launched.sandbox()))
}

/// Waits for a signal, or for the sandbox's end.
async fn until_told(sandbox: u32) -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut child = signal(SignalKind::child())?;
    let _ = sandbox;
    tokio::select! {
        biased;
        _ = child.recv() => return Ok(ExitCode::FAILURE),
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hang_up.recv() => {}
    }
    Ok(ExitCode::SUCCESS)
}
