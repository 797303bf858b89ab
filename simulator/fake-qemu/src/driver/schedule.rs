//! What a machine does later: its guest's acts that take time, events that are told late.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};

use super::state::Due;
use super::{FakeQemu, Surroundings};

/// A future that lives as long as its machine, and does what is due.
#[must_use = "time passes by polling it"]
pub struct Run<D, S> {
    qemu: FakeQemu<D, S>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl<D, S> fmt::Debug for Run<D, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").finish_non_exhaustive()
    }
}

impl<D, S: Surroundings<D>> Run<D, S> {
    pub(super) fn new(qemu: FakeQemu<D, S>) -> Self {
        Self { qemu, sleep: None }
    }
}

impl<D, S: Surroundings<D>> Future for Run<D, S> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        loop {
            let mut state = this.qemu.lock();
            if state.has_ended() {
                return Poll::Ready(());
            }
            match state.next_due() {
                Some(Due::Act(act)) => {
                    let now = state.now();
                    state.machine.guest(act, now);
                    state.settle();
                    continue;
                }
                Some(Due::Event { line }) => {
                    state.broadcast(&line);
                    continue;
                }
                None => {}
            }
            state.wait_for_more(context.waker());
            let time = state.next_time();
            let Some(instant) = time.and_then(|time| state.instant_of(time)) else {
                this.sleep = None;
                return Poll::Pending;
            };
            drop(state);
            if this.is_asleep(instant, context) {
                return Poll::Pending;
            }
        }
    }
}

impl<D, S> Run<D, S> {
    fn is_asleep(&mut self, until: Instant, context: &mut Context<'_>) -> bool {
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(sleep_until(until)));
        sleep.as_mut().reset(until);
        sleep.as_mut().poll(context).is_pending()
    }
}
