//! How often hostd looks after what is at rest: with a few VMs often, with many so rarely that all
//! of them together cost next to nothing.
//!
//! Whatever happens is told by events; looking is for what was not told. A look at a VM and a Ping
//! cost hostd about 0.3 ms and 0.03 ms of a processor (measured), so a host that looked at each of
//! a thousand VMs twice a minute would spend a hundredth of a processor on nothing. What is not at
//! rest is not spared anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use agent_protocol::PING_INTERVAL;

/// How often a VM is looked at even if nobody said that anything changed, where there are few: what
/// a lost event costs at most. Its taps are looked for in a listing that may be half as old.
pub const FULL_LOOK: Duration = Duration::from_secs(30);
/// The same where there are very many.
const FULL_LOOK_MAX: Duration = Duration::from_secs(900);
/// Pause between two looks at VMs, whichever: a two-thousandth of a processor is spent on them.
const BETWEEN_LOOKS: Duration = Duration::from_millis(700);
/// Longest pause between two rounds of the janitor, each of which lists all ports: for each VM, and
/// where there are few and where there are very many.
const BETWEEN_ROUNDS: Duration = Duration::from_millis(240);
const ROUND: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(300));

/// Longest pause between two Pings of one agent.
const PING_MAX: Duration = Duration::from_secs(60);
/// Pause between two Pings, whoever gets them.
const BETWEEN_PINGS: Duration = Duration::from_millis(50);

/// How often a host of so many VMs looks after each. Clones are of the same host.
#[derive(Debug, Clone, Default)]
pub struct Pace(Arc<AtomicU32>);

impl Pace {
    /// There are so many VMs now.
    pub fn set_vms(&self, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.0.store(count, Ordering::Relaxed);
    }

    /// Between two looks at one VM at rest.
    #[must_use]
    pub fn full_look(&self) -> Duration {
        self.among_all(BETWEEN_LOOKS)
            .clamp(FULL_LOOK, FULL_LOOK_MAX)
    }

    /// Between two rounds of the janitor, at most.
    #[must_use]
    pub fn round(&self) -> Duration {
        self.among_all(BETWEEN_ROUNDS).clamp(ROUND.0, ROUND.1)
    }

    /// Between two Pings of one agent that nothing is asked of.
    #[must_use]
    pub fn ping(&self) -> Duration {
        self.among_all(BETWEEN_PINGS).clamp(PING_INTERVAL, PING_MAX)
    }

    fn among_all(&self, between: Duration) -> Duration {
        between.saturating_mul(self.0.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(vms: usize) -> (Duration, Duration, Duration) {
        let pace = Pace::default();
        pace.set_vms(vms);
        (pace.full_look(), pace.round(), pace.ping())
    }

    #[test]
    fn a_few_vms_are_looked_after_often_and_many_rarely() {
        let seconds = Duration::from_secs;

        assert_eq!(of(0), (seconds(30), seconds(60), seconds(2)));
        assert_eq!(of(40), (seconds(30), seconds(60), seconds(2)));
        assert_eq!(of(400), (seconds(280), seconds(96), seconds(20)));
        assert_eq!(of(1_000_000), (seconds(900), seconds(300), seconds(60)));
    }
}
