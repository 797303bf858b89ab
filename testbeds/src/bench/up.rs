//! How long a cloud on a laptop takes until it can be used, beside its floor.
//!
//! ```text
//!   one round    cloud: simulator up ─► said to be ready ─► its end
//!                floor: unshare ─► as many processes ─► all of them over
//!   … × rounds ─► percentiles ─► goal met or not ─► JSON, table
//! ```
//!
//! Ready means that hostd answers, is in touch with every VM's hypervisor, and has a session with
//! every agent: the next request is an attach that works. The floor makes namespaces and starts
//! processes that do nothing, as many as the cloud has.

use std::fmt::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::{Computer, Goal, Percentiles, milliseconds};

/// Milliseconds until three VMs can be used, at the median.
const GOAL_MS: f64 = 300.0;
/// Longer than the cloud itself waits before it gives up.
const DEADLINE: Duration = Duration::from_secs(60);

/// What one round took, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    /// From the start of the command to the line that says what runs.
    pub ready_ms: f64,
    /// The same number of processes that do nothing, in namespaces of their own.
    pub floor_ms: f64,
}

/// Everything that came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Rounds.
    pub n: usize,
    /// VMs of the cloud.
    pub vms: u16,
    /// Command → ready.
    pub ready_ms: Percentiles,
    /// Namespaces and processes alone.
    pub floor_ms: Percentiles,
    /// How many times the floor it is, median by median.
    pub ratio: f64,
    /// What was to be reached.
    pub goals: Vec<Goal>,
    /// What it was measured on.
    pub machine: Computer,
}

/// Does one round with the `simulator` of a directory in which its other programs are too.
///
/// # Errors
/// When the cloud does not come up, or does not end.
pub async fn round(simulator: &Path, vms: u16) -> Result<Round> {
    Ok(Round {
        ready_ms: milliseconds(ready(simulator, vms).await?),
        floor_ms: milliseconds(floor(vms).await?),
    })
}

async fn ready(simulator: &Path, vms: u16) -> Result<Duration> {
    let began = Instant::now();
    let mut cloud = Command::new(simulator)
        .args(["up", "--name", "bench", "--json", "--tied", "--vms"])
        .arg(vms.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {}", simulator.display()))?;
    let stdout = cloud.stdout.take().context("it has a standard output")?;
    let mut line = String::new();
    timeout(DEADLINE, BufReader::new(stdout).read_line(&mut line))
        .await
        .context("waiting until the cloud is ready")??;
    let took = began.elapsed();
    ensure!(!line.is_empty(), "the cloud does not come up");
    drop(cloud.stdin.take());
    end(&mut cloud).await?;
    Ok(took)
}

/// hostd, the cloud's own, and for each VM its hardware and its agent.
async fn floor(vms: u16) -> Result<Duration> {
    let processes = 2 + 2 * vms;
    let script = "for number in $(seq $0); do /bin/true & done; wait";
    let began = Instant::now();
    let mut processes = Command::new("unshare")
        .args([
            "--user",
            "--map-root-user",
            "--net",
            "--mount",
            "--pid",
            "--fork",
        ])
        .args(["sh", "-c", script, &processes.to_string()])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("starting unshare")?;
    end(&mut processes).await?;
    Ok(began.elapsed())
}

async fn end(process: &mut Child) -> Result<()> {
    let status = timeout(DEADLINE, process.wait())
        .await
        .context("waiting for the end")??;
    ensure!(status.success(), "it has ended badly: {status}");
    Ok(())
}

impl Summary {
    /// Of all rounds.
    ///
    /// # Errors
    /// When there is none.
    pub fn of(vms: u16, machine: Computer, rounds: &[Round]) -> Result<Self> {
        let of = |pick: fn(&Round) -> f64| {
            let values: Vec<f64> = rounds.iter().map(pick).collect();
            Percentiles::of(&values).context("nothing was measured")
        };
        let ready_ms = of(|round| round.ready_ms)?;
        let floor_ms = of(|round| round.floor_ms)?;
        Ok(Self {
            n: rounds.len(),
            vms,
            ready_ms,
            floor_ms,
            ratio: ready_ms.p50 / floor_ms.p50,
            goals: vec![Goal::at_most("ready_ms", GOAL_MS, ready_ms.p50)],
            machine,
        })
    }

    /// As Markdown.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table = "| ms | p50 | p90 | p99 |\n|---|---:|---:|---:|\n".to_owned();
        for (what, times) in [("ready", self.ready_ms), ("floor", self.floor_ms)] {
            let Percentiles { p50, p90, p99 } = times;
            // Writing to a String cannot fail.
            let _ = writeln!(table, "| {what} | {p50:.1} | {p90:.1} | {p99:.1} |");
        }
        for goal in &self.goals {
            let _ = write!(table, "\n{goal}");
        }
        let Self { n, vms, ratio, .. } = self;
        let _ = write!(
            table,
            "\n\n{vms} VMs, {n} rounds, {ratio:.1} times the floor, {}",
            self.machine
        );
        table
    }
}
