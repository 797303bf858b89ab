//! How many attaches a second one hostd does with a durable journal, beside what the journal's
//! engine commits a second on the same disk.
//!
//! ```text
//!   cargo xtask bench throughput --json FILE
//! ```
//!
//! What is measured and how: `testbeds::bench::throughput`. Ends badly when anything could not be
//! attached or detached; a goal that was missed is a result like others.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use testbeds::bench::throughput::{
    Case, Load, Program, Round, Setting, Side, Stand, StandPlan, Summary, Way,
};
use testbeds::bench::{Computer, Efforts, disk_of};
use testbeds::cache::Cache;

/// Attaches of a round for each client, where there are so many NICs.
const ATTACHES_PER_CLIENT: usize = 16;
/// Attaches of a round at least: a few clients take long for many.
const ATTACHES_MIN: usize = 64;

/// Measures attaches a second.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where the result goes
    #[arg(long)]
    json: Option<PathBuf>,
    /// Rounds of each case
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    rounds: u16,
    /// VMs of the host
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    vms: u16,
    /// NICs of each VM
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=24))]
    nics_per_vm: u16,
    /// Numbers of clients at a time
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 32, 128, 512])]
    clients: Vec<u16>,
    /// Threads of hostd's runtime
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    hostd_threads: u16,
    /// A directory on the disk to be measured; one under `target` by default
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Cargo says this to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let summary = run(&arguments)?;
    writeln!(std::io::stdout().lock(), "{}", summary.table())?;
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&summary)? + "\n";
        std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn run(arguments: &Arguments) -> Result<Summary> {
    let observing = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut computer = observing.block_on(Computer::observe())?;
    let parent = match &arguments.directory {
        Some(directory) => directory.clone(),
        None => Cache::open()?.path(""),
    };
    let directory = tempfile::tempdir_in(parent)?;
    let plan = StandPlan {
        vms: arguments.vms.into(),
        nics_per_vm: arguments.nics_per_vm.into(),
        hostd_threads: arguments.hostd_threads.into(),
    };
    let stand = Stand::set(&plan, directory.path())?;
    let cases = measure(arguments, &stand)?;
    computer.observe_end()?;
    let setting = Setting {
        vms: plan.vms,
        nics: stand.nics(),
        rounds: arguments.rounds.into(),
        hostd_threads: plan.hostd_threads,
        disk: disk_of(directory.path())?,
        sqlite: rusqlite::version().to_owned(),
    };
    Summary::of(setting, computer, cases)
}

/// Every case in each round, so that a slow minute is slow for all of them.
fn measure(arguments: &Arguments, stand: &Stand) -> Result<Vec<Case>> {
    let ways = |clients: &u16| [Way::Service, Way::Api].map(|way| (way, usize::from(*clients)));
    let cases: Vec<_> = arguments.clients.iter().flat_map(ways).collect();
    let mut rounds = vec![Vec::new(); cases.len()];
    // The first touches everything for the first time and does not count.
    round(stand, Way::Service, ATTACHES_MIN, stand.nics())?;
    for number in 1..=arguments.rounds {
        for ((way, clients), rounds) in cases.iter().zip(&mut rounds) {
            let count = (clients * ATTACHES_PER_CLIENT).max(ATTACHES_MIN);
            rounds.push(round(stand, *way, *clients, count.min(stand.nics()))?);
        }
        say(&format!("{number} of {} rounds", arguments.rounds));
    }
    let cases = cases.iter().zip(&rounds);
    cases
        .map(|((way, clients), rounds)| Case::of(*way, *clients, rounds))
        .collect()
}

/// hostd attaches, the engine commits the same; then both go back to where they were.
fn round(stand: &Stand, way: Way, clients: usize, count: usize) -> Result<Round> {
    let hostd = side(stand, || stand.attach(way, clients, count))?;
    let programs = stand.take_programs();
    let batches = programs.iter().map(Program::len).sum::<usize>();
    let engine = side(stand, || stand.replay(clients, programs))?;
    stand.detach(clients, count)?;
    stand.replay(clients, stand.take_programs())?;
    Ok(Round {
        hostd,
        engine,
        batches: u64::try_from(batches)?,
    })
}

/// Both journals' transactions are counted; only one of them works.
fn side(stand: &Stand, work: impl FnOnce() -> Result<Load>) -> Result<Side> {
    let (efforts, transactions) = (Efforts::of_this_process()?, stand.transactions());
    let load = work()?;
    Ok(Side {
        load,
        transactions: stand.transactions() - transactions,
        efforts: Efforts::of_this_process()?.since(&efforts),
    })
}

/// To standard error: standard output is for the table alone.
fn say(line: &str) {
    // A terminal that has gone away is no reason to stop measuring.
    writeln!(std::io::stderr().lock(), "{line}").ok();
}
