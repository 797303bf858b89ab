//! libvirt's errors as [`Trouble`].
//!
//! What decides is whether the request may have been carried out: a broken connection leaves that
//! open, an answer does not. libvirt's codes tell the two apart except where it uses
//! `VIR_ERR_INTERNAL_ERROR` or `VIR_ERR_OPERATION_FAILED` for everything; there the origin and, as
//! a last resort, the words decide (libvirt 9.0 and QEMU 7.2; libvirtd does not translate).

use std::time::Duration;

use hypervisor::Trouble;
use virt::error::{Error, ErrorDomain, ErrorNumber};

/// What an error says about the request that met it, `waited` after it was made.
pub(crate) fn from_libvirt(error: Error, waited: Duration) -> Trouble {
    let message = error.message().to_owned();
    if is_connection(&error) {
        return Trouble::Connection(Box::new(error));
    }
    if is_migrating(&message) {
        return Trouble::Migrating;
    }
    if is_not_running(&error) {
        return Trouble::NotRunning;
    }
    let code = error.code();
    if code == ErrorNumber::NoDomain {
        return Trouble::NoSuchVm;
    }
    if is_silent_guest_agent(code) {
        return Trouble::TimedOut {
            waited_ms: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
        };
    }
    // VIR_ERR_OPERATION_TIMEOUT too: libvirt reports with it that it never got the VM's lock
    // ("cannot acquire state change lock", after 30 s), so nothing was done.
    Trouble::Refused { message }
}

/// QEMU refuses a second request while one is open (`qmp_device_del`).
pub(crate) fn is_unplug_in_progress(error: &Error) -> bool {
    error.message().contains("already in the process of unplug")
}

/// The alias was taken, so another attempt has come first.
pub(crate) fn is_duplicate_alias(error: &Error) -> bool {
    error.message().contains("non unique alias detected")
}

fn is_connection(error: &Error) -> bool {
    let by_code = [
        ErrorNumber::NoConnect,
        ErrorNumber::InvalidConn,
        ErrorNumber::Rpc,
        ErrorNumber::AuthFailed,
        ErrorNumber::AuthUnavailable,
        ErrorNumber::NoServer,
    ];
    let vague = [
        ErrorNumber::InternalError,
        ErrorNumber::SystemError,
        ErrorNumber::OperationFailed,
    ];
    let by_origin = [ErrorDomain::Rpc, ErrorDomain::Remote];
    by_code.contains(&error.code())
        || (vague.contains(&error.code()) && by_origin.contains(&error.domain()))
}

/// libvirt names the job that holds the VM; QEMU says "not allowed while migrating".
fn is_migrating(message: &str) -> bool {
    ["migration out", "migration in", "while migrating"]
        .iter()
        .any(|words| message.contains(words))
}

/// Also when QEMU ends while it is being asked: its devices end with it.
fn is_not_running(error: &Error) -> bool {
    let words = ["domain is not running", "End of file from qemu monitor"];
    words.iter().any(|words| error.message().contains(words))
}

fn is_silent_guest_agent(code: ErrorNumber) -> bool {
    [
        ErrorNumber::AgentUnresponsive,
        ErrorNumber::AgentUnsynced,
        ErrorNumber::AgentCommandTimeout,
    ]
    .contains(&code)
}
