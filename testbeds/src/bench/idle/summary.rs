//! What came of a measurement of idleness, as JSON and as a table.

use std::fmt::Write;

use anyhow::{Context, Result};
use serde::Serialize;

use super::{Memory, PortKind};
use crate::bench::percentiles::to_microseconds;
use crate::bench::{Computer, Effort, Goal};

/// Resident memory that hostd may take with all NICs in use, in MiB.
const MEMORY_GOAL_MIB: f64 = 64.0;
/// Share of one processor that it may take, in per cent.
const CPU_GOAL_PERCENT: f64 = 0.1;

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Setting {
    /// NICs when all are attached.
    pub nics: usize,
    /// VMs.
    pub vms: usize,
    /// What host ends of NICs are.
    pub ports: PortKind,
}

/// What hostd took while it was left alone.
#[derive(Debug, Clone, Copy)]
pub struct Idle {
    /// Its memory in the end.
    pub memory: Memory,
    /// How long it was left alone.
    pub seconds: f64,
    /// What its threads did meanwhile.
    pub spent: Effort,
}

/// One stage.
#[derive(Debug, Clone, Serialize)]
pub struct Stage {
    /// What hostd had to look after.
    pub what: &'static str,
    /// Its memory.
    #[serde(flatten)]
    pub memory: Memory,
    /// Processor time, in per cent of one processor.
    pub cpu_percent: f64,
    /// How often a thread of its gave up its processor to wait, a second.
    pub waits_per_s: f64,
    /// How long it was left alone.
    pub seconds: f64,
}

/// Everything that came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Of the last stage: resident memory, in MiB.
    pub rss_mib: f64,
    /// Of the last stage: processor time, in per cent of one processor.
    pub cpu_percent: f64,
    /// What was measured.
    #[serde(flatten)]
    pub setting: Setting,
    /// Every stage, in the order of their happening.
    pub stages: Vec<Stage>,
    /// What was to be reached.
    pub goals: Vec<Goal>,
    /// What it was measured on.
    pub machine: Computer,
    /// What a reader has to know.
    pub notes: Vec<String>,
}

impl Stage {
    /// Of what hostd took in it.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    pub fn of(what: &'static str, idle: &Idle) -> Self {
        Self {
            what,
            memory: idle.memory,
            cpu_percent: to_microseconds(100.0 * idle.spent.cpu.as_secs_f64() / idle.seconds),
            waits_per_s: to_microseconds(idle.spent.waits as f64 / idle.seconds),
            seconds: to_microseconds(idle.seconds),
        }
    }
}

impl Summary {
    /// Of all stages, the last of which counts.
    ///
    /// # Errors
    /// When there is none.
    pub fn of(setting: Setting, machine: Computer, stages: Vec<Stage>) -> Result<Self> {
        let last = stages.last().context("nothing was measured")?;
        let (rss_mib, cpu_percent) = (last.memory.rss_mib(), last.cpu_percent);
        Ok(Self {
            rss_mib,
            cpu_percent,
            goals: vec![
                Goal::at_most("rss_mib", MEMORY_GOAL_MIB, rss_mib),
                Goal::at_most("cpu_percent", CPU_GOAL_PERCENT, cpu_percent),
            ],
            notes: notes(),
            setting,
            stages,
            machine,
        })
    }

    /// As Markdown.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table = "| hostd with | RSS MiB | PSS MiB | anonymous MiB | CPU % of a core | \
                         waits/s | seconds |\n|---|---:|---:|---:|---:|---:|---:|\n"
            .to_owned();
        for stage in &self.stages {
            row(&mut table, stage);
        }
        for goal in &self.goals {
            // Writing to a String cannot fail.
            let _ = write!(table, "\n{goal}");
        }
        let Setting { nics, vms, ports } = &self.setting;
        let _ = write!(
            table,
            "\n\n{nics} NICs in {vms} VMs, ports {ports:?}, {}",
            self.machine
        );
        table
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "KiB of a process are far below 2^52"
)]
fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

fn row(table: &mut String, stage: &Stage) {
    let memory = &stage.memory;
    // Writing to a String cannot fail.
    let _ = writeln!(
        table,
        "| {} | {:.1} | {:.1} | {:.1} | {:.3} | {:.1} | {:.0} |",
        stage.what,
        memory.rss_mib(),
        mib(memory.pss_kib),
        mib(memory.anonymous_kib),
        stage.cpu_percent,
        stage.waits_per_s,
        stage.seconds
    );
}

fn notes() -> Vec<String> {
    [
        "hostd is the release build as a process of its own, with real ports in a network \
         namespace; QEMUs and guests with their agents are in another process, behind unix sockets",
        "processor time is what the scheduler has counted for all threads of hostd, in user space \
         and in the kernel; a wait is a voluntary context switch",
        "rss_mib and cpu_percent are those of the last stage, a hostd that was started over all \
         its NICs in use and left alone",
    ]
    .map(str::to_owned)
    .to_vec()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn stage(rss_kib: u64, cpu_ms: u64) -> Stage {
        let memory = Memory {
            rss_kib,
            pss_kib: rss_kib,
            anonymous_kib: rss_kib,
        };
        let spent = Effort {
            cpu: Duration::from_millis(cpu_ms),
            waits: 120,
        };
        let idle = Idle {
            memory,
            seconds: 60.0,
            spent,
        };
        Stage::of("every NIC", &idle)
    }

    fn summary(stages: Vec<Stage>) -> Result<Summary> {
        let setting = Setting {
            nics: 10,
            vms: 2,
            ports: PortKind::Bridge,
        };
        let machine = Computer {
            cpus: 2,
            kernel: String::new(),
            commit: String::new(),
            load_before: String::new(),
            load_after: String::new(),
        };
        Summary::of(setting, machine, stages)
    }

    #[test]
    fn goals_are_met_at_their_bounds_by_the_last_stage() {
        let (good, bad) = (stage(64 * 1024, 60), stage(64 * 1024 + 1, 61));

        let met = summary(vec![bad.clone(), good.clone()]).unwrap();
        let missed = summary(vec![good, bad]).unwrap();

        assert!(met.goals.iter().all(|goal| goal.met), "{:?}", met.goals);
        assert!(missed.goals.iter().all(|goal| !goal.met));
        assert!(summary(Vec::new()).is_err());
    }

    #[test]
    fn what_was_spent_is_told_per_second() {
        let summary = summary(vec![stage(1024, 60)]).unwrap();

        assert_eq!(summary.cpu_percent, 0.1);
        assert_eq!(summary.stages[0].waits_per_s, 2.0);
        let row = "| every NIC | 1.0 | 1.0 | 1.0 | 0.100 | 2.0 | 60 |";
        assert!(summary.table().contains(row), "{}", summary.table());
        let json = serde_json::to_value(&summary).unwrap();
        assert!(json["stages"][0]["rss_kib"].is_number(), "{json}");
    }
}
