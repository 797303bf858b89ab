//! What came of a measurement of throughput: medians over the rounds, as JSON and as a table.

use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use super::stand::{AROUND, HOSTD, JOURNAL};
use super::{Load, Way};
use crate::bench::cpu::Efforts;
use crate::bench::percentiles::to_microseconds;
use crate::bench::{Computer, Goal, Percentiles};

/// Share of the bound that hostd is to reach.
const SHARE_GOAL: f64 = 0.8;

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Setting {
    /// VMs of the host.
    pub vms: usize,
    /// NICs of all of them.
    pub nics: usize,
    /// Rounds of each case.
    pub rounds: usize,
    /// Threads of hostd's runtime.
    pub hostd_threads: usize,
    /// What holds the journals.
    pub disk: String,
    /// Version of SQLite.
    pub sqlite: String,
}

/// One side of one round.
#[derive(Debug, Clone, Default)]
pub struct Side {
    /// What was done.
    pub load: Load,
    /// Transactions it took.
    pub transactions: u64,
    /// What the threads of this process computed meanwhile.
    pub efforts: Efforts,
}

/// One round: what hostd did, and what the engine did with the same batches.
#[derive(Debug, Clone, Default)]
pub struct Round {
    /// hostd's attaches.
    pub hostd: Side,
    /// The batches of those.
    pub engine: Side,
    /// Batches of all of them.
    pub batches: u64,
}

/// Processor time of one attach, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CpuPerAttach {
    /// Threads of hostd's runtime: its core, ports in memory, clients that ask past the API.
    pub hostd_us: f64,
    /// Thread of the journal.
    pub journal_us: f64,
    /// QEMUs, guests, agents, clients of the API.
    pub around_us: f64,
}

/// Figures of one round.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RoundFigures {
    /// Attaches of hostd in a second.
    pub attaches_per_s: f64,
    /// The same of the engine, which only commits them.
    pub bound_per_s: f64,
    /// The one by the other.
    pub share: f64,
    /// Batches that the engine committed in a second.
    pub engine_commits_per_s: f64,
    /// Batches a transaction, and so a sync: of hostd.
    pub hostd_group: f64,
    /// The same of the engine.
    pub engine_group: f64,
    /// Processors that were busy while hostd attached.
    pub hostd_cores: f64,
    /// The same while the engine committed.
    pub engine_cores: f64,
}

/// A number of clients that ask in one way.
#[derive(Debug, Clone, Serialize)]
pub struct Case {
    /// How they ask.
    pub way: Way,
    /// How many there are.
    pub clients: usize,
    /// Attaches of each round.
    pub n: usize,
    /// Batches that each attach waits for, one after the other.
    pub commits_per_attach: f64,
    /// Medians over the rounds.
    pub median: RoundFigures,
    /// Request → answer that the NIC is in use, in milliseconds, over all rounds.
    pub attach_ms: Percentiles,
    /// The commits of one attach alone, in milliseconds.
    pub commits_ms: Percentiles,
    /// Processor time of one attach.
    pub cpu: CpuPerAttach,
    /// Processor time of the commits of one attach alone: the engine's thread.
    pub engine_journal_us: f64,
    /// Each round.
    pub rounds: Vec<RoundFigures>,
}

/// Everything that came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Of the case that came nearest to the bound.
    pub attaches_per_s: f64,
    /// The engine's, in that case.
    pub bound_per_s: f64,
    /// The one by the other.
    pub share: f64,
    /// What was measured.
    #[serde(flatten)]
    pub setting: Setting,
    /// Every case.
    pub cases: Vec<Case>,
    /// What was to be reached.
    pub goals: Vec<Goal>,
    /// What it was measured on.
    pub machine: Computer,
    /// What a reader has to know.
    pub notes: Vec<String>,
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn ratio(count: u64, of: u64) -> f64 {
    count as f64 / of.max(1) as f64
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn per(total: Duration, count: usize) -> f64 {
    to_microseconds(total.as_secs_f64() * 1e6 / count.max(1) as f64)
}

impl Round {
    fn figures(&self) -> RoundFigures {
        let (hostd, engine) = (&self.hostd, &self.engine);
        let cores = |side: &Side| side.efforts.total().cpu.as_secs_f64() / side.load.seconds;
        let (attaches_per_s, bound_per_s) = (hostd.load.per_second(), engine.load.per_second());
        let commits = ratio(self.batches, engine.load.latencies.len() as u64);
        RoundFigures {
            attaches_per_s,
            bound_per_s,
            share: attaches_per_s / bound_per_s,
            engine_commits_per_s: bound_per_s * commits,
            hostd_group: ratio(self.batches, hostd.transactions),
            engine_group: ratio(self.batches, engine.transactions),
            hostd_cores: cores(hostd),
            engine_cores: cores(engine),
        }
    }
}

impl Case {
    /// Of its rounds.
    ///
    /// # Errors
    /// When there is none.
    pub fn of(way: Way, clients: usize, rounds: &[Round]) -> Result<Self> {
        let figures: Vec<_> = rounds.iter().map(Round::figures).collect();
        let latencies = |side: fn(&Round) -> &Side| {
            let all = rounds.iter().flat_map(|round| &side(round).load.latencies);
            Percentiles::of(&all.copied().collect::<Vec<_>>()).context("nothing was measured")
        };
        let n = rounds.iter().map(|round| round.hostd.load.latencies.len());
        let attaches: usize = n.clone().sum();
        let cpu = |side: fn(&Round) -> &Side, name: &str| {
            let spent = rounds.iter().map(|round| side(round).efforts.of(name).cpu);
            per(spent.sum(), attaches)
        };
        let hostd: fn(&Round) -> &Side = |round| &round.hostd;
        let engine: fn(&Round) -> &Side = |round| &round.engine;
        let batches = rounds.iter().map(|round| round.batches).sum();
        Ok(Self {
            way,
            clients,
            n: n.max().unwrap_or_default(),
            commits_per_attach: ratio(batches, attaches as u64),
            median: median(&figures),
            attach_ms: latencies(hostd)?,
            commits_ms: latencies(engine)?,
            cpu: CpuPerAttach {
                hostd_us: cpu(hostd, HOSTD),
                journal_us: cpu(hostd, JOURNAL),
                around_us: cpu(hostd, AROUND),
            },
            engine_journal_us: cpu(engine, JOURNAL),
            rounds: figures,
        })
    }
}

/// Each figure's own median.
fn median(rounds: &[RoundFigures]) -> RoundFigures {
    let of = |figure: fn(&RoundFigures) -> f64| {
        let figures: Vec<f64> = rounds.iter().map(figure).collect();
        Percentiles::of(&figures).map_or(0.0, |percentiles| percentiles.p50)
    };
    RoundFigures {
        attaches_per_s: of(|round| round.attaches_per_s),
        bound_per_s: of(|round| round.bound_per_s),
        share: of(|round| round.share),
        engine_commits_per_s: of(|round| round.engine_commits_per_s),
        hostd_group: of(|round| round.hostd_group),
        engine_group: of(|round| round.engine_group),
        hostd_cores: of(|round| round.hostd_cores),
        engine_cores: of(|round| round.engine_cores),
    }
}

impl Summary {
    /// Of all cases.
    ///
    /// # Errors
    /// When there is none.
    pub fn of(setting: Setting, machine: Computer, cases: Vec<Case>) -> Result<Self> {
        let by_share = |one: &&Case, other: &&Case| {
            let shares = (one.median.share, other.median.share);
            shares.0.total_cmp(&shares.1)
        };
        let best = cases
            .iter()
            .max_by(by_share)
            .context("no case was measured")?;
        let median = best.median;
        Ok(Self {
            attaches_per_s: median.attaches_per_s,
            bound_per_s: median.bound_per_s,
            share: median.share,
            goals: vec![Goal::at_least("share", SHARE_GOAL, median.share)],
            notes: notes(),
            setting,
            cases,
            machine,
        })
    }

    /// As Markdown.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table =
            "| clients | way | attaches/s | engine's bound/s | share | attach p50 ms | \
                         p99 ms | commits alone p50 ms | batches a sync | CPU µs an attach: \
                         hostd + journal + around | CPUs busy |\n\
                         |---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n"
                .to_owned();
        for case in &self.cases {
            row(&mut table, case);
        }
        let setting = &self.setting;
        for goal in &self.goals {
            // Writing to a String cannot fail.
            let _ = write!(table, "\n{goal}");
        }
        let _ = write!(
            table,
            "\n\n{} NICs in {} VMs, {} rounds, {} threads for hostd, SQLite {} in WAL/FULL on {}, \
             {}",
            setting.nics,
            setting.vms,
            setting.rounds,
            setting.hostd_threads,
            setting.sqlite,
            setting.disk,
            self.machine
        );
        table
    }
}

fn row(table: &mut String, case: &Case) {
    let way = match case.way {
        Way::Service => "service",
        Way::Api => "API",
    };
    let (median, cpu) = (&case.median, &case.cpu);
    // Writing to a String cannot fail.
    let _ = writeln!(
        table,
        "| {} | {way} | {:.0} | {:.0} | {:.2} | {:.1} | {:.1} | {:.1} | {:.1} | {:.0} + {:.0} + \
         {:.0} | {:.2} |",
        case.clients,
        median.attaches_per_s,
        median.bound_per_s,
        median.share,
        case.attach_ms.p50,
        case.attach_ms.p99,
        case.commits_ms.p50,
        median.hostd_group,
        cpu.hostd_us,
        cpu.journal_us,
        cpu.around_us,
        median.hostd_cores
    );
}

fn notes() -> Vec<String> {
    [
        "the bound is what the journal's engine commits a second, divided by the commits of one \
         attach: the same batches of the same NICs, each NIC's in order, by as many clients, right \
         after hostd's own round, with the same group commit and on the same disk",
        "attaches_per_s, bound_per_s and share are those of the case that came nearest to the \
         bound; a figure of a case is the median of its rounds",
        "QEMUs, guests with their agents and clients of the API compute on a thread of this very \
         process, and guests probe at once: what they take of the processors hostd cannot have, \
         and the engine's rounds are spared it",
    ]
    .map(str::to_owned)
    .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(count: usize, seconds: f64, transactions: u64) -> Side {
        Side {
            load: Load {
                latencies: vec![seconds; count],
                seconds,
            },
            transactions,
            efforts: Efforts::default(),
        }
    }

    fn round(seconds: f64) -> Round {
        Round {
            hostd: side(100, seconds, 50),
            engine: side(100, 1.0, 20),
            batches: 200,
        }
    }

    fn computer() -> Computer {
        Computer {
            cpus: 2,
            kernel: String::new(),
            commit: String::new(),
            load_before: String::new(),
            load_after: String::new(),
        }
    }

    fn setting() -> Setting {
        Setting {
            vms: 10,
            nics: 100,
            rounds: 3,
            hostd_threads: 1,
            disk: "ext4".to_owned(),
            sqlite: "3".to_owned(),
        }
    }

    #[test]
    fn the_bound_is_what_the_engine_does_with_the_same_batches() {
        let case = Case::of(Way::Service, 8, &[round(1.25)]).unwrap();

        let figures = case.median;
        assert_eq!((figures.attaches_per_s, figures.bound_per_s), (80.0, 100.0));
        assert_eq!((figures.share, case.commits_per_attach), (0.8, 2.0));
        assert_eq!(figures.engine_commits_per_s, 200.0);
        assert_eq!((figures.hostd_group, figures.engine_group), (4.0, 10.0));
    }

    #[test]
    fn a_figure_is_the_median_of_its_rounds() {
        let rounds = [round(2.0), round(1.25), round(1.6)];

        let case = Case::of(Way::Api, 8, &rounds).unwrap();

        assert_eq!(case.median.attaches_per_s, 62.5);
        assert_eq!((case.rounds.len(), case.n), (3, 100));
    }

    #[test]
    fn the_nearest_case_counts_and_meets_the_goal_at_its_bound() {
        let slow = Case::of(Way::Service, 1, &[round(2.0)]).unwrap();
        let fast = Case::of(Way::Service, 8, &[round(1.25)]).unwrap();

        let summary = Summary::of(setting(), computer(), vec![slow.clone(), fast]).unwrap();
        let missed = Summary::of(setting(), computer(), vec![slow]).unwrap();

        assert!(summary.goals[0].met && !missed.goals[0].met);
        let json = serde_json::to_value(&summary).unwrap();
        for name in ["attaches_per_s", "bound_per_s", "share"] {
            assert!(json[name].is_number(), "{name}");
        }
        assert!(
            summary
                .table()
                .contains("| 8 | service | 80 | 100 | 0.80 |")
        );
        assert!(Summary::of(setting(), computer(), Vec::new()).is_err());
    }
}
