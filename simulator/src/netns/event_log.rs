//! What has happened in a cloud, for people: the latest of it, numbered.

use std::collections::VecDeque;
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// How many are kept.
const KEPT: usize = 1000;

/// Something that has happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counted from 1.
    pub number: u64,
    /// Since the cloud began, in milliseconds.
    pub at_ms: u64,
    /// What.
    pub text: String,
}

/// The latest events. Clones are the same log.
#[derive(Debug, Clone)]
pub(super) struct EventLog {
    began: Instant,
    kept: Arc<Mutex<VecDeque<Event>>>,
}

impl Default for EventLog {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            kept: Arc::default(),
        }
    }
}

impl EventLog {
    /// Adds one, here and to this process's own log.
    pub(super) fn note(&self, text: impl Display) {
        let text = text.to_string();
        tracing::info!("{text}");
        let at_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut kept = self.lock();
        let number = kept.back().map_or(1, |last| last.number + 1);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(Event {
            number,
            at_ms,
            text,
        });
    }

    /// Those after the one with this number.
    pub(super) fn after(&self, number: u64) -> Vec<Event> {
        let kept = self.lock();
        let later = kept.iter().filter(|event| event.number > number);
        later.cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_kept_and_keep_their_numbers() {
        let log = EventLog::default();
        for number in 1..=KEPT + 2 {
            log.note(number);
        }

        let after = log.after(u64::try_from(KEPT).unwrap());

        let texts: Vec<_> = after.iter().map(|event| event.text.as_str()).collect();
        assert_eq!(texts, ["1001", "1002"]);
        assert_eq!(log.after(0).len(), KEPT);
    }
}
