//! Named places at which a test can have the agent die as if by `kill -9`: around every step.
//!
//! Compiled in with the feature `failpoints` only; without it every call is empty. The name comes
//! from the environment, `NICFERRY_FAILPOINT=set-up.after`, and the process ends at the first
//! passage, without unwinding, flushing or telling anybody.

use agent_protocol::BindStep;

/// Which side of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// It has not been tried.
    Before,
    /// It is over, well or not, and the host has not been told.
    After,
}

/// Ends the process here if that is what the environment asks for.
#[cfg(feature = "failpoints")]
pub(crate) fn hit(step: Option<BindStep>, side: Side) {
    let Some(step) = step else { return };
    let side = match side {
        Side::Before => "before",
        Side::After => "after",
    };
    let here = format!("{}.{side}", name(step));
    if std::env::var("NICFERRY_FAILPOINT").is_ok_and(|name| name == here) {
        tracing::error!(failpoint = here, "dying at a failpoint");
        let this = rustix::process::getpid();
        let _never_fails = rustix::process::kill_process(this, rustix::process::Signal::KILL);
    }
}

/// Nothing: this build has no failpoints.
#[cfg(not(feature = "failpoints"))]
pub(crate) fn hit(_step: Option<BindStep>, _side: Side) {}

#[cfg(feature = "failpoints")]
fn name(step: BindStep) -> &'static str {
    match step {
        BindStep::Hold => "hold",
        BindStep::Enter => "enter",
        BindStep::SetMtu => "set-mtu",
        BindStep::SetAddresses => "set-addresses",
        BindStep::SetUp => "set-up",
        BindStep::SetRoutes => "set-routes",
        BindStep::Lease => "lease",
        BindStep::Announce => "announce",
        BindStep::Verify => "verify",
        BindStep::Release => "release",
    }
}
