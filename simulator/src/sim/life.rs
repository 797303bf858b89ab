//! One life of a hostd: it may end before or after any effect it has on the world.
//!
//! ```text
//!   effect:  before ──► done ──► after
//!              │                   │
//!              └── the place to die ┘──► over: whatever this life tries never comes to pass
//! ```
//!
//! hostd does not know. The models of journal, ports and streams let nothing of a life pass that is
//! over, whichever of its tasks still runs in that instant; then the tasks are ended.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use misbehaviour::Side;
use tokio::sync::Notify;

use super::stage::{Stage, lock};

/// See the module. Clones are of the same life.
#[derive(Debug, Clone)]
pub struct Life(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    host: String,
    stage: Stage,
    over: AtomicBool,
    effects: AtomicU64,
    dies_at: Mutex<Option<Death>>,
    ended: Notify,
}

/// Where a life is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Death {
    /// At which effect, counted from 1 since the life began.
    pub effect: u64,
    /// On which side of it.
    pub side: Side,
}

/// Which of the effects of a life one is, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EffectNumber(u64);

impl Life {
    /// A life on `host` that has just begun.
    #[must_use]
    pub fn begin(host: &str, stage: &Stage) -> Self {
        Self(Arc::new(Inner {
            host: host.to_owned(),
            stage: stage.clone(),
            over: AtomicBool::new(false),
            effects: AtomicU64::new(0),
            dies_at: Mutex::default(),
            ended: Notify::new(),
        }))
    }

    /// Whether the other is the same one.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Has it end at an effect to come.
    pub fn die_at(&self, death: Option<Death>) {
        *lock(&self.0.dies_at) = death;
    }

    /// How many effects it has had.
    #[must_use]
    pub fn effects(&self) -> u64 {
        self.0.effects.load(Ordering::Relaxed)
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.over.load(Ordering::Relaxed)
    }

    /// Ends it, as `kill -9` would.
    pub fn end(&self, why: &str) {
        if !self.0.over.swap(true, Ordering::Relaxed) {
            self.0.stage.note(&self.0.host, "dies", why.as_bytes());
            self.0.ended.notify_waiters();
        }
    }

    /// Waits until it has ended.
    pub async fn ended(&self) {
        let mut ended = std::pin::pin!(self.0.ended.notified());
        // From here on its end does not go unheard.
        ended.as_mut().enable();
        if !self.is_over() {
            ended.await;
        }
    }

    /// An effect is about to happen; `None` when it may not any more.
    #[must_use]
    pub fn begins_effect(&self, what: &str) -> Option<EffectNumber> {
        if self.is_over() {
            return None;
        }
        let number = EffectNumber(self.0.effects.fetch_add(1, Ordering::Relaxed) + 1);
        self.passes(number, Side::Before, what).then_some(number)
    }

    /// An effect has happened, while others may have begun: whether anybody learns of it.
    #[must_use]
    pub fn ends_effect(&self, number: EffectNumber, what: &str) -> bool {
        !self.is_over() && self.passes(number, Side::After, what)
    }

    fn passes(&self, EffectNumber(effect): EffectNumber, side: Side, what: &str) -> bool {
        let dies = *lock(&self.0.dies_at) == Some(Death { effect, side });
        if dies {
            self.end(what);
        }
        !dies
    }

    /// Does something that may be the last thing of this life.
    pub async fn effect<T>(&self, what: &str, act: impl FnOnce() -> T) -> T {
        let number = self.may_begin(what).await;
        let done = act();
        self.or_never(self.ends_effect(number, what)).await;
        done
    }

    /// Begins an effect, if it still may.
    pub async fn may_begin(&self, what: &str) -> EffectNumber {
        match self.begins_effect(what) {
            Some(number) => number,
            None => std::future::pending().await,
        }
    }

    /// Goes on only if this life does.
    // tidy: bool because it is the answer of `ends_effect`, passed on
    pub async fn or_never(&self, goes_on: bool) {
        if !goes_on || self.is_over() {
            std::future::pending::<()>().await;
        }
    }

    /// Polls for something from outside; a life that is over hears of nothing.
    pub async fn hear<T>(&self, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
        poll_fn(|context| match self.is_over() {
            true => Poll::Pending,
            false => poll(context),
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use misbehaviour::Rulebook;

    use super::*;
    use crate::sim::trace::Keeping;

    fn life() -> Life {
        let stage = Stage::new(1, Rulebook::new(1), Keeping::Hash);
        Life::begin("host1", &stage)
    }

    fn done(life: &Life) -> (bool, bool) {
        let mut happened = false;
        let told = life.effect("commit", || happened = true).now_or_never();
        (happened, told.is_some())
    }

    #[tokio::test(start_paused = true)]
    async fn a_life_ends_on_the_side_of_the_effect_it_was_told() {
        let (before, after) = (life(), life());
        let death = |side| Some(Death { effect: 2, side });
        before.die_at(death(Side::Before));
        after.die_at(death(Side::After));

        for life in [&before, &after] {
            assert_eq!(done(life), (true, true));
        }

        assert_eq!(done(&before), (false, false));
        assert_eq!(done(&after), (true, false));
        assert!(before.is_over() && after.is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn a_life_ends_behind_an_effect_during_which_another_has_begun() {
        let life = life();
        let side = Side::After;
        life.die_at(Some(Death { effect: 1, side }));
        let commit = life.begins_effect("commit").unwrap();
        let frame = life.begins_effect("frame").unwrap();

        assert!(life.ends_effect(frame, "frame"));
        assert!(!life.ends_effect(commit, "commit"));
        assert!(life.is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_happens_in_a_life_that_is_over() {
        let life = life();

        life.end("for a test");

        assert_eq!(done(&life), (false, false));
        assert!(life.ended().now_or_never().is_some());
    }
}
