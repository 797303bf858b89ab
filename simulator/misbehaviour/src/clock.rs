//! A clock over another one: it can be frozen, stepped, slowed down and sped up.
//!
//! ```text
//!   simulated = base + (real - since) × speed          freeze: speed 0
//! ```
//!
//! It never goes back. Both times are durations since a beginning of their own.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::span::Span;

/// How many times as fast as the real clock; 0 is frozen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speed(f64);

/// A number that is no speed.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("speed: {0} is not between {MIN} and {MAX}, nor 0 (frozen)")]
pub struct SpeedError(f64);

/// The fastest: a day in under a minute and a half.
const MAX: f64 = 1000.0;
/// The slowest that is not frozen: as much slower than the real clock.
const MIN: f64 = 0.001;

impl Speed {
    /// As fast as the real clock.
    pub const REAL: Self = Self(1.0);
    /// Not at all.
    pub const FROZEN: Self = Self(0.0);

    /// So many times as fast as the real clock.
    ///
    /// # Errors
    /// When it is negative, no number, too fast, or too slow and not frozen.
    pub fn new(factor: f64) -> Result<Self, SpeedError> {
        if factor == 0.0 || (MIN..=MAX).contains(&factor) {
            Ok(Self(factor))
        } else {
            Err(SpeedError(factor))
        }
    }

    /// So many times as fast as the real clock.
    #[must_use]
    pub const fn factor(self) -> f64 {
        self.0
    }
}

/// What is to become of a clock.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClockOrder {
    /// It stands still.
    Freeze,
    /// It goes on as fast as the real one.
    Run,
    /// It goes so many times as fast as the real one.
    Speed(f64),
    /// It jumps ahead.
    Step(Span),
}

impl ClockOrder {
    /// The speed that is asked for, if one is.
    ///
    /// # Errors
    /// When it is none.
    pub fn speed(self) -> Result<Option<Speed>, SpeedError> {
        match self {
            Self::Freeze => Ok(Some(Speed::FROZEN)),
            Self::Run => Ok(Some(Speed::REAL)),
            Self::Speed(factor) => Speed::new(factor).map(Some),
            Self::Step(_) => Ok(None),
        }
    }
}

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clock {
    base: Duration,
    since: Duration,
    speed: Speed,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            base: Duration::ZERO,
            since: Duration::ZERO,
            speed: Speed::REAL,
        }
    }
}

impl Clock {
    /// The simulated time at a real one.
    #[must_use]
    pub fn now(&self, real: Duration) -> Duration {
        let passed = real.saturating_sub(self.since);
        let passed = match self.speed == Speed::REAL {
            // Most clocks are never touched, and then nothing has to be rounded.
            true => passed,
            false => passed.mul_f64(self.speed.0),
        };
        self.base.saturating_add(passed)
    }

    /// How fast it goes.
    #[must_use]
    pub const fn speed(&self) -> Speed {
        self.speed
    }

    /// Goes at another speed from now on.
    pub fn set_speed(&mut self, real: Duration, speed: Speed) {
        self.base = self.now(real);
        self.since = self.since.max(real);
        self.speed = speed;
    }

    /// Jumps ahead.
    pub fn step(&mut self, by: Duration) {
        self.base = self.base.saturating_add(by);
    }

    /// Does as it is told; a speed that is none has been refused before and changes nothing.
    pub fn obey(&mut self, real: Duration, order: ClockOrder) {
        match order.speed() {
            Ok(Some(speed)) => self.set_speed(real, speed),
            Ok(None) => {
                if let ClockOrder::Step(by) = order {
                    self.step(by.0);
                }
            }
            Err(SpeedError(_)) => {}
        }
    }

    /// How long it really takes until a simulated time; `None` when that never comes.
    #[must_use]
    pub fn real_until(&self, simulated: Duration, real: Duration) -> Option<Duration> {
        let left = simulated.saturating_sub(self.now(real));
        if left.is_zero() {
            return Some(Duration::ZERO);
        }
        if self.speed == Speed::REAL {
            return Some(left);
        }
        // Nor does what is further off than can be told, or than a clock that stands.
        Duration::try_from_secs_f64(left.as_secs_f64() / self.speed.0).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    #[test]
    fn a_frozen_clock_moves_by_steps_alone() {
        let mut clock = Clock::default();
        clock.set_speed(seconds(10), Speed::FROZEN);

        assert_eq!(clock.now(seconds(500)), seconds(10));
        assert_eq!(clock.real_until(seconds(11), seconds(500)), None);
        clock.step(seconds(5));
        assert_eq!(clock.now(seconds(900)), seconds(15));
        assert_eq!(
            clock.real_until(seconds(11), seconds(900)),
            Some(Duration::ZERO)
        );
    }

    #[test]
    fn a_faster_clock_takes_less_real_time() {
        let mut clock = Clock::default();
        clock.set_speed(seconds(10), Speed::new(10.0).unwrap());

        assert_eq!(clock.now(seconds(12)), seconds(30));
        assert_eq!(clock.real_until(seconds(50), seconds(12)), Some(seconds(2)));
    }

    #[test]
    fn no_speed_is_negative_or_endless_or_all_but_frozen() {
        for factor in [-1.0, f64::NAN, f64::INFINITY, 1001.0, 0.0009, 1e-300] {
            assert!(Speed::new(factor).is_err(), "{factor}");
        }
    }

    #[test]
    fn a_time_that_is_too_far_off_never_comes() {
        let mut clock = Clock::default();
        clock.set_speed(seconds(0), Speed::new(0.001).unwrap());

        assert_eq!(
            clock.real_until(seconds(1), seconds(0)),
            Some(seconds(1000))
        );
        assert_eq!(clock.real_until(Duration::MAX, seconds(0)), None);
    }

    #[test]
    fn a_clock_that_is_stepped_too_far_stays_at_its_end() {
        let mut clock = Clock::default();
        clock.step(Duration::MAX);

        assert_eq!(clock.now(seconds(1)), Duration::MAX);
    }

    proptest! {
        #[test]
        fn it_never_goes_back(
            changes in prop::collection::vec((0_u64..100, 0_u32..50, 0_u64..9), 1..20),
        ) {
            let mut clock = Clock::default();
            let (mut real, mut last) = (Duration::ZERO, Duration::ZERO);
            for (later, tenths, step) in changes {
                real += seconds(later);
                prop_assert!(clock.now(real) >= last);
                clock.set_speed(real, Speed::new(f64::from(tenths) / 10.0).unwrap());
                clock.step(seconds(step));
                prop_assert!(clock.now(real) >= last);
                last = clock.now(real);
            }
        }
    }
}
