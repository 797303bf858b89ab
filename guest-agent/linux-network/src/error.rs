//! What can go wrong between us and the kernel, and the pattern of the errors of each operation.
//!
//! An operation's error says what was attempted and on what; its source is a [`NetlinkError`],
//! which keeps the kernel's errno as a number, so that a caller can tell a link that is gone
//! (`ENODEV`) from a name that is taken (`EEXIST`) without reading text.

use std::time::Duration;

use netlink_packet_core::{ErrorMessage, NLA_F_NESTED, NLA_HEADER_SIZE, NlasIterator};
pub use rustix::io::Errno;

/// Why a request over netlink came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel refused it.
    #[error("{errno}{}", in_words(.explanation.as_deref()))]
    Refused {
        /// Its verdict.
        errno: Errno,
        /// Its reason in words, where it gave one (extended acknowledgement, Linux 4.12).
        explanation: Option<String>,
    },
    /// It did not answer in time.
    #[error("no answer from the kernel within {0:?}")]
    Deadline(Duration),
    /// The socket or the task that reads it is gone.
    #[error("the netlink connection is closed")]
    Closed,
    /// It answered with something else than what was asked for.
    #[error("the kernel's answer has an unexpected type")]
    Unexpected,
    /// It accepted the request and did not do a part of it that it does not know.
    #[error("the kernel ignored {0}")]
    Ignored(&'static str),
    /// What was listed changed during every attempt to list it.
    #[error("the list kept changing while it was read")]
    Inconsistent,
}

fn in_words(explanation: Option<&str>) -> String {
    explanation.map_or_else(String::new, |words| format!(": {words}"))
}

impl NetlinkError {
    /// The kernel's verdict, where there is one: `NODEV`, `EXIST`, `SRCH` and the like.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Deadline(_)
            | Self::Closed
            | Self::Unexpected
            | Self::Ignored(_)
            | Self::Inconsistent => None,
        }
    }

    pub(crate) fn refused(answer: &ErrorMessage) -> Self {
        Self::Refused {
            errno: Errno::from_raw_os_error(answer.raw_code().saturating_abs()),
            explanation: explanation(&answer.header),
        }
    }
}

/// The text of `NLMSGERR_ATTR_MSG` in what follows the error code: the request's header (16 bytes,
/// its payload cut off by `NETLINK_CAP_ACK`), then attributes (include/uapi/linux/netlink.h).
fn explanation(rest: &[u8]) -> Option<String> {
    const REQUEST_HEADER_LEN: usize = 16;
    const NLMSGERR_ATTR_MSG: u16 = 1;
    let attributes = rest.get(REQUEST_HEADER_LEN..)?;
    if attributes.len() < NLA_HEADER_SIZE {
        return None;
    }
    NlasIterator::new(attributes)
        .filter_map(Result::ok)
        .find(|attribute| attribute.kind() & !NLA_F_NESTED == NLMSGERR_ATTR_MSG)
        .map(|attribute| {
            let text = String::from_utf8_lossy(attribute.value());
            text.trim_end_matches('\0').to_owned()
        })
}

/// Defines the error of one operation: its operand in the message, a [`NetlinkError`] as the
/// source.
macro_rules! operation_error {
    (
        $(#[$doc:meta])*
        $name:ident { $($operand:ident: $kind:ty = $about:literal),* } $message:literal
    ) => {
        $(#[$doc])*
        #[derive(Debug, thiserror::Error)]
        #[error($message)]
        pub struct $name {
            $(#[doc = $about] pub $operand: $kind,)*
            /// Why.
            #[source]
            pub cause: $crate::NetlinkError,
        }

        impl $name {
            /// The kernel's verdict, where there is one.
            #[must_use]
            pub fn errno(&self) -> Option<$crate::Errno> {
                self.cause.errno()
            }
        }
    };
}

pub(crate) use operation_error;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_own_words_are_part_of_the_message() {
        let mut rest = vec![0; 16];
        rest.extend([8, 0, 1, 0]);
        rest.extend(b"no\0\0");
        let mut answer = ErrorMessage::default();
        answer.code = std::num::NonZeroI32::new(-22);
        answer.header = rest;

        let error = NetlinkError::refused(&answer);

        assert_eq!(error.errno(), Some(Errno::INVAL));
        assert!(error.to_string().ends_with(": no"), "{error}");
    }

    #[test]
    fn an_answer_cut_short_is_an_errno_without_words() {
        for len in [0, 15, 16, 18] {
            assert_eq!(explanation(&vec![1; len]), None, "{len} bytes");
        }
    }
}
