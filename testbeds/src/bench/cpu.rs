//! What the threads of a process have computed: measured by the scheduler to the nanosecond, where
//! `utime` and `stime` count ticks of ten milliseconds.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

/// What a group of threads has computed and how often it was woken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Effort {
    /// Time on a processor, in user space and in the kernel.
    pub cpu: Duration,
    /// Times it gave up its processor to wait for something.
    pub waits: u64,
}

/// Efforts of a process's threads, those of one name taken together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Efforts(BTreeMap<String, Effort>);

impl Efforts {
    /// Those of this process until now.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn of_this_process() -> Result<Self> {
        Self::under(Path::new("/proc/self/task"))
    }

    /// Those of another process until now.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of_process(pid: u32) -> Result<Self> {
        Self::under(Path::new(&format!("/proc/{pid}/task")))
    }

    fn under(tasks: &Path) -> Result<Self> {
        let mut efforts = BTreeMap::<String, Effort>::new();
        let listed = fs::read_dir(tasks).with_context(|| format!("reading {}", tasks.display()))?;
        for task in listed {
            // A thread that ends while it is looked at has nothing more to tell.
            if let Some((name, effort)) = of_thread(&task?.path()) {
                let sum = efforts.entry(name).or_default();
                sum.cpu += effort.cpu;
                sum.waits += effort.waits;
            }
        }
        Ok(Self(efforts))
    }

    /// What has been added since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let added = self.0.iter().map(|(name, now)| {
            let then = before.of(name);
            let effort = Effort {
                cpu: now.cpu.saturating_sub(then.cpu),
                waits: now.waits.saturating_sub(then.waits),
            };
            (name.clone(), effort)
        });
        Self(added.collect())
    }

    /// Those of the threads called `name`.
    #[must_use]
    pub fn of(&self, name: &str) -> Effort {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// All of them together.
    #[must_use]
    pub fn total(&self) -> Effort {
        self.0
            .values()
            .fold(Effort::default(), |sum, effort| Effort {
                cpu: sum.cpu + effort.cpu,
                waits: sum.waits + effort.waits,
            })
    }
}

fn of_thread(task: &Path) -> Option<(String, Effort)> {
    let text = |file: &str| fs::read_to_string(task.join(file)).ok();
    let effort = Effort {
        cpu: cpu_in(&text("schedstat")?)?,
        waits: waits_in(&text("status")?)?,
    };
    Some((text("comm")?.trim().to_owned(), effort))
}

/// `schedstat`: time on the processor, time in the queue, both in nanoseconds, and time slices.
fn cpu_in(schedstat: &str) -> Option<Duration> {
    let nanoseconds = schedstat.split(' ').next()?.parse().ok()?;
    Some(Duration::from_nanos(nanoseconds))
}

fn waits_in(status: &str) -> Option<u64> {
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_tells_its_time_and_its_waits() {
        assert_eq!(cpu_in("1500000 77 3\n"), Some(Duration::from_micros(1_500)));
        let status = "Name:\tx\nvoluntary_ctxt_switches:\t42\nnonvoluntary_ctxt_switches:\t7\n";
        assert_eq!(waits_in(status), Some(42));
    }

    #[test]
    fn what_a_thread_computes_is_counted_under_its_name() {
        let before = Efforts::of_this_process().unwrap();
        let computing = std::thread::Builder::new().name("computes".to_owned());
        let (told, tell) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();

        let thread = computing.spawn(move || {
            let sum: u64 = (0..2_000_000_u64).map(std::hint::black_box).sum();
            told.send(sum).unwrap();
            ended.recv().unwrap_err();
        });
        tell.recv().unwrap();
        let spent = Efforts::of_this_process().unwrap().since(&before);
        drop(end);
        thread.unwrap().join().unwrap();

        assert!(spent.of("computes").cpu > Duration::ZERO);
        assert!(spent.total().cpu >= spent.of("computes").cpu);
        assert_eq!(spent.of("no such thread"), Effort::default());
    }
}
