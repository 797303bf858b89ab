//! Places of one kind, divided so that no user alone takes them from the others.
//!
//! Whoever already holds as many places as are left free gets no more: the greediest gets half of
//! them, the next half of the rest. (Dynamic thresholds: Choudhury and Hahne, IEEE/ACM Transactions
//! on Networking 6(2), 1998.) Somebody who holds none is served while a single place is free. That
//! is no promise: each greedy user halves what is free, so a dozen of them together can hold 2048
//! places, and a newcomer waits then until one is given back.

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

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoPlace {
    /// The user holds as many as are left for others.
    ShareUsedUp,
    /// Others hold every one.
    AllTaken,
}

impl Shares {
    pub(super) fn new(places: usize) -> Arc<Self> {
        Arc::new(Self {
            places,
            held: Mutex::default(),
        })
    }

    /// A place for `uid`, unless that would leave too few for others, or there is none.
    pub(super) fn take(self: &Arc<Self>, uid: u32) -> Result<Share, NoPlace> {
        let mut held = self.lock();
        let free = self.places.saturating_sub(held.values().sum());
        let own = held.get(&uid).copied().unwrap_or(0);
        if own >= free {
            return Err(match own {
                0 => NoPlace::AllTaken,
                _ => NoPlace::ShareUsedUp,
            });
        }
        held.insert(uid, own + 1);
        Ok(Share {
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
        std::iter::from_fn(|| shares.take(uid).ok()).collect()
    }

    #[test]
    fn the_greediest_gets_half_and_the_next_one_half_of_the_rest() {
        let shares = Shares::new(64);

        let first = take_all(&shares, 1);
        let second = take_all(&shares, 2);
        let third = shares.take(3);

        assert_eq!((first.len(), second.len()), (32, 16));
        assert!(third.is_ok());
        assert_eq!(shares.taken(), 49);
    }

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let shares = Shares::new(8);
        let mut held = take_all(&shares, 1);

        held.pop();

        assert!(shares.take(1).is_ok());
        drop(held);
        assert_eq!(shares.taken(), 0);
    }

    #[test]
    fn a_newcomer_after_many_greedy_users_is_not_told_to_be_one_of_them() {
        let shares = Shares::new(8);
        let greedy = [1, 2, 3, 4].map(|uid| take_all(&shares, uid));

        assert_eq!(greedy.each_ref().map(Vec::len), [4, 2, 1, 1]);
        assert_eq!(shares.take(5).unwrap_err(), NoPlace::AllTaken);
        assert_eq!(shares.take(1).unwrap_err(), NoPlace::ShareUsedUp);
    }
}
