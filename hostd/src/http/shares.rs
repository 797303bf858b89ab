//! Places of one kind, divided so that nobody ever takes the last one.
//!
//! Whoever already holds as many places as are left free gets no more: the greediest gets half of
//! them, the next half of the rest, and somebody who holds none is always served. (Dynamic
//! thresholds: Choudhury and Hahne, IEEE/ACM Transactions on Networking 6(2), 1998.)

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The places, and who holds how many of them, by user id.
#[derive(Debug)]
pub(super) struct Shares {
    places: usize,
    held: Mutex<BTreeMap<u32, usize>>,
}

/// One place, held for as long as the value lives.
#[derive(Debug)]
pub(super) struct Share {
    shares: Arc<Shares>,
    uid: u32,
}

impl Shares {
    pub(super) fn new(places: usize) -> Arc<Self> {
        Arc::new(Self {
            places,
            held: Mutex::default(),
        })
    }

    /// A place for `uid`, unless that would leave too few for others.
    pub(super) fn take(self: &Arc<Self>, uid: u32) -> Option<Share> {
        let mut held = self.lock();
        let free = self.places.saturating_sub(held.values().sum());
        let own = held.get(&uid).copied().unwrap_or(0);
        if own >= free {
            return None;
        }
        held.insert(uid, own + 1);
        Some(Share {
            shares: Arc::clone(self),
            uid,
        })
    }

    /// How many places are held, by anybody.
    pub(super) fn taken(&self) -> usize {
        self.lock().values().sum()
    }

    /// A panic while the lock was held has already been reported; the data is plain numbers.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.shares.lock();
        if let Some(own) = held.get_mut(&self.uid) {
            *own -= 1;
            if *own == 0 {
                held.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_all(shares: &Arc<Shares>, uid: u32) -> Vec<Share> {
        std::iter::from_fn(|| shares.take(uid)).collect()
    }

    #[test]
    fn the_greediest_gets_half_and_the_next_one_half_of_the_rest() {
        let shares = Shares::new(64);

        let first = take_all(&shares, 1);
        let second = take_all(&shares, 2);
        let third = shares.take(3);

        assert_eq!((first.len(), second.len()), (32, 16));
        assert!(third.is_some());
        assert_eq!(shares.taken(), 49);
    }

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let shares = Shares::new(8);
        let mut held = take_all(&shares, 1);

        held.pop();

        assert!(shares.take(1).is_some());
        drop(held);
        assert_eq!(shares.taken(), 0);
    }
}
