//! What one channel may cost: a token bucket over frames and one over bytes.

use std::time::Duration;

/// How much a guest may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiveLimits {
    /// Frames per second.
    pub frames_per_second: u32,
    /// Frames at once, after a quiet time.
    pub frames_burst: u32,
    /// Bytes per second.
    pub bytes_per_second: u32,
    /// Bytes at once, after a quiet time.
    pub bytes_burst: u32,
}

impl Default for ReceiveLimits {
    /// Eight NICs binding at once send some 40 reports of under 1 KiB; a whole Declare answered for
    /// 1,000 NICs still fits the burst.
    fn default() -> Self {
        Self {
            frames_per_second: 500,
            frames_burst: 2_000,
            bytes_per_second: 1 << 20,
            bytes_burst: 4 << 20,
        }
    }
}

/// Counts in billionths of a token, so that any two instants give the same whatever lies between.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    per_second: u32,
    burst: u32,
    nano_tokens: u128,
    filled_at: Duration,
}

const NANOS: u128 = 1_000_000_000;

impl TokenBucket {
    pub(crate) fn full(per_second: u32, burst: u32) -> Self {
        Self {
            per_second,
            burst,
            nano_tokens: u128::from(burst) * NANOS,
            filled_at: Duration::ZERO,
        }
    }

    /// Takes `tokens` if they are there; takes nothing otherwise.
    pub(crate) fn take(&mut self, tokens: usize, now: Duration) -> Verdict {
        self.fill(now);
        let cost = tokens as u128 * NANOS;
        if cost > self.nano_tokens {
            return Verdict::Exceeded;
        }
        self.nano_tokens -= cost;
        Verdict::Within
    }

    fn fill(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.filled_at);
        let gained = elapsed.as_nanos().saturating_mul(self.per_second.into());
        let capacity = u128::from(self.burst) * NANOS;
        self.nano_tokens = self.nano_tokens.saturating_add(gained).min(capacity);
        self.filled_at = self.filled_at.max(now);
    }
}

/// Whether something fitted its allowance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Within,
    Exceeded,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_spent_once_and_comes_back_with_time() {
        let mut bucket = TokenBucket::full(10, 5);

        assert_eq!(bucket.take(5, Duration::ZERO), Verdict::Within);
        assert_eq!(bucket.take(1, Duration::from_millis(99)), Verdict::Exceeded);
        assert_eq!(bucket.take(1, Duration::from_millis(100)), Verdict::Within);
        assert_eq!(bucket.take(6, Duration::from_secs(60)), Verdict::Exceeded);
        assert_eq!(bucket.take(5, Duration::from_secs(60)), Verdict::Within);
    }

    #[test]
    fn a_clock_that_steps_back_gives_nothing() {
        let mut bucket = TokenBucket::full(10, 1);
        bucket.take(1, Duration::from_secs(5));

        assert_eq!(bucket.take(1, Duration::from_secs(4)), Verdict::Exceeded);
        assert_eq!(bucket.take(1, Duration::from_secs(5)), Verdict::Exceeded);
    }
}
