//! Why something was not done: for a program by its code, for a person by its sentence.

use std::fmt;
use std::str::FromStr;

use nic_model::NicId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::openapi;

/// Body of every answer that is not a success, and of a NIC's last error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "code": "limit_exceeded",
    "message": "limit max_nics is 8, 8 in use: detach a NIC from VM web-1",
    "limit": {
        "name": "max_nics", "value": 8, "usage": 8, "frees": "detach a NIC from VM web-1",
    },
}))]
pub struct Problem {
    /// For programs.
    pub code: ProblemCode,
    /// A sentence for people.
    #[schema(example = "limit max_nics is 8, 8 in use: detach a NIC of this VM")]
    pub message: String,
    /// The field of the request that is to blame, as a dotted path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "attach.vm")]
    pub field: Option<String>,
    /// The limit that was met.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<LimitDetail>,
    /// The NIC it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<openapi::NicId>)]
    pub nic: Option<NicId>,
    /// What would help.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Problem {
    /// Media type of an answer whose body is one (RFC 9457: `type` is the default, `about:blank`,
    /// and all of these fields are extensions).
    pub const MEDIA_TYPE: &str = "application/problem+json";

    /// A problem without details.
    pub fn new(code: ProblemCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            field: None,
            limit: None,
            nic: None,
            hint: None,
        }
    }
}

/// A limit that was met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LimitDetail {
    /// Which.
    #[schema(example = "max_nics")]
    pub name: String,
    /// Its value.
    pub value: u64,
    /// How much of it is used.
    pub usage: u64,
    /// What would free some of it.
    #[schema(example = "detach a NIC of this VM")]
    pub frees: String,
}

/// Declares the codes once: variant, word on the wire, HTTP status.
macro_rules! problem_codes {
    ($($(#[$doc:meta])* $code:ident = $word:literal, $status:literal;)*) => {
        /// Kinds of problems.
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
            ToSchema,
        )]
        #[serde(rename_all = "snake_case")]
        pub enum ProblemCode {
            $($(#[$doc])* $code,)*
        }

        impl ProblemCode {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$code),*];

            /// Its word on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$code => $word,)* }
            }

            /// HTTP status of an answer with this code.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$code => $status,)* }
            }
        }
    };
}

problem_codes! {
    /// The request itself is wrong.
    InvalidRequest = "invalid_request", 400;
    /// It concerns somebody else's NIC, or takes more rights than the caller has.
    Forbidden = "forbidden", 403;
    /// There is no such NIC, VM, network or path.
    NotFound = "not_found", 404;
    /// The path is there, the method is not.
    MethodNotAllowed = "method_not_allowed", 405;
    /// It does not fit the present state of things: a MAC that is taken, a NIC that is in use.
    Conflict = "conflict", 409;
    /// It would go over a limit.
    LimitExceeded = "limit_exceeded", 409;
    /// The body is longer than any request.
    TooLarge = "too_large", 413;
    /// The body is announced as something else than JSON.
    UnsupportedMediaType = "unsupported_media_type", 415;
    /// Too many requests at once.
    Overloaded = "overloaded", 429;
    /// A defect of hostd's.
    Internal = "internal", 500;
    /// Something else must come back first: the VM, its agent.
    Unavailable = "unavailable", 503;
    /// The hypervisor does not answer.
    HypervisorUnavailable = "hypervisor_unavailable", 503;
    /// The journal's disk is full.
    JournalFull = "journal_full", 503;
    /// Something stands in the way, and hostd keeps trying.
    Blocked = "blocked", 503;
    /// It took too long.
    TimedOut = "timed_out", 504;
    /// The VM stopped.
    VmStopped = "vm_stopped", 409;
    /// The target does not exist.
    TargetGone = "target_gone", 409;
    /// The pid lives in another namespace than the caller saw.
    TargetChanged = "target_changed", 409;
    /// The target is the guest's own namespace.
    TargetIsGuest = "target_is_guest", 409;
    /// A link of that name is in the target already.
    NameTaken = "name_taken", 409;
    /// The link disappeared while it was being bound.
    LinkVanished = "link_vanished", 502;
    /// The device in the guest has another MAC address.
    MacMismatch = "mac_mismatch", 502;
    /// No DHCP server answered.
    NoLease = "no_lease", 502;
    /// The guest kernel refused a step.
    GuestKernelRefused = "guest_kernel_refused", 502;
    /// The container died while its link was being bound.
    ContainerDied = "container_died", 409;
    /// Somebody else removed the device.
    DeviceRemoved = "device_removed", 409;
    /// Somebody else removed the host end.
    PortRemoved = "port_removed", 409;
    /// A device of this NIC is there, but not as asked.
    DeviceDiffers = "device_differs", 502;
    /// The host end could not be made.
    PortFailed = "port_failed", 502;
    /// The hypervisor refused.
    HypervisorRefused = "hypervisor_refused", 502;
}

impl fmt::Display for ProblemCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A word that is no code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no code of a problem")]
pub struct UnknownProblemCode(String);

impl FromStr for ProblemCode {
    type Err = UnknownProblemCode;

    fn from_str(word: &str) -> Result<Self, UnknownProblemCode> {
        Self::ALL
            .iter()
            .find(|code| code.as_str() == word)
            .copied()
            .ok_or_else(|| UnknownProblemCode(word.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_the_same_word_in_json_and_in_text() {
        for code in ProblemCode::ALL {
            let json = serde_json::to_string(code).unwrap();

            assert_eq!(json, format!("\"{code}\""));
            assert_eq!(code.as_str().parse(), Ok(*code));
        }
    }
}
