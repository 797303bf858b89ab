//! What everything in one simulated world shares: its time, its chance, its rules, its trace.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use misbehaviour::{Chance, Effect, Occasion, Rulebook};
use nic_model::{NicId, VmId};
use tokio::time::Instant;

use super::trace::{Keeping, Trace};

/// See the module. Clones are of the same world.
#[derive(Debug, Clone)]
pub struct Stage {
    origin: Instant,
    seed: u64,
    trace: Arc<Mutex<Trace>>,
    rules: Arc<Mutex<Rulebook>>,
    /// By how many milliseconds people's clocks are ahead.
    ahead_ms: Arc<AtomicI64>,
}

impl Stage {
    /// A world that begins now.
    #[must_use]
    pub fn new(seed: u64, rules: Rulebook, keeping: Keeping) -> Self {
        Self {
            origin: Instant::now(),
            seed,
            trace: Arc::new(Mutex::new(Trace::new(keeping))),
            rules: Arc::new(Mutex::new(rules)),
            ahead_ms: Arc::default(),
        }
    }

    /// Time since the world began.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// Sets the clocks that people read forward, or back; what waits for time to pass does not
    /// notice.
    pub fn jump_clock(&self, seconds: i64) {
        let jump_ms = seconds.saturating_mul(1000);
        self.ahead_ms.fetch_add(jump_ms, Ordering::Relaxed);
    }

    /// By how many milliseconds the clocks that people read are ahead.
    #[must_use]
    pub fn ahead_ms(&self) -> i64 {
        self.ahead_ms.load(Ordering::Relaxed)
    }

    /// Chance for one part of the world, which other parts do not disturb.
    #[must_use]
    pub fn chance(&self, part: &str) -> Chance {
        Chance::new(self.seed).fork(part)
    }

    /// Notes that something has happened.
    pub fn note(&self, who: &str, what: &'static str, bytes: &[u8]) {
        lock(&self.trace).note(self.now(), who, what, bytes);
    }

    /// The trace so far.
    pub fn trace(&self) -> MutexGuard<'_, Trace> {
        lock(&self.trace)
    }

    /// The rules in force.
    pub fn rules(&self) -> MutexGuard<'_, Rulebook> {
        lock(&self.rules)
    }

    /// The same rules, for parts that ask for themselves.
    #[must_use]
    pub fn shared_rules(&self) -> Arc<Mutex<Rulebook>> {
        Arc::clone(&self.rules)
    }

    /// What is to happen instead of an operation's simply being done.
    #[must_use]
    pub fn consult(
        &self,
        operation: &str,
        vm: Option<&VmId>,
        nic: Option<&NicId>,
    ) -> Option<Effect> {
        let mut rules = self.rules();
        if rules.is_empty() {
            return None;
        }
        let effect = rules.consult(&Occasion { operation, vm, nic })?;
        drop(rules);
        self.note(operation, "fault", effect.kind().name().as_bytes());
        Some(effect)
    }
}

/// One thread runs the whole world; a panic while a lock was held has already been reported.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
