//! Chance from a seed.
//!
//! `SplitMix64` (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014): eight
//! bytes of state, the same numbers on every machine and in every version, which a library's
//! default generator does not promise.

/// A source of numbers that its seed determines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chance {
    state: u64,
}

impl Chance {
    /// The source of this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// A source of its own for a part of the whole, so that what one part draws does not change
    /// what another gets.
    #[must_use]
    pub fn fork(&self, part: &str) -> Self {
        let mix = |state: u64, byte: u8| Self::new(state ^ u64::from(byte)).next_u64();
        Self::new(part.bytes().fold(self.state, mix))
    }

    /// The next number, any as likely as any other.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 when there is none.
    pub fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.next_u64()) * u128::from(bound);
        // The upper half of a product with a 64-bit factor fits.
        u64::try_from(wide >> 64).unwrap_or(0)
    }

    /// Whether something of this probability happens now.
    pub fn happens(&mut self, probability: f64) -> bool {
        // 53 bits are what an f64 holds exactly.
        let draw = (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        draw < probability
    }

    /// One of `items`; `None` when there is none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        let index = self.below(items.len().try_into().unwrap_or(u64::MAX));
        items.get(usize::try_from(index).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_paper() {
        let mut chance = Chance::new(1_234_567);

        let drawn = [chance.next_u64(), chance.next_u64(), chance.next_u64()];

        assert_eq!(
            drawn,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }

    #[test]
    fn parts_do_not_disturb_each_other() {
        let seed = Chance::new(7);
        let mut first = seed.fork("vm1");
        let mut again = seed.fork("vm1");
        let mut other = seed.fork("vm2");

        assert_eq!(first.next_u64(), again.next_u64());
        assert_ne!(first.next_u64(), other.next_u64());
    }

    #[test]
    fn what_is_never_or_always_is_so() {
        let mut chance = Chance::new(3);
        for _ in 0..1000 {
            assert!(!chance.happens(0.0));
            assert!(chance.happens(1.0));
            assert_eq!(chance.below(1), 0);
        }
        assert_eq!(chance.below(0), 0);
        assert_eq!(chance.pick::<u8>(&[]), None);
    }
}
