//! A value that many may follow, woken in the order in which they came.
//!
//! tokio's own `watch` spreads its waiters by chance, so that which of two is woken first differs
//! from run to run. Where there may be more than one, a run could not be repeated from its seed;
//! where there is one at most, tokio's does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The value, with the right to change it. Dropping it tells the followers.
#[derive(Debug)]
pub struct Watched<T>(Arc<Shared<T>>);

/// Somebody who follows it.
#[derive(Debug)]
pub struct Follower<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

/// There is nobody who could change the value any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nobody changes the value any more")]
pub struct Abandoned;

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Notify,
}

#[derive(Debug)]
struct State<T> {
    value: T,
    version: u64,
    owner: Owner,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Present,
    Gone,
}

impl<T> Shared<T> {
    /// A panic while the lock was held has already been reported; the data is plain values.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Default> Default for Watched<T> {
    fn default() -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State {
                value: T::default(),
                version: 0,
                owner: Owner::Present,
            }),
            changed: Notify::new(),
        }))
    }
}

impl<T> Drop for Watched<T> {
    fn drop(&mut self) {
        self.0.lock().owner = Owner::Gone;
        self.0.changed.notify_waiters();
    }
}

impl<T> Watched<T> {
    /// A new follower, who has seen the value as it is now.
    #[must_use]
    pub fn follow(&self) -> Follower<T> {
        Follower {
            shared: Arc::clone(&self.0),
            seen: self.0.lock().version,
        }
    }

    /// Changes the value and wakes everybody who follows it.
    pub fn modify<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let changed = {
            let mut state = self.0.lock();
            state.version += 1;
            change(&mut state.value)
        };
        self.0.changed.notify_waiters();
        changed
    }

    /// Looks at the value.
    pub fn look<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.0.lock().value)
    }
}

impl<T> Follower<T> {
    /// The value as it is now, which has been seen then.
    pub fn look<R>(&mut self, look: impl FnOnce(&T) -> R) -> R {
        let state = self.shared.lock();
        self.seen = state.version;
        look(&state.value)
    }

    /// Waits until there is something that was not seen.
    ///
    /// # Errors
    /// When there never will be.
    pub async fn changed(&mut self) -> Result<(), Abandoned> {
        loop {
            let mut notified = std::pin::pin!(self.shared.changed.notified());
            // From here on no change goes unheard.
            notified.as_mut().enable();
            {
                let state = self.shared.lock();
                if state.version != self.seen {
                    self.seen = state.version;
                    return Ok(());
                }
                if state.owner == Owner::Gone {
                    return Err(Abandoned);
                }
            }
            notified.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn followers_are_woken_in_the_order_in_which_they_came() {
        let watched = Watched::<u32>::default();
        let woken = Arc::new(Mutex::new(Vec::new()));
        let followers: Vec<_> = (0..50)
            .map(|number| {
                let (mut follower, woken) = (watched.follow(), woken.clone());
                tokio::spawn(async move {
                    follower.changed().await.unwrap();
                    woken.lock().unwrap().push(number);
                })
            })
            .collect();
        tokio::task::yield_now().await;

        watched.modify(|value| *value = 7);

        for follower in followers {
            follower.await.unwrap();
        }
        assert_eq!(*woken.lock().unwrap(), (0..50).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_change_is_heard_once_and_the_end_as_well() {
        let watched = Watched::<u32>::default();
        let mut follower = watched.follow();
        assert_eq!(follower.changed().now_or_never(), None);

        watched.modify(|value| *value = 7);
        assert_eq!(follower.changed().now_or_never(), Some(Ok(())));
        assert_eq!(follower.look(|value| *value), 7);
        assert_eq!(follower.changed().now_or_never(), None);

        drop(watched);
        assert_eq!(follower.changed().now_or_never(), Some(Err(Abandoned)));
    }
}
