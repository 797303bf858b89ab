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
    let said = Said {
        code: error.code(),
        origin: error.domain(),
        message: error.message(),
    };
    if said.is_connection() {
        return Trouble::Connection(Box::new(error));
    }
    said.trouble(waited)
}

/// QEMU refuses a second request while one is open (`qmp_device_del`), and any while the power
/// indicator of a native slot blinks (`pcie_cap_slot_unplug_request_cb`).
pub(crate) fn is_unplug_in_progress(error: &Error) -> bool {
    ["already in the process of unplug", "guest is busy"]
        .iter()
        .any(|pending| error.message().contains(pending))
}

/// The alias was taken, so another attempt has come first.
pub(crate) fn is_duplicate_alias(error: &Error) -> bool {
    error.message().contains("non unique alias detected")
}

/// The parts of an error that decide.
struct Said<'a> {
    code: ErrorNumber,
    origin: ErrorDomain,
    message: &'a str,
}

impl Said<'_> {
    fn is_connection(&self) -> bool {
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
        by_code.contains(&self.code)
            || (vague.contains(&self.code) && by_origin.contains(&self.origin))
    }

    fn trouble(&self, waited: Duration) -> Trouble {
        if self.code == ErrorNumber::NoDomain {
            return Trouble::NoSuchVm;
        }
        // libvirt names the job that holds the VM; QEMU says "not allowed while migrating".
        if self.says_any(&["migration out", "migration in", "while migrating"]) {
            return Trouble::Migrating;
        }
        // The second when QEMU ends while it is being asked: its devices end with it.
        if self.says_any(&["domain is not running", "End of file from qemu monitor"]) {
            return Trouble::NotRunning;
        }
        if self.is_silent_guest_agent() {
            return Trouble::TimedOut {
                waited_ms: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
            };
        }
        // VIR_ERR_OPERATION_TIMEOUT too: libvirt reports with it that it never got the VM's lock
        // ("cannot acquire state change lock", after 30 s), so nothing was done.
        Trouble::Refused {
            message: self.message.to_owned(),
        }
    }

    fn says_any(&self, words: &[&str]) -> bool {
        words.iter().any(|words| self.message.contains(words))
    }

    fn is_silent_guest_agent(&self) -> bool {
        [
            ErrorNumber::AgentUnresponsive,
            ErrorNumber::AgentUnsynced,
            ErrorNumber::AgentCommandTimeout,
        ]
        .contains(&self.code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(code: ErrorNumber, origin: ErrorDomain, message: &str) -> Said<'_> {
        Said {
            code,
            origin,
            message,
        }
    }

    /// The words of a refused attach while another job holds the VM, libvirt 9.0.
    const LOCKED: &str = "Timed out during operation: cannot acquire state change lock \
                          (held by monitor=remoteDispatchDomainAttachDeviceFlags)";

    #[test]
    fn only_an_error_of_the_transport_is_a_broken_connection() {
        use ErrorDomain as Origin;
        use ErrorNumber as Code;

        assert!(said(Code::Rpc, Origin::None, "").is_connection());
        assert!(said(Code::SystemError, Origin::Rpc, "Connection refused").is_connection());
        assert!(said(Code::InternalError, Origin::Rpc, "client socket is closed").is_connection());
        assert!(!said(Code::InternalError, Origin::Qemu, "no device found").is_connection());
        assert!(!said(Code::OperationTimeout, Origin::Qemu, LOCKED).is_connection());
    }

    #[test]
    fn each_answer_is_told_apart_from_a_refusal() {
        use ErrorNumber as Code;
        let trouble = |code, message| {
            said(code, ErrorDomain::Qemu, message).trouble(Duration::from_millis(7))
        };

        assert!(matches!(
            trouble(Code::NoDomain, "Domain not found"),
            Trouble::NoSuchVm
        ));
        assert!(matches!(
            trouble(
                Code::OperationInvalid,
                "Requested operation is not valid: domain is not running"
            ),
            Trouble::NotRunning
        ));
        assert!(matches!(
            trouble(Code::InternalError, "End of file from qemu monitor"),
            Trouble::NotRunning
        ));
        assert!(matches!(
            trouble(Code::AgentUnresponsive, "guest agent is not responding"),
            Trouble::TimedOut { waited_ms: 7 }
        ));
        assert!(matches!(
            trouble(
                Code::OperationFailed,
                "device_add not allowed while migrating"
            ),
            Trouble::Migrating
        ));
    }

    #[test]
    fn a_lock_that_was_not_got_is_a_refusal_or_a_migration() {
        let trouble = |message: &str| {
            said(ErrorNumber::OperationTimeout, ErrorDomain::Qemu, message).trouble(Duration::ZERO)
        };

        assert!(matches!(trouble(LOCKED), Trouble::Refused { message } if message == LOCKED));
        assert!(matches!(
            trouble("cannot acquire state change lock (held by monitor=migration out)"),
            Trouble::Migrating
        ));
    }
}
