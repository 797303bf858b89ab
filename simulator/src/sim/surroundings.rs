//! Clock and randomness for a hostd in a simulated world.

use std::sync::Mutex;

use hostd::surroundings::{Entropy, WallClock};
use misbehaviour::Chance;

use super::stage::{Stage, lock};

/// When every world begins, in milliseconds since the Unix epoch: 2026-01-01T00:00:00Z.
pub(crate) const EPOCH_MS: u64 = 1_767_225_600_000;

/// A clock that shows the time since the world began, unless somebody has set it.
#[derive(Debug)]
pub(crate) struct WorldClock(pub(crate) Stage);

impl WallClock for WorldClock {
    fn unix_ms(&self) -> u64 {
        let passed = u64::try_from(self.0.now().as_millis()).unwrap_or(u64::MAX);
        EPOCH_MS
            .saturating_add(passed)
            .saturating_add_signed(self.0.ahead_ms())
    }
}

/// Randomness that the seed determines.
#[derive(Debug)]
pub(crate) struct SeededEntropy(pub(crate) Mutex<Chance>);

impl Entropy for SeededEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        let mut chance = lock(&self.0);
        for part in bytes.chunks_mut(8) {
            let drawn = chance.next_u64().to_le_bytes();
            part.copy_from_slice(&drawn[..part.len()]);
        }
    }
}
