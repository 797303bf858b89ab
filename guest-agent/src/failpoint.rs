//! Named places at which a test can have the agent die as if by `kill -9`: around every step.
//!
//! Compiled in with the feature `failpoints` only; without it every call is empty. The name, such
//! as `set-up.after`, is read at each passage from the file that `NICFERRY_FAILPOINT_FILE` names,
//! so that an agent can be told while it runs. The process takes the file away, lest its next life
//! end there too, and ends without unwinding, flushing or telling anybody.

use agent_protocol::BindStep;

/// Which side of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// It has not been tried.
    Before,
    /// It is over, well or not, and the host has not been told.
    After,
}

/// Ends the process here if that is what the file asks for.
#[cfg(feature = "failpoints")]
pub(crate) fn hit(step: Option<BindStep>, side: Side) {
    let Some(step) = step else { return };
    let side = match side {
        Side::Before => "before",
        Side::After => "after",
    };
    let here = format!("{}.{side}", name(step));
    let Some(file) = std::env::var_os("NICFERRY_FAILPOINT_FILE") else {
        return;
    };
    let is_asked_for = std::fs::read_to_string(&file).is_ok_and(|name| name.trim_end() == here);
    if is_asked_for && std::fs::remove_file(&file).is_ok() {
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
