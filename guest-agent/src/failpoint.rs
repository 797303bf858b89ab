//! Named places at which a test can have the agent die as if by `kill -9`: around every step.
//!
//! Compiled in with the feature `failpoints` only. The name, such
//! as `set-up.after`, is read at each passage from the file that `NICFERRY_FAILPOINT_FILE` names,
//! so that an agent can be told while it runs. The process takes the file away, lest its next life
//! end there too, and ends without unwinding, flushing or telling anybody.

use agent_protocol::BindStep;

use crate::kernel::{StepSide, step_name};

/// Ends the process here if that is what the file asks for.
pub(crate) fn hit(step: BindStep, side: StepSide) {
    let side = match side {
        StepSide::Before => "before",
        StepSide::After => "after",
    };
    let here = format!("{}.{side}", step_name(step));
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
