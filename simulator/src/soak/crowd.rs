//! Many seeds on several threads, each world on one: what all of them found together.
//!
//! A world whose virtual time stands still would never end, so a seed that takes long by the wall's
//! clock is named and given up.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use super::report::Report;
use super::run::Run;
use crate::sim::MakeError;

/// A run takes some hundredths of a second; one that takes this long stands still.
const STANDSTILL: Duration = Duration::from_secs(120);
/// How often somebody hears how far it has come.
const PROGRESS: Duration = Duration::from_secs(2);

/// What is to be done with a seed that finds something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterBreach {
    /// No other is begun.
    Stop,
    /// The others are run all the same.
    GoOn,
}

/// Seeds, and how they are run.
#[derive(Debug, Clone)]
pub struct Crowd {
    /// Which.
    pub seeds: Range<u64>,
    /// On how many threads.
    pub threads: NonZeroUsize,
    /// What a finding leads to.
    pub after_breach: AfterBreach,
}

/// What all runs did together.
#[derive(Debug, Clone, Default)]
pub struct Sum {
    /// Seeds that were run.
    pub seeds: u64,
    /// Operations that were begun.
    pub operations: usize,
    /// Things that went wrong on purpose.
    pub troubles: usize,
    /// Lives of hostd.
    pub lives: u64,
    /// Virtual time.
    pub lasted: Duration,
    /// Runs that found something.
    pub breaches: u64,
}

/// What the one who waits hears of.
#[derive(Debug)]
pub enum News {
    /// A run has found something.
    Breach(Box<Report>),
    /// So much is done.
    Progress(Sum),
}

/// Why a crowd did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum CrowdError {
    /// A world could not be made.
    #[error("failed to make the world of seed {seed}")]
    Make {
        /// Whose.
        seed: u64,
        /// Why.
        #[source]
        cause: MakeError,
    },
    /// A world does not get on.
    #[error("seed {seed} has been running for {seconds} s: its virtual time stands still")]
    Standstill {
        /// Whose.
        seed: u64,
        /// For how long.
        seconds: u64,
    },
    /// A world has panicked.
    #[error("a thread has panicked; the seeds that were running: {0:?}")]
    Panicked(Vec<u64>),
}

thread_local! {
    static RUNNING: Cell<Option<u64>> = const { Cell::new(None) };
}

/// The seed whose world this thread of a crowd runs: where a panic aborts the program, its hook is
/// the last that can name it.
#[must_use]
pub fn running_seed() -> Option<u64> {
    RUNNING.get()
}

/// What is being run, and since when.
type Running = Arc<Mutex<BTreeMap<u64, Instant>>>;

impl Sum {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.operations += report.operations;
        self.troubles += report.troubles;
        self.lives += report.lives;
        self.lasted += report.lasted;
        self.breaches += u64::from(report.breach.is_some());
    }
}

impl Crowd {
    /// Runs all seeds, and tells the news.
    ///
    /// # Errors
    /// When a world cannot be made, stands still or panics.
    pub fn run(&self, mut tell: impl FnMut(News)) -> Result<Sum, CrowdError> {
        let next = Arc::new(AtomicU64::new(self.seeds.start));
        let running = Running::default();
        let (reports, received) = mpsc::channel();
        for _ in 0..self.threads.get() {
            let (next, running, reports) = (next.clone(), running.clone(), reports.clone());
            let end = self.seeds.end;
            std::thread::spawn(move || work(&next, end, &running, &reports));
        }
        drop(reports);
        let mut sum = Sum::default();
        let mut told = Instant::now();
        loop {
            match received.recv_timeout(PROGRESS) {
                Ok(report) => {
                    let report = report?;
                    sum.add(&report);
                    if report.breach.is_some() {
                        tell(News::Breach(Box::new(report)));
                        if self.after_breach == AfterBreach::Stop {
                            next.store(self.seeds.end, Ordering::Relaxed);
                        }
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
            gets_on(&running)?;
            if told.elapsed() >= PROGRESS {
                told = Instant::now();
                tell(News::Progress(sum.clone()));
            }
        }
        let left: Vec<u64> = lock(&running).keys().copied().collect();
        match left.is_empty() {
            true => Ok(sum),
            false => Err(CrowdError::Panicked(left)),
        }
    }
}

fn work(
    next: &AtomicU64,
    end: u64,
    running: &Running,
    reports: &mpsc::Sender<Result<Report, CrowdError>>,
) {
    let following = |seed: u64| (seed < end).then(|| seed + 1);
    while let Ok(seed) = next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, following) {
        lock(running).insert(seed, Instant::now());
        RUNNING.set(Some(seed));
        let report = Run::of_seed(seed).go();
        RUNNING.set(None);
        lock(running).remove(&seed);
        let report = report.map_err(|cause| CrowdError::Make { seed, cause });
        if reports.send(report).is_err() {
            return;
        }
    }
}

fn gets_on(running: &Running) -> Result<(), CrowdError> {
    let running = lock(running);
    let stuck = running
        .iter()
        .find(|(_, since)| since.elapsed() > STANDSTILL);
    match stuck {
        None => Ok(()),
        Some((seed, since)) => Err(CrowdError::Standstill {
            seed: *seed,
            seconds: since.elapsed().as_secs(),
        }),
    }
}

fn lock(running: &Running) -> std::sync::MutexGuard<'_, BTreeMap<u64, Instant>> {
    running
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn whoever_sees_a_world_panic_can_name_its_seed() {
        let (reports, _received) = mpsc::channel();
        let (next, running) = (AtomicU64::new(11), Running::default());
        let one = || work(&next, 12, &running, &reports);
        let runtime = tokio::runtime::Builder::new_current_thread().build();

        // A world panics within another runtime.
        let inside = async { catch_unwind(AssertUnwindSafe(one)) };
        let ended = runtime.expect("it needs nothing").block_on(inside);

        assert!(ended.is_err());
        assert_eq!(running_seed(), Some(11));
    }

    #[test]
    fn the_last_seeds_there_are_end_a_crowd() {
        let (reports, received) = mpsc::channel();
        let next = AtomicU64::new(u64::MAX - 1);

        // As two threads: the second finds nothing left.
        for _ in 0..2 {
            work(&next, u64::MAX, &Running::default(), &reports);
        }

        let seeds = received.try_iter().map(|report| report.map(|it| it.seed));
        let seeds: Vec<u64> = seeds.filter_map(Result::ok).collect();
        assert_eq!(seeds, [u64::MAX - 1]);
    }
}
