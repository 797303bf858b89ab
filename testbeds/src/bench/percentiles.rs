//! Percentiles as people read them in tables: each is a value that was really measured.

use serde::Serialize;

/// Half, nine tenths and all but a hundredth of the measured values are at most these.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    /// The median.
    pub p50: f64,
    /// Nine of ten values are at most this.
    pub p90: f64,
    /// 99 of 100 values are at most this.
    pub p99: f64,
}

impl Percentiles {
    /// By nearest rank: the smallest value that is not exceeded by more than the rest. None of no
    /// values at all.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100);
            sorted.get(rank.checked_sub(1)?).copied()
        };
        Some(Self {
            p50: to_microseconds(at(50)?),
            p90: to_microseconds(at(90)?),
            p99: to_microseconds(at(99)?),
        })
    }
}

/// Milliseconds with three decimals: more would be noise.
pub(super) fn to_microseconds(milliseconds: f64) -> f64 {
    (milliseconds * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_hundred_values_each_percentile_is_the_value_of_that_rank() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();

        let percentiles = Percentiles::of(&values).unwrap();

        assert_eq!((percentiles.p50, percentiles.p90), (50.0, 90.0));
        assert_eq!(percentiles.p99, 99.0);
    }

    #[test]
    fn of_few_values_the_high_percentiles_are_the_largest() {
        let percentiles = Percentiles::of(&[3.0, 1.0, 2.0]).unwrap();

        assert_eq!(
            percentiles,
            Percentiles {
                p50: 2.0,
                p90: 3.0,
                p99: 3.0
            }
        );
    }

    #[test]
    fn a_single_value_is_every_percentile() {
        let percentiles = Percentiles::of(&[7.25]).unwrap();

        assert_eq!((percentiles.p50, percentiles.p99), (7.25, 7.25));
    }

    #[test]
    fn no_values_have_no_percentiles() {
        assert_eq!(Percentiles::of(&[]), None);
    }

    #[test]
    fn negative_values_sort_below_positive_ones() {
        assert_eq!(Percentiles::of(&[0.5, -0.25, 1.0]).unwrap().p50, 0.5);
    }
}
