//! What hostd costs while nothing happens: memory and processor time with ten thousand NICs in use.
//!
//! ```text
//!   cargo xtask bench idle --json FILE
//! ```
//!
//! What is measured and how: `testbeds::bench::idle`. Ends badly when a NIC could not be attached;
//! a goal that was missed is a result like others.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use testbeds::bench::Computer;
use testbeds::bench::idle::{PortKind, Setting, Stage, Stand, StandPlan, Summary};
use testbeds::cache::Cache;
use testbeds::{build, netns};

/// How often progress is told, in NICs.
const TOLD_EVERY: usize = 1000;

/// Measures idleness.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where the result goes
    #[arg(long)]
    json: Option<PathBuf>,
    /// VMs of the host
    #[arg(long, default_value_t = 1250, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    vms: u16,
    /// NICs of each VM
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=24))]
    nics_per_vm: u16,
    /// What host ends of NICs are
    #[arg(long, default_value = "bridge", value_parser = ["bridge", "tap"])]
    ports: String,
    /// How long each stage is left alone and measured, in seconds
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u16).range(1..))]
    seconds: u16,
    /// How long each stage is left alone before, in seconds
    #[arg(long, default_value_t = 60)]
    settle_seconds: u16,
    /// Cargo says this to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let summary = run(&arguments).await?;
    writeln!(std::io::stdout().lock(), "{}", summary.table())?;
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&summary)? + "\n";
        std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

async fn run(arguments: &Arguments) -> Result<Summary> {
    raise_descriptor_limit()?;
    netns::sweep();
    say("building what is measured");
    let programs = build::host_programs(&Cache::open()?).await?;
    let mut computer = Computer::observe().await?;
    let plan = StandPlan {
        vms: arguments.vms.into(),
        nics_per_vm: arguments.nics_per_vm.into(),
        ports: match arguments.ports.as_str() {
            "tap" => PortKind::Tap,
            _ => PortKind::Bridge,
        },
    };
    let mut stand = Stand::set(plan, programs.hostd).await?;
    let stages = measure(arguments, &mut stand).await?;
    stand.kill().await?;
    computer.observe_end()?;
    let setting = Setting {
        nics: stand.nics(),
        vms: plan.vms,
        ports: plan.ports,
    };
    Summary::of(setting, computer, stages)
}

async fn measure(arguments: &Arguments, stand: &mut Stand) -> Result<Vec<Stage>> {
    let mut stages = Vec::new();
    stand.start_empty().await?;
    stages.push(stage(arguments, stand, "nothing").await?);
    stand.kill().await?;
    stand.start_full().await?;
    stages.push(stage(arguments, stand, "every VM, no NIC").await?);
    let nics = stand.nics();
    let attaching = stand.attach_all(move |number| {
        if (number + 1) % TOLD_EVERY == 0 {
            say(&format!("attached {} of {nics}", number + 1));
        }
    });
    attaching.await?;
    stages.push(stage(arguments, stand, "every NIC, just attached").await?);
    stand.kill().await?;
    stand.start_full().await?;
    stages.push(stage(arguments, stand, "every NIC, started anew").await?);
    stand.all_are_in_use().await?;
    Ok(stages)
}

async fn stage(arguments: &Arguments, stand: &Stand, what: &'static str) -> Result<Stage> {
    say(&format!("hostd with {what}"));
    let seconds = |count: u16| Duration::from_secs(count.into());
    let (settle, idle) = (arguments.settle_seconds, arguments.seconds);
    let idle = stand.idle(seconds(settle), seconds(idle)).await?;
    Ok(Stage::of(what, &idle))
}

/// Every VM has two sockets that listen and two that are connected, and every NIC a tap.
fn raise_descriptor_limit() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).context("raising the limit of open descriptors")
}

/// To standard error: standard output is for the table alone.
fn say(line: &str) {
    // A terminal that has gone away is no reason to stop measuring.
    writeln!(std::io::stderr().lock(), "{line}").ok();
}
