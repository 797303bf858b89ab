//! Why a command was not done, and the exit code that says so.

use std::error::Error;
use std::io;

use host_api::client::ClientError;
use host_api::{Nic, Problem, ProblemCode, Wait};

use crate::output::{Format, Output};
use crate::view;

/// Why a command was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The call came to nothing.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// What was asked may have happened, and nobody told.
    #[error("what became of the request is not known")]
    Unheard {
        #[source]
        cause: ClientError,
        way_on: String,
    },
    /// Somebody did not want to wait for the end.
    #[error("interrupted; hostd goes on with what it has been asked")]
    Interrupted(String),
    /// hostd says so itself.
    #[error("hostd cannot do all of its work")]
    Degraded,
    /// The NIC was still on its way when the time was over.
    #[error("{} is still {} after {wait}", nic.id, nic.state)]
    NotSettled { nic: Box<Nic>, wait: Wait },
    /// The NIC has come to rest somewhere else than asked.
    #[error("{}", missed_goal(nic))]
    Missed { nic: Box<Nic> },
    /// Nothing could be written.
    #[error("failed to write the output")]
    Output(#[from] io::Error),
    /// There is no way to do anything.
    #[error("failed to start")]
    Runtime(#[source] io::Error),
}

fn missed_goal(nic: &Nic) -> String {
    match &nic.last_error {
        Some(problem) => problem.message.clone(),
        None => format!("{} is {}, not where it was to be", nic.id, nic.state),
    }
}

impl Failure {
    /// See the help text.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Client(error) | Self::Unheard { cause: error, .. } => client_exit_code(error),
            // As a shell reports a program that was ended by SIGINT.
            Self::Interrupted(_) => 130,
            Self::NotSettled { .. } => 5,
            Self::Missed { nic } => nic
                .last_error
                .as_ref()
                .map_or(1, |problem| problem_exit_code(problem.code)),
            // Whoever closes the pipe has seen enough.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Output(_) | Self::Runtime(_) | Self::Degraded => 1,
        }
    }

    /// Tells people on the standard error; programs get the problem as it came.
    pub(crate) fn explain(&self, output: &Output) {
        if self.exit_code() == 0 {
            return;
        }
        output.trouble(&format!("error: {}", self.chain()));
        for detail in self.details() {
            output.trouble(&format!("  {detail}"));
        }
        if let (Format::Json, Self::Client(ClientError::Problem { problem, .. })) =
            (output.format(), self)
        {
            // The reader may have gone; the exit code stays.
            drop(output.json(problem));
        }
    }

    fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            cause = error.source();
        }
        text
    }

    fn details(&self) -> Vec<String> {
        match self {
            Self::Client(ClientError::Problem { problem, .. }) => problem_details(problem),
            Self::Client(ClientError::NotReachable { source, .. }) => {
                vec![format!("hint: {}", reach_hint(source))]
            }
            Self::Unheard { way_on, .. } | Self::Interrupted(way_on) => {
                vec![format!("hint: {way_on}")]
            }
            Self::NotSettled { nic, .. } => vec![
                view::condition(nic),
                format!(
                    "hint: hostd goes on; `nicctl nic watch {}` shows how",
                    nic.id
                ),
            ],
            Self::Missed { nic } => nic.last_error.as_ref().map_or(vec![], problem_details),
            Self::Client(
                ClientError::Interrupted(_)
                | ClientError::TimedOut { .. }
                | ClientError::Protocol { .. },
            )
            | Self::Degraded
            | Self::Output(_)
            | Self::Runtime(_) => vec![],
        }
    }
}

fn reach_hint(source: &io::Error) -> &'static str {
    if source.kind() == io::ErrorKind::PermissionDenied {
        "the mode of the socket says who may use it: try sudo, or see socket_mode of hostd"
    } else {
        "is hostd running? --socket or NICFERRY_SOCKET names its socket"
    }
}

fn problem_details(problem: &Problem) -> Vec<String> {
    let limit = problem.limit.as_ref();
    [
        problem
            .field
            .as_ref()
            .map(|field| format!("field: {field}")),
        limit.map(|limit| format!("limit: {} is {}", limit.name, limit.value)),
        limit.map(|limit| format!("in use: {}", limit.usage)),
        limit.map(|limit| format!("to free some: {}", limit.frees)),
        problem.nic.as_ref().map(|nic| format!("nic: {nic}")),
        problem.hint.as_ref().map(|hint| format!("hint: {hint}")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn client_exit_code(error: &ClientError) -> u8 {
    match error {
        ClientError::NotReachable { .. } | ClientError::Interrupted(_) => 6,
        ClientError::TimedOut { .. } => 5,
        ClientError::Problem { problem, .. } => problem_exit_code(problem.code),
        ClientError::Protocol { .. } => 1,
    }
}

fn problem_exit_code(code: ProblemCode) -> u8 {
    use ProblemCode as P;
    match code {
        P::InvalidRequest | P::MethodNotAllowed | P::TooLarge | P::UnsupportedMediaType => 2,
        P::Conflict | P::LimitExceeded | P::Forbidden | P::NameTaken => 3,
        P::NotFound | P::TargetGone => 4,
        P::Blocked
        | P::TimedOut
        | P::Unavailable
        | P::HypervisorUnavailable
        | P::Overloaded
        | P::JournalFull => 5,
        P::Internal
        | P::VmStopped
        | P::TargetChanged
        | P::TargetIsGuest
        | P::LinkVanished
        | P::MacMismatch
        | P::NoLease
        | P::GuestKernelRefused
        | P::ContainerDied
        | P::DeviceRemoved
        | P::PortRemoved
        | P::DeviceDiffers
        | P::PortFailed
        | P::HypervisorRefused => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use host_api::LimitDetail;

    fn refused(code: ProblemCode) -> Failure {
        Failure::Client(ClientError::Problem {
            problem: Box::new(Problem::new(code, "m")),
            status: code.status(),
        })
    }

    #[test]
    fn each_reason_has_its_exit_code() {
        let cases = [
            (refused(ProblemCode::InvalidRequest), 2),
            (refused(ProblemCode::LimitExceeded), 3),
            (refused(ProblemCode::Conflict), 3),
            (refused(ProblemCode::NotFound), 4),
            (refused(ProblemCode::Blocked), 5),
            (refused(ProblemCode::TimedOut), 5),
            (refused(ProblemCode::Internal), 1),
            (Failure::Client(ClientError::TimedOut { waited_ms: 1 }), 5),
            (
                Failure::Client(ClientError::NotReachable {
                    path: "/x".into(),
                    source: io::ErrorKind::NotFound.into(),
                }),
                6,
            ),
            (Failure::Output(io::ErrorKind::StorageFull.into()), 1),
            (Failure::Output(io::ErrorKind::BrokenPipe.into()), 0),
        ];
        for (failure, code) in cases {
            assert_eq!(failure.exit_code(), code, "{failure:?}");
        }
    }

    #[test]
    fn a_refusal_tells_field_limit_usage_and_what_helps() {
        let mut problem = Problem::new(ProblemCode::LimitExceeded, "no room");
        problem.field = Some("attach.vm".into());
        problem.hint = Some("or ask for a larger class".into());
        problem.limit = Some(LimitDetail {
            name: "max_nics".into(),
            value: 8,
            usage: 8,
            frees: "detach a NIC of web-1".into(),
        });

        assert_eq!(
            problem_details(&problem),
            [
                "field: attach.vm",
                "limit: max_nics is 8",
                "in use: 8",
                "to free some: detach a NIC of web-1",
                "hint: or ask for a larger class",
            ]
        );
    }

    #[test]
    fn who_may_not_use_the_socket_is_not_asked_whether_hostd_runs() {
        let hint = |kind: io::ErrorKind| reach_hint(&kind.into());

        assert!(hint(io::ErrorKind::PermissionDenied).contains("sudo"));
        assert!(hint(io::ErrorKind::NotFound).contains("is hostd running?"));
    }

    #[test]
    fn causes_are_told_in_one_line() {
        let failure = Failure::Client(ClientError::NotReachable {
            path: "/x.sock".into(),
            source: io::Error::other("connection refused"),
        });

        assert_eq!(
            failure.chain(),
            "hostd cannot be reached at /x.sock: connection refused"
        );
    }
}
