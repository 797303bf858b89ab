//! What came of a fleet, for people and for programs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::FleetPlan;
use super::shard::ShardReport;

/// What came of a fleet.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What all chance was drawn from.
    pub seed: u64,
    /// How many hosts there were.
    pub hosts: usize,
    /// How many VMs there were.
    pub vms: usize,
    /// Operations that were carried out, whatever came of them.
    pub ops: u64,
    /// Attaches among them.
    pub attaches: u64,
    /// Detaches among them.
    pub detaches: u64,
    /// Moves among them.
    pub moves: u64,
    /// Operations that were undone, with a reason.
    pub came_to_nothing: u64,
    /// Operations that were still under way when their operator had waited for long enough.
    pub under_way: u64,
    /// Operations that a hostd's end cut off.
    pub cut_off: u64,
    /// Requests that were never admitted, which are no operations.
    pub refused: u64,
    /// Operations that were to be carried out and that nobody came to begin: for so long did
    /// everything that was under way come to no end that the fleet was ended early.
    pub not_begun: u64,
    /// How often a hostd was killed.
    pub hostd_deaths: u64,
    /// How often a QEMU ended.
    pub qemu_deaths: u64,
    /// How often a host was looked at in passing.
    pub looks: u64,
    /// How often each rule took effect, by its name.
    pub rules: BTreeMap<String, u64>,
    /// How much was found to be wrong, in passing and in the end.
    pub violations: u64,
    /// The first of it, in words.
    pub violation_samples: Vec<String>,
    /// How much was left when everything had been given back.
    pub leaks: usize,
    /// The first of it, in words.
    pub leak_samples: Vec<String>,
    /// Hash of all shards' traces.
    pub trace_hash: String,
    /// How much the traces hold.
    pub trace_entries: u64,
    /// Virtual time that passed, in seconds, in the slowest shard.
    pub virtual_seconds: f64,
    /// Wall time of all of it, in seconds.
    pub wall_seconds: f64,
    /// Wall time until everything had come to rest, but for the set-up, in the slowest shard.
    pub operating_seconds: f64,
    /// Operations a second of [`Self::operating_seconds`].
    pub ops_per_s: f64,
    /// Most memory that was resident, in MiB.
    pub peak_rss_mib: f64,
}

/// All shards' reports.
pub(super) struct Shards(pub(super) Vec<ShardReport>);

/// Samples of one kind that are told.
const SAMPLES: usize = 20;

impl Report {
    pub(super) fn of(plan: &FleetPlan, shards: Shards, wall: Duration) -> Self {
        let Shards(shards) = shards;
        let sum = |count: fn(&ShardReport) -> u64| shards.iter().map(count).sum::<u64>();
        let slowest = |time: fn(&ShardReport) -> Duration| {
            shards
                .iter()
                .map(time)
                .max()
                .unwrap_or_default()
                .as_secs_f64()
        };
        let ops = sum(|shard| shard.tally.operations());
        let operating_seconds = slowest(|shard| shard.operating);
        let leaks: Vec<&String> = shards.iter().flat_map(|shard| &shard.leaks).collect();
        Self {
            seed: plan.seed,
            hosts: shards.iter().map(|shard| shard.hosts).sum(),
            vms: shards.iter().map(|shard| shard.vms).sum(),
            ops,
            attaches: sum(|shard| shard.tally.attaches),
            detaches: sum(|shard| shard.tally.detaches),
            moves: sum(|shard| shard.tally.moves),
            came_to_nothing: sum(|shard| shard.tally.came_to_nothing),
            under_way: sum(|shard| shard.tally.under_way),
            cut_off: sum(|shard| shard.tally.cut_off),
            refused: sum(|shard| shard.tally.refused),
            not_begun: sum(|shard| shard.not_begun),
            hostd_deaths: sum(|shard| shard.hostd_deaths),
            qemu_deaths: sum(|shard| shard.qemu_deaths),
            looks: sum(|shard| shard.looks),
            rules: rules_done(&shards),
            violations: sum(|shard| shard.violations.len() as u64),
            violation_samples: samples(shards.iter().flat_map(|shard| &shard.violations)),
            leaks: leaks.len(),
            leak_samples: samples(leaks.into_iter()),
            trace_hash: combined(&shards),
            trace_entries: sum(|shard| shard.trace_entries),
            virtual_seconds: slowest(|shard| shard.virtual_time),
            wall_seconds: wall.as_secs_f64(),
            operating_seconds,
            ops_per_s: ops as f64 / operating_seconds.max(f64::MIN_POSITIVE),
            peak_rss_mib: peak_rss_mib(),
        }
    }

    /// Whether all was done, nothing was wrong and nothing was left.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.violations == 0 && self.leaks == 0 && self.not_begun == 0
    }
}

fn rules_done(shards: &[ShardReport]) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for (name, done) in shards.iter().flat_map(|shard| &shard.rules) {
        *all.entry(name.clone()).or_default() += done;
    }
    all
}

fn samples<'a>(of: impl Iterator<Item = &'a String>) -> Vec<String> {
    of.take(SAMPLES).cloned().collect()
}

/// In the shards' order, whichever was done first.
fn combined(shards: &[ShardReport]) -> String {
    let mut hasher = Sha256::new();
    for shard in shards {
        hasher.update(shard.trace_hash);
    }
    let hash = hasher.finalize();
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `VmHWM` of `/proc/self/status` (proc(5)); 0 where there is none.
fn peak_rss_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kibibytes.unwrap_or_default() / 1024.0
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} VMs on {} hosts, seed {}",
            self.vms, self.hosts, self.seed
        )?;
        writeln!(
            f,
            "{} operations ({} attaches, {} detaches, {} moves) in {:.1} s: {:.0} a second",
            self.ops,
            self.attaches,
            self.detaches,
            self.moves,
            self.operating_seconds,
            self.ops_per_s
        )?;
        writeln!(
            f,
            "{} came to nothing, {} were left under way, {} cut off; {} requests refused",
            self.came_to_nothing, self.under_way, self.cut_off, self.refused
        )?;
        writeln!(
            f,
            "{} hostds and {} QEMUs died; {:.0} s passed; {:.0} MiB at most",
            self.hostd_deaths, self.qemu_deaths, self.virtual_seconds, self.peak_rss_mib
        )?;
        writeln!(
            f,
            "trace {} ({} entries)",
            self.trace_hash, self.trace_entries
        )?;
        for sample in self.violation_samples.iter().chain(&self.leak_samples) {
            writeln!(f, "  {sample}")?;
        }
        if self.not_begun > 0 {
            writeln!(
                f,
                "ended early: nothing came to an end any more, {} operations were never begun",
                self.not_begun
            )?;
        }
        write!(f, "{} violations, {} leaks", self.violations, self.leaks)
    }
}
