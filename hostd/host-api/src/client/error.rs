//! What can go wrong between a client and hostd.

use std::io;
use std::path::PathBuf;

use crate::Problem;

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there; nothing was sent.
    #[error("hostd cannot be reached at {}", path.display())]
    NotReachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection broke under way; what was asked may have happened.
    #[error("the connection to hostd broke")]
    Interrupted(#[source] hyper::Error),
    /// No answer in time; what was asked may have happened.
    #[error("hostd did not answer within {waited_ms} ms")]
    TimedOut {
        /// How long was waited, in milliseconds.
        waited_ms: u128,
    },
    /// hostd will not, or cannot, and says why.
    #[error("{}", problem.message)]
    Problem {
        /// Its reason.
        problem: Box<Problem>,
        /// HTTP status.
        status: u16,
    },
    /// The answer made no sense.
    #[error("hostd's answer is not understood: {message}")]
    Protocol {
        /// What was wrong with it.
        message: String,
    },
}

impl ClientError {
    /// Whether what was asked may have happened although no success was reported: sending it again
    /// is safe only with the same client token.
    #[must_use]
    pub fn may_have_happened(&self) -> bool {
        match self {
            Self::Interrupted(_) | Self::TimedOut { .. } | Self::Protocol { .. } => true,
            Self::NotReachable { .. } | Self::Problem { .. } => false,
        }
    }
}
