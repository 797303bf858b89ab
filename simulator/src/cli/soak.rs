//! `simulator soak` and `simulator replay`: random worlds, many of them or one.

use std::num::{NonZeroU64, NonZeroUsize};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use simulator::soak::{AfterBreach, Crowd, News, Run, Sum, command, running_seed};

use super::console::{complain, say};
use super::panic::before_the_end;

/// Runs one world for each seed.
#[derive(Debug, clap::Args)]
pub(crate) struct Soak {
    /// How many seeds
    #[arg(long, default_value = "1000")]
    seeds: NonZeroU64,
    /// The first of them
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// How many worlds at once
    #[arg(long, default_value = "2")]
    jobs: NonZeroUsize,
    /// Run the other seeds too when one has found something
    #[arg(long)]
    keep_going: bool,
}

/// Runs one world.
#[derive(Debug, clap::Args)]
pub(crate) struct Replay {
    /// Whose
    seed: u64,
    /// Look for the fewest steps that show the same
    #[arg(long)]
    shorten: bool,
}

impl Soak {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let end = self.from.checked_add(self.seeds.get());
        let end = end.with_context(|| format!("--from {}: so many seeds do not follow", self.from));
        before_the_end(|| running_seed().map(command));
        let crowd = Crowd {
            seeds: self.from..end?,
            threads: self.jobs,
            after_breach: match self.keep_going {
                true => AfterBreach::GoOn,
                false => AfterBreach::Stop,
            },
        };
        let began = Instant::now();
        let sum = crowd.run(|news| match news {
            News::Breach(report) => {
                if let Some(breach) = &report.breach {
                    let (seed, command) = (report.seed, report.command());
                    say(format_args!("seed {seed}: {breach}\n  {command}"));
                }
            }
            News::Progress(sum) => complain(line(&sum, began)),
        })?;
        say(line(&sum, began));
        Ok(match sum.breaches {
            0 => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        })
    }
}

impl Replay {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let report = Run::of_seed(self.seed).with_trace().go()?;
        let report = match self.shorten {
            true => Run::shorten(report)?,
            false => report,
        };
        say(&report);
        Ok(match report.breach {
            None => ExitCode::SUCCESS,
            Some(_) => ExitCode::FAILURE,
        })
    }
}

fn line(sum: &Sum, began: Instant) -> String {
    format!(
        "{} seeds, {} operations, {} troubles, {} lives of hostd, {:.0} h of virtual time, \
         {} violations, {:.0} s",
        sum.seeds,
        sum.operations,
        sum.troubles,
        sum.lives,
        sum.lasted.as_secs_f64() / 3600.0,
        sum.breaches,
        began.elapsed().as_secs_f64()
    )
}
