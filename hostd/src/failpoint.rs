//! Named places at which a test can have hostd die as if by `kill -9`.
//!
//! Compiled in with the feature `failpoints` only; without it every call is empty. The name comes
//! from the environment, `NICFERRY_FAILPOINT=attach.plug.after`, and the process ends at the first
//! passage, without unwinding, flushing or telling anybody. Every passage is logged, so that a test
//! can tell which there are. Where many hostds share a process, whoever runs them watches the
//! passages of a thread instead, and sees to it that the right one dies.

use std::fmt;
use std::rc::Rc;

/// Which side of an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The effect has not been tried.
    Before,
    /// The effect has happened, and nobody has been told.
    After,
}

/// Is told the name of each failpoint that is passed.
pub type Watcher = Rc<dyn Fn(&str)>;

/// This build has no failpoints to watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this build of hostd has no failpoints")]
pub struct NoFailpoints;

/// A watcher in force; dropping it ends the watch.
pub struct Watch {
    _private: (),
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

#[cfg(feature = "failpoints")]
mod compiled_in {
    use std::cell::RefCell;

    use super::{NoFailpoints, Side, Watch, Watcher};

    thread_local! {
        static WATCHER: RefCell<Option<Watcher>> = const { RefCell::new(None) };
    }

    /// Has every passage on this thread told to `watcher`, in place of an earlier one, and not to
    /// the environment.
    ///
    /// # Errors
    /// Never in this build.
    pub fn watch(watcher: Watcher) -> Result<Watch, NoFailpoints> {
        WATCHER.set(Some(watcher));
        Ok(Watch { _private: () })
    }

    impl Drop for Watch {
        fn drop(&mut self) {
            WATCHER.set(None);
        }
    }

    /// Ends the process here if that is what the environment asks for. `flow` is `attach` or
    /// `detach`.
    pub fn hit(flow: &str, step: &str, side: Side) {
        let side = match side {
            Side::Before => "before",
            Side::After => "after",
        };
        let here = format!("{flow}.{step}.{side}");
        tracing::debug!(failpoint = here, "passing a failpoint");
        if let Some(watcher) = WATCHER.with_borrow(Clone::clone) {
            watcher(&here);
        } else if std::env::var("NICFERRY_FAILPOINT").is_ok_and(|name| name == here) {
            tracing::error!(failpoint = here, "dying at a failpoint");
            let this = rustix::process::getpid();
            let _never_fails = rustix::process::kill_process(this, rustix::process::Signal::KILL);
        }
    }
}

#[cfg(not(feature = "failpoints"))]
mod compiled_in {
    use super::{NoFailpoints, Side, Watch, Watcher};

    /// Refuses: this build has no failpoints.
    ///
    /// # Errors
    /// Always in this build.
    pub fn watch(_watcher: Watcher) -> Result<Watch, NoFailpoints> {
        Err(NoFailpoints)
    }

    /// Nothing: this build has no failpoints.
    pub fn hit(_flow: &str, _step: &str, _side: Side) {}
}

pub use compiled_in::{hit, watch};
