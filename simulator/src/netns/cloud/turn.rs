//! One order after the other: who changes a cloud has it to itself meanwhile.
//!
//! ```text
//!   order ──► nobody's turn ──► its turn ──► done
//!               └ somebody's for too long ──► refused, and told whose
//! ```

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Longest that an order waits for those before it: whoever has given it still waits when it is
/// refused.
const DEADLINE: Duration = Duration::from_secs(20);

/// Whose turn it is.
#[derive(Debug, Default)]
pub(super) struct Turns {
    one: tokio::sync::Mutex<()>,
    /// Who has it.
    held: Mutex<Option<String>>,
}

/// One's turn, until this is dropped.
#[derive(Debug)]
pub(in crate::netns) struct Turn<'a> {
    turns: &'a Turns,
    _one: tokio::sync::MutexGuard<'a, ()>,
}

/// Another order takes too long: nothing has been done for this one.
#[derive(Debug, thiserror::Error)]
#[error(
    "nothing is done: after {} s of waiting another order, to {order}, is still under way",
    .waited.as_secs()
)]
pub(in crate::netns) struct Busy {
    order: String,
    waited: Duration,
}

impl Turns {
    /// Waits until it is the turn of `order`, such as "start VM vm1", which those that wait behind
    /// it are told.
    ///
    /// # Errors
    /// When that takes too long.
    pub(super) async fn take(&self, order: impl Into<String>) -> Result<Turn<'_>, Busy> {
        let Ok(one) = tokio::time::timeout(DEADLINE, self.one.lock()).await else {
            return Err(self.busy());
        };
        *self.lock() = Some(order.into());
        Ok(Turn {
            turns: self,
            _one: one,
        })
    }

    fn busy(&self) -> Busy {
        // That of nobody has only just ended, and others were before this one.
        let order = self.lock().clone();
        Busy {
            order: order.unwrap_or_else(|| "do something else".to_owned()),
            waited: DEADLINE,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.turns.lock() = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_is_told_for_whom() {
        let turns = Turns::default();
        let first = turns.take("start VM vm1").await.expect("nobody has it");

        let refused = turns.take("add rule \"a\"").await.expect_err("it is taken");
        drop(first);
        let taken = turns.take("add rule \"a\"").await;

        let said = refused.to_string();
        let expected = "another order, to start VM vm1, is still under way";
        assert!(said.ends_with(expected), "{said}");
        assert!(taken.is_ok());
    }
}
