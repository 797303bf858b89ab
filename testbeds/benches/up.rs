//! How long a cloud on a laptop takes until it can be used.
//!
//! ```text
//!   cargo xtask bench up --json FILE
//! ```
//!
//! What is measured and how: `testbeds::bench::up`. Ends badly when a cloud does not come up or
//! does not end; a goal that was missed is a result like others.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use testbeds::bench::Computer;
use testbeds::bench::up::{Summary, round};
use testbeds::build;
use testbeds::cache::Cache;

/// Measures starts of clouds.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where the result goes
    #[arg(long)]
    json: Option<PathBuf>,
    /// Starts that count
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    rounds: u16,
    /// VMs of each cloud
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    vms: u16,
    /// Cargo says this to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let simulator = build::cloud_programs(&Cache::open()?).await?;
    let mut computer = Computer::observe().await?;
    // The first start reads the programs from disk.
    round(&simulator, arguments.vms).await?;
    let mut rounds = Vec::new();
    for _ in 0..arguments.rounds {
        rounds.push(round(&simulator, arguments.vms).await?);
    }
    computer.observe_end()?;
    let summary = Summary::of(arguments.vms, computer, &rounds)?;
    writeln!(std::io::stdout().lock(), "{}", summary.table())?;
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&summary)? + "\n";
        std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}
