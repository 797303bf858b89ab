//! What has happened, in order: a hash that two runs of one seed share, and a log for people.
//!
//! Whatever crosses a boundary is noted: a line to a QEMU and back, a frame of an agent, a commit,
//! a change of a port, a fault, an answer. Two runs that differ anywhere differ in the hash.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use sha2::{Digest, Sha256};

/// Entries that a log keeps: the end is what explains a failure.
const LOG_MAX: usize = 20_000;
/// Characters of an entry that a log keeps.
const ENTRY_MAX: usize = 400;

/// Whether a trace keeps what it hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    /// Nothing, where no two runs are compared: a world in real time has no trace worth one.
    Nothing,
    /// Only the hash.
    Hash,
    /// The newest entries too.
    Log,
}

/// See the module.
#[derive(Debug)]
pub struct Trace {
    keeping: Keeping,
    hasher: Sha256,
    entries: u64,
    log: Option<VecDeque<Entry>>,
}

/// One thing that has happened.
#[derive(Debug, Clone)]
pub struct Entry {
    /// When, since the world began.
    pub at: Duration,
    /// To whom: a host, a VM.
    pub who: String,
    /// What it is: `qmp>`, `commit`, `port`.
    pub what: &'static str,
    /// The bytes, or what is left of them.
    pub text: String,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.at.as_secs_f64();
        write!(
            f,
            "{seconds:>10.3} {} {} {}",
            self.who, self.what, self.text
        )
    }
}

impl Trace {
    /// An empty one.
    #[must_use]
    pub fn new(keeping: Keeping) -> Self {
        Self {
            keeping,
            hasher: Sha256::new(),
            entries: 0,
            log: (keeping == Keeping::Log).then(VecDeque::new),
        }
    }

    /// Adds something. Each field is hashed with its length, so that no two traces read alike.
    pub fn note(&mut self, at: Duration, who: &str, what: &'static str, bytes: &[u8]) {
        if self.keeping == Keeping::Nothing {
            return;
        }
        let nanos = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
        self.hasher.update(nanos.to_le_bytes());
        for field in [who.as_bytes(), what.as_bytes(), bytes] {
            let length = u64::try_from(field.len()).unwrap_or(u64::MAX);
            self.hasher.update(length.to_le_bytes());
            self.hasher.update(field);
        }
        self.entries += 1;
        if let Some(log) = &mut self.log {
            if log.len() == LOG_MAX {
                log.pop_front();
            }
            let text = String::from_utf8_lossy(bytes);
            log.push_back(Entry {
                at,
                who: who.to_owned(),
                what,
                text: text.trim_end().chars().take(ENTRY_MAX).collect(),
            });
        }
    }

    /// The hash of everything so far.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        self.hasher.clone().finalize().into()
    }

    /// How many entries there have been.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// The newest entries, oldest first; none where only the hash is kept.
    pub fn log(&self) -> impl Iterator<Item = &Entry> {
        self.log.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash_of(entries: &[(&str, &'static str, &[u8])]) -> [u8; 32] {
        let mut trace = Trace::new(Keeping::Hash);
        for (who, what, bytes) in entries {
            trace.note(Duration::from_millis(1), who, what, bytes);
        }
        trace.hash()
    }

    #[test]
    fn what_differs_anywhere_has_another_hash() {
        let base = hash_of(&[("vm1", "qmp>", b"ab"), ("vm2", "qmp<", b"c")]);

        assert_eq!(
            base,
            hash_of(&[("vm1", "qmp>", b"ab"), ("vm2", "qmp<", b"c")])
        );
        assert_ne!(
            base,
            hash_of(&[("vm1", "qmp>", b"a"), ("vm2", "qmp<", b"bc")])
        );
        assert_ne!(
            base,
            hash_of(&[("vm2", "qmp<", b"c"), ("vm1", "qmp>", b"ab")])
        );
    }

    #[test]
    fn a_log_keeps_the_end() {
        let mut trace = Trace::new(Keeping::Log);
        for number in 0..=LOG_MAX {
            let text = number.to_string();
            trace.note(Duration::ZERO, "vm1", "qmp>", text.as_bytes());
        }

        let first = trace.log().next().map(|entry| entry.text.clone());
        assert_eq!(first.as_deref(), Some("1"));
        assert_eq!(trace.log().count(), LOG_MAX);
    }
}
