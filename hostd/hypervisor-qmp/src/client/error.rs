//! Why a connection could not be made, broke, or brought no answer.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// QEMU's classes of errors (`QapiErrorClass` in QEMU's `qapi/error.json`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ErrorClass {
    /// Most of them: only the text says more.
    Generic,
    /// The device, backend or object named does not exist.
    DeviceNotFound,
    /// This QEMU knows no such command.
    CommandNotFound,
    /// Any other, by its name.
    Other(String),
}

impl From<String> for ErrorClass {
    fn from(name: String) -> Self {
        match name.as_str() {
            "GenericError" => Self::Generic,
            "DeviceNotFound" => Self::DeviceNotFound,
            "CommandNotFound" => Self::CommandNotFound,
            _ => Self::Other(name),
        }
    }
}

/// From [`super::Connection::open`].
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens: there is no socket, or it is left over from a process that ended.
    #[error("no process listens on {}", socket.display())]
    NoProcess {
        /// The socket.
        socket: PathBuf,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// The kernel would not connect.
    #[error("failed to connect to {}", socket.display())]
    Refused {
        /// The socket.
        socket: PathBuf,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// Connected, but QEMU did not speak.
    #[error(
        "no QMP greeting on {} within {waited_ms} ms: QEMU serves one client a socket, \
         another one may hold it", socket.display()
    )]
    NoGreeting {
        /// The socket.
        socket: PathBuf,
        /// How long was waited, in milliseconds.
        waited_ms: u64,
    },
    /// The other side spoke and then failed to agree on how to go on.
    #[error("failed to negotiate QMP on {}", socket.display())]
    Negotiation {
        /// The socket.
        socket: PathBuf,
        /// How.
        #[source]
        cause: CommandError,
    },
    /// The process behind the socket cannot be told from another one.
    #[error("failed to identify the process behind {}", socket.display())]
    Identity {
        /// The socket.
        socket: PathBuf,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
}

/// From [`super::Connection::execute`].
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommandError {
    /// QEMU answered that it will not.
    #[error("QEMU refused {command}: {desc}")]
    Refused {
        /// What was asked.
        command: &'static str,
        /// QEMU's class of the error.
        class: ErrorClass,
        /// QEMU's own words.
        desc: String,
    },
    /// No answer in time. QEMU may still carry it out; its answer will be dropped.
    #[error("no answer to {command} within {waited_ms} ms")]
    TimedOut {
        /// What was asked.
        command: &'static str,
        /// How long was waited, in milliseconds.
        waited_ms: u64,
    },
    /// The connection broke first. QEMU may have carried it out.
    #[error("the connection broke before {command} was answered")]
    Lost {
        /// What was asked.
        command: &'static str,
        /// How.
        #[source]
        cause: Arc<Broken>,
    },
    /// The answer is not of the form QEMU documents.
    #[error("the answer to {command} is not understood: {problem}")]
    NotUnderstood {
        /// What was asked.
        command: &'static str,
        /// What is wrong with the answer.
        problem: String,
    },
}

impl CommandError {
    /// Whether QEMU refused with this class.
    #[must_use]
    pub fn is_class(&self, wanted: &ErrorClass) -> bool {
        matches!(self, Self::Refused { class, .. } if class == wanted)
    }

    /// Whether QEMU refused in words that contain `text`.
    #[must_use]
    pub fn says(&self, text: &str) -> bool {
        matches!(self, Self::Refused { desc, .. } if desc.contains(text))
    }
}

/// Why a connection is of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// QEMU ended or closed the socket.
    #[error("QEMU closed it")]
    Closed,
    /// This side let go of it.
    #[error("it is not used any more")]
    Abandoned,
    /// The kernel reported an error.
    #[error("reading or writing failed")]
    Io(#[source] io::Error),
    /// A line went past the limit.
    #[error("a line of more than {limit_bytes} bytes came")]
    LineTooLong {
        /// The limit in bytes.
        limit_bytes: usize,
    },
    /// A line that is not JSON, or nested too deep.
    #[error("a line that is not JSON came")]
    Malformed(#[source] serde_json::Error),
}
