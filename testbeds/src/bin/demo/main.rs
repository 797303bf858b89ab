//! The demonstration: two real VMs, a NIC into a container of each, a ping, a move, a ping, and
//! nothing left behind. Everything is asked of hostd over its API, as an operator would ask.
//!
//! ```text
//!   prepare ─► boot ─► containers ─► attach ─► ping ─► move ─► ping ─► detach ─► leak check
//!      └────────────────── an error or Ctrl-C, anywhere ──────────────────► world torn down
//! ```

mod census;
mod story;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;
use simulator::demo::Screen;
use testbeds::bed::Bed;
use testbeds::cache::Cache;
use testbeds::report::report;
use testbeds::site::Foundation;
use testbeds::world::WorldKind;
use tokio::signal::unix::{SignalKind, signal};

use crate::story::Story;

/// What a shell reports for a program that an interrupt ended: 128 and the signal's number.
const INTERRUPTED: u8 = 130;

/// Hot-plugs NICs into containers of two real VMs and shows every step.
#[derive(Debug, Parser)]
#[command(name = "demo")]
struct Arguments {
    /// Where to show it.
    #[arg(long, default_value = "qemu", value_parser = world)]
    world: WorldKind,
}

fn world(name: &str) -> Result<WorldKind> {
    let found = WorldKind::ALL.into_iter().find(|kind| kind.name() == name);
    found.context("a world is qemu or libvirt")
}

/// How the demonstration ended when nothing went wrong.
enum End {
    Shown,
    Interrupted,
}

fn main() -> ExitCode {
    let kind = Arguments::parse().world;
    let screen = Screen::of_this_terminal(story::STAGES);
    let started = Instant::now();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&screen, &error.into()),
    };
    match runtime.block_on(until_interrupted(kind, &screen)) {
        Ok(End::Shown) => {
            let seconds = started.elapsed().as_secs_f64();
            screen.good(&format!("All of it took {seconds:.1} s."));
            ExitCode::SUCCESS
        }
        Ok(End::Interrupted) => {
            screen.bad("interrupted: the world is torn down");
            ExitCode::from(INTERRUPTED)
        }
        Err(error) => failed(&screen, &error),
    }
}

fn failed(screen: &Screen, error: &anyhow::Error) -> ExitCode {
    screen.bad(&format!("error: {error:#}"));
    ExitCode::FAILURE
}

/// Whatever it ends by: the world is gone when this returns, since the bed is dropped with it.
async fn until_interrupted(kind: WorldKind, screen: &Screen) -> Result<End> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    tokio::select! {
        biased;
        _ = interrupt.recv() => Ok(End::Interrupted),
        _ = terminate.recv() => Ok(End::Interrupted),
        _ = hang_up.recv() => Ok(End::Interrupted),
        shown = show(kind, screen) => shown.map(|()| End::Shown),
    }
}

async fn show(kind: WorldKind, screen: &Screen) -> Result<()> {
    kind.runs_here()?;
    let foundation = prepare(screen).await?;
    screen.heading("A world of its own: a network namespace with a bridge, and hostd in it");
    let cache = foundation.cache.clone();
    let bed = Bed::make(kind, foundation).await?;
    let shown = Story::on(&bed, screen).tell().await;
    if shown.is_err() {
        keep_report(&bed, &cache, screen).await;
    }
    shown
}

/// Whoever wants to know why has all there is to know in a file; the error itself comes last.
async fn keep_report(bed: &Bed, cache: &Cache, screen: &Screen) {
    let about = report(bed).await;
    match cache.keep("demo-report.txt", about.as_bytes()) {
        Ok(file) => screen.bad(&format!("what it looked like: {}", file.display())),
        Err(error) => screen.bad(&format!("no report: {error:#}")),
    }
}

async fn prepare(screen: &Screen) -> Result<std::sync::Arc<Foundation>> {
    screen.heading("Programs and guest image: kept for the next time");
    screen
        .note("the agent, linked statically; a Debian kernel, busybox and the agent as initramfs");
    screen.note("the first time this compiles and downloads for some minutes");
    let began = Instant::now();
    let foundation = Foundation::lay()?;
    let guests = foundation.guests().await?;
    screen.note("hostd and nicctl");
    let programs = foundation.programs().await?;
    let seconds = began.elapsed().as_secs_f64();
    screen.line(format_args!(
        "guest kernel {}, run by {}",
        guests.image.kernel_version, guests.accelerator
    ));
    screen.line(format_args!("nicctl is {}", programs.nicctl.display()));
    screen.line(format_args!("ready after {seconds:.1} s"));
    Ok(foundation)
}
