//! Supervision: a task that hostd cannot be without does not end unnoticed.
//!
//! ```text
//!   spawn ──► task ──► aborted by its owner, or with all others by stop(): as it should be
//!                ├───► panicked, or ended without an end ──► first_end() ──► hostd ends, named why
//! ```
//!
//! A worker that has panicked leaves its VM stuck, silently and for good; hostd started anew
//! continues from its journal and loses nothing. A release build ends at the panic itself
//! (`panic = "abort"`). This is for builds that unwind, where tokio keeps a panic to its task, and
//! for tasks that return. The owner of a task needs its `JoinHandle` to end it and to wait for
//! that, so the end is caught within the task.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};

/// Hears of the end of tasks, and ends them. Clones are about the same ones.
#[derive(Debug, Clone, Default)]
pub struct Supervisor {
    first_end: watch::Sender<Option<TaskEnded>>,
    tasks: Arc<Mutex<Tasks>>,
}

/// The tasks that have not ended.
#[derive(Debug, Default)]
struct Tasks {
    last_number: u64,
    alive: BTreeMap<u64, AbortHandle>,
    phase: Phase,
}

/// Whether there may be tasks at all.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    #[default]
    Running,
    Stopped,
}

/// Takes a task off the list when it is dropped, be it done, aborted or never begun.
struct Entry {
    number: u64,
    tasks: Arc<Mutex<Tasks>>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        lock(&self.tasks).alive.remove(&self.number);
    }
}

/// A panic while the lock was held has already been reported; the data is plain values.
fn lock(tasks: &Mutex<Tasks>) -> MutexGuard<'_, Tasks> {
    tasks.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a task is to end by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Course {
    /// It works until it is aborted.
    Endless,
    /// It ends when its work is done.
    UntilDone,
}

/// What hostd does not go on without.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TaskEnded {
    /// A bug: the panic itself is reported where it happened.
    #[error("{0} panicked")]
    Panicked(String),
    /// Its work was not to end.
    #[error("{0} ended")]
    Returned(String),
}

impl Supervisor {
    /// Starts a task; after [`Self::stop`] it is never begun. `name` is how it is called in a
    /// sentence.
    pub(crate) fn spawn(
        &self,
        name: String,
        course: Course,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        let first_end = self.first_end.clone();
        // Each future that moves another into itself has room for it twice (rust-lang/rust#62958),
        // and around a task there are several: so it is moved as a pointer.
        let task = Box::pin(task);
        self.spawn_listed(async move {
            // Nothing that the task has left half done is looked at again: hostd ends.
            let ended = match AssertUnwindSafe(task).catch_unwind().await {
                Err(_panic) => TaskEnded::Panicked(name),
                Ok(()) if course == Course::Endless => TaskEnded::Returned(name),
                Ok(()) => return,
            };
            first_end.send_modify(|first| {
                first.get_or_insert(ended);
            });
        })
    }

    /// Starts a piece of work that somebody waits for, who learns of a panic too. After
    /// [`Self::stop`] it is never begun.
    pub(crate) fn spawn_listed<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        let mut tasks = lock(&self.tasks);
        tasks.last_number += 1;
        let number = tasks.last_number;
        let entry = Entry {
            number,
            tasks: Arc::clone(&self.tasks),
        };
        let handle = tokio::spawn(async move {
            let _entry = entry;
            work.await
        });
        tasks.alive.insert(number, handle.abort_handle());
        if tasks.phase == Phase::Stopped {
            handle.abort();
        }
        handle
    }

    /// Ends every task: none of them does anything any more.
    pub(crate) fn stop(&self) {
        let alive = {
            let mut tasks = lock(&self.tasks);
            tasks.phase = Phase::Stopped;
            std::mem::take(&mut tasks.alive)
        };
        alive.values().for_each(AbortHandle::abort);
    }

    /// Waits for the first task that ends as it should not.
    pub async fn first_end(&self) -> TaskEnded {
        let mut ends = self.first_end.subscribe();
        loop {
            if let Some(ended) = ends.borrow_and_update().clone() {
                return ended;
            }
            // Never an error: the other end is in `self`.
            drop(ends.changed().await);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> String {
        "the task".to_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_is_named() {
        let supervisor = Supervisor::default();
        supervisor.spawn(name(), Course::UntilDone, async { panic!("for a test") });

        let ended = supervisor.first_end().await;

        assert_eq!(ended.to_string(), "the task panicked");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_was_not_to_end_is_named() {
        let supervisor = Supervisor::default();
        supervisor.spawn(name(), Course::Endless, async {});

        let ended = supervisor.first_end().await;

        assert_eq!(ended.to_string(), "the task ended");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_is_done_or_aborted_is_not_told_of() {
        let supervisor = Supervisor::default();
        let done = supervisor.spawn(name(), Course::UntilDone, async {});
        let aborted = supervisor.spawn(name(), Course::Endless, std::future::pending());

        aborted.abort();
        done.await.expect("it does not panic");
        aborted.await.expect_err("it was aborted");

        assert_eq!(supervisor.first_end().now_or_never(), None);
    }
}
