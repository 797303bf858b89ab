//! What a run has found, for a program and for a person.

use std::fmt;
use std::time::Duration;

use super::step::Step;

/// Entries of the trace that a report shows.
const TRACE_SHOWN: usize = 120;

/// By what something was found to be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Caught {
    /// What must hold at every moment does not.
    Invariant,
    /// What must hold at rest did not in time, or not for long.
    InvariantAtRest,
    /// A client was told something else than the model says.
    Outcome,
    /// A client was told of a success that cannot be seen.
    UnseenSuccess,
    /// NICs are not where the model says, or not in time.
    Standing,
    /// It took too long.
    Bound,
    /// hostd does not start.
    Start,
}

impl fmt::Display for Caught {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Invariant => "an invariant of every moment",
            Self::InvariantAtRest => "an invariant at rest",
            Self::Outcome => "what the client was told",
            Self::UnseenSuccess => "a success that cannot be seen",
            Self::Standing => "where NICs are",
            Self::Bound => "how long it took",
            Self::Start => "hostd's start",
        })
    }
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breach {
    /// By what it was found.
    pub caught: Caught,
    /// What it is.
    pub sentences: Vec<String>,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "caught by {}:", self.caught)?;
        for sentence in &self.sentences {
            write!(f, "\n  {sentence}")?;
        }
        Ok(())
    }
}

/// What came of one run.
#[derive(Debug, Clone)]
pub struct Report {
    /// Whose.
    pub seed: u64,
    /// What was done.
    pub steps: Vec<Step>,
    /// Operations that were begun.
    pub operations: usize,
    /// Things that went wrong on purpose.
    pub troubles: usize,
    /// Lives of hostd.
    pub lives: u64,
    /// Virtual time.
    pub lasted: Duration,
    /// The trace's hash.
    pub hash: [u8; 32],
    /// What is wrong.
    pub breach: Option<Breach>,
    /// The trace's end, oldest first.
    pub trace: Vec<String>,
    /// The system at the end, as an operator would see it.
    pub system: Vec<String>,
}

impl Report {
    /// The command that repeats the run.
    #[must_use]
    pub fn command(&self) -> String {
        command(self.seed)
    }

    /// The trace's hash, for people.
    #[must_use]
    pub fn hash_text(&self) -> String {
        self.hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The command that repeats the run of a seed.
#[must_use]
pub fn command(seed: u64) -> String {
    format!("cargo xtask replay {seed}")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, step) in self.steps.iter().enumerate() {
            writeln!(f, "step {number}: {:?}", step.act)?;
            for trouble in &step.troubles {
                writeln!(f, "    with {trouble:?}")?;
            }
        }
        let hidden = self.trace.len().saturating_sub(TRACE_SHOWN);
        writeln!(f, "the trace, but for its first {hidden} entries:")?;
        for entry in &self.trace[hidden..] {
            writeln!(f, "  {entry}")?;
        }
        writeln!(f, "the system:")?;
        for line in &self.system {
            writeln!(f, "  {line}")?;
        }
        writeln!(f, "trace hash {}", self.hash_text())?;
        match &self.breach {
            None => write!(f, "seed {}: nothing is wrong", self.seed),
            Some(breach) => write!(f, "seed {}: {breach}\n{}", self.seed, self.command()),
        }
    }
}
