//! Named places at which a test can have hostd die as if by `kill -9`.
//!
//! Compiled in with the feature `failpoints` only; without it every call is empty. The name comes
//! from the environment, `NICFERRY_FAILPOINT=attach.plug.after`, and the process ends at the first
//! passage, without unwinding, flushing or telling anybody. Every passage is logged, so that a test
//! can tell which there are.

/// Which side of an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The effect has not been tried.
    Before,
    /// The effect has happened, and nobody has been told.
    After,
}

/// Ends the process here if that is what the environment asks for. `flow` is `attach` or `detach`.
#[cfg(feature = "failpoints")]
pub fn hit(flow: &str, step: &str, side: Side) {
    let side = match side {
        Side::Before => "before",
        Side::After => "after",
    };
    let here = format!("{flow}.{step}.{side}");
    tracing::debug!(failpoint = here, "passing a failpoint");
    if std::env::var("NICFERRY_FAILPOINT").is_ok_and(|name| name == here) {
        tracing::error!(failpoint = here, "dying at a failpoint");
        let this = rustix::process::getpid();
        let _never_fails = rustix::process::kill_process(this, rustix::process::Signal::KILL);
    }
}

/// Nothing: this build has no failpoints.
#[cfg(not(feature = "failpoints"))]
pub fn hit(_flow: &str, _step: &str, _side: Side) {}
