//! Whether libvirtd can be reached, and the thread that keeps it so.
//!
//! ```text
//!            opened, subscribed              closed, or silent for too long
//!   Down ─────────────────────────► Up(n) ──────────────────────────────────► Down
//!    ▲                               │ event Connection                        │ event Connection
//!    └───── backoff with jitter ─────┴─────────────────────────────────────────┘
//! ```
//!
//! The number of a connection tells the VMs' threads that theirs, opened under an earlier one, may
//! be dead. Opening blocks while libvirtd hangs: that costs this thread only, and callers give up
//! at their own deadline.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::ffi::{Listener, Subscription};
use crate::session::{Endpoint, Session};

/// First wait between two attempts; doubled up to [`BACKOFF_MAX`]. A restart of libvirtd takes
/// about 0.2 s.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest wait between two attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Why libvirtd cannot be reached.
#[derive(Debug, Clone, thiserror::Error)]
#[error("libvirtd cannot be reached: {0}")]
pub(crate) struct Outage(pub(crate) String);

/// Number of a connection, ascending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Generation(u64);

/// Shared by the supervisor, the VMs' threads and libvirt's event thread.
pub(crate) struct Link {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    generation: Generation,
    phase: Phase,
    wanted: Wanted,
}

enum Phase {
    Connecting,
    Up,
    Down(Outage),
}

#[derive(PartialEq, Eq)]
enum Wanted {
    Connection,
    End,
}

impl Link {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                generation: Generation(0),
                phase: Phase::Down(Outage("not connected yet".to_owned())),
                wanted: Wanted::Connection,
            }),
            changed: Condvar::new(),
        })
    }

    /// Blocks until libvirtd can be reached, or the time is over.
    pub(crate) fn wait_until_up(&self, until: Instant) -> Result<Generation, Outage> {
        let patience = until.saturating_duration_since(Instant::now());
        let (state, _) = self
            .changed
            .wait_timeout_while(self.lock(), patience, |state| {
                state.wanted == Wanted::Connection && !matches!(state.phase, Phase::Up)
            })
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        match &state.phase {
            Phase::Up => Ok(state.generation),
            Phase::Down(outage) => Err(outage.clone()),
            Phase::Connecting => Err(Outage("it does not answer".to_owned())),
        }
    }

    /// Why libvirtd cannot be reached at this moment, if so.
    pub(crate) fn outage(&self) -> Option<Outage> {
        self.wait_until_up(Instant::now()).err()
    }

    /// The connection with this number is gone. News about an earlier one are no news.
    pub(crate) fn went_down(&self, generation: Generation, outage: Outage) {
        let mut state = self.lock();
        if state.generation == generation {
            state.phase = Phase::Down(outage);
            self.changed.notify_all();
        }
    }

    /// Tells the supervisor to stop, and everyone who waits for a connection.
    pub(crate) fn end(&self) {
        self.lock().wanted = Wanted::End;
        self.changed.notify_all();
    }

    fn begin(&self) -> Generation {
        let mut state = self.lock();
        state.generation.0 += 1;
        state.phase = Phase::Connecting;
        state.generation
    }

    /// `false` when the connection closed before it was ready.
    fn came_up(&self) -> bool {
        let mut state = self.lock();
        let alive = matches!(state.phase, Phase::Connecting);
        if alive {
            state.phase = Phase::Up;
            self.changed.notify_all();
        }
        alive
    }

    fn wait_until_down(&self) {
        drop(
            self.changed
                .wait_while(self.lock(), |state| {
                    state.wanted == Wanted::Connection && matches!(state.phase, Phase::Up)
                })
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        );
    }

    /// Waits that long, or until the end.
    fn pause(&self, duration: Duration) {
        drop(
            self.changed
                .wait_timeout_while(self.lock(), duration, |state| {
                    state.wanted == Wanted::Connection
                })
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        );
    }

    fn is_ending(&self) -> bool {
        self.lock().wanted == Wanted::End
    }

    /// No code that holds the lock can panic, so a poisoned one is whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// What the supervisor's owner wants to hear.
pub(crate) trait Observer: Send + Sync + 'static {
    /// The connection was lost or is back.
    fn connection_changed(&self);
    /// Who hears the events of the connection with this number.
    fn listener(&self, generation: Generation) -> Arc<dyn Listener>;
}

/// Keeps the link up until its end. The body of thread `libvirt-link`.
pub(crate) fn supervise(link: &Link, endpoint: &Endpoint, observer: &impl Observer) {
    let mut failures = 0;
    while !link.is_ending() {
        let generation = link.begin();
        match stay_connected(link, endpoint, generation, observer) {
            Ok(()) => failures = 0,
            Err(error) => {
                // The first failure of an outage is news, the next ones are not.
                if failures == 0 {
                    tracing::warn!(%error, uri = endpoint.uri, "libvirtd cannot be reached");
                }
                link.went_down(generation, Outage(error.to_string()));
                failures += 1;
            }
        }
        link.pause(backoff(failures, rand::random()));
    }
}

/// Returns when a connection that had come up is gone again.
fn stay_connected(
    link: &Link,
    endpoint: &Endpoint,
    generation: Generation,
    observer: &impl Observer,
) -> Result<(), virt::error::Error> {
    let session = Session::open(endpoint)?;
    let subscription = Subscription::new(session.connect(), &observer.listener(generation))?;
    if link.came_up() {
        tracing::info!(uri = endpoint.uri, "connected to libvirtd");
        observer.connection_changed();
        link.wait_until_down();
        if let Some(outage) = link.outage() {
            tracing::warn!(%outage, uri = endpoint.uri, "the connection to libvirtd is gone");
        }
        observer.connection_changed();
    }
    drop(subscription);
    Ok(())
}

/// From half of the doubled wait to all of it, so that many clients of a restarted libvirtd do not
/// come back at the same instant. `random` is any number.
fn backoff(failures: u32, random: u32) -> Duration {
    let doubled = BACKOFF_MIN.saturating_mul(1 << failures.min(10));
    let longest = doubled.min(BACKOFF_MAX);
    longest / 2 + (longest / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_to_its_maximum_and_is_never_zero() {
        assert_eq!(backoff(0, 0), BACKOFF_MIN / 2);
        assert_eq!(backoff(0, u32::MAX), BACKOFF_MIN);
        assert!(backoff(3, 0) > backoff(1, u32::MAX));
        assert_eq!(backoff(u32::MAX, u32::MAX), BACKOFF_MAX);
    }

    #[test]
    fn a_closed_connection_does_not_come_up_any_more() {
        let link = Link::new();
        let generation = link.begin();

        link.went_down(generation, Outage("closed".to_owned()));

        assert!(!link.came_up());
        assert!(link.outage().is_some());
    }

    #[test]
    fn news_of_an_earlier_connection_do_not_end_the_next() {
        let link = Link::new();
        let earlier = link.begin();
        let _later = link.begin();
        assert!(link.came_up());

        link.went_down(earlier, Outage("late news".to_owned()));

        assert!(link.outage().is_none());
    }
}
