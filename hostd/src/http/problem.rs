//! Refusals and failures on the wire: every answer that is no success is a [`Problem`].

use std::error::Error;

use axum::Json;
use axum::http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use host_api::{LimitDetail, Problem, ProblemCode, path};
use journal::CommitError;
use nic_lifecycle::{LimitRefusal, NicRecord, Refusal, RefusalKind};

use crate::service::ServiceError;
use crate::store::{AdmitError, SettleError};

/// A request that did not come through [`super::connection`].
#[derive(Debug, thiserror::Error)]
#[error("the request has no peer")]
pub(super) struct NoPeer;

/// A problem on its way to the client.
#[derive(Debug)]
pub(super) struct Refused(Box<Problem>);

impl Refused {
    /// A problem with one field of the request.
    pub(super) fn field(
        code: ProblemCode,
        field: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self::from(Problem {
            field: Some(field.into()),
            ..Problem::new(code, message)
        })
    }

    /// A problem without details.
    pub(super) fn new(code: ProblemCode, message: impl Into<String>) -> Self {
        Self::from(Problem::new(code, message))
    }

    /// What kind of problem it is.
    pub(super) fn code(&self) -> ProblemCode {
        self.0.code
    }
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self(Box::new(problem))
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let code = self.0.code;
        let status =
            StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let media_type = [(CONTENT_TYPE, Problem::MEDIA_TYPE)];
        let mut response = (status, media_type, Json(self.0)).into_response();
        if code == ProblemCode::TooLarge {
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if code == ProblemCode::Overloaded {
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<ServiceError> for Refused {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::Admit(AdmitError::Refused(refusal)) => of_refusal(refusal).into(),
            ServiceError::Admit(error @ AdmitError::TokenReused { .. }) => Self::field(
                ProblemCode::Conflict,
                path::CLIENT_TOKEN_HEADER,
                error.to_string(),
            ),
            ServiceError::Admit(AdmitError::Journal(cause))
            | ServiceError::Remove(SettleError::Journal { cause, .. }) => of_commit(&cause),
            ServiceError::Remove(SettleError::NoSuchNic(nic)) => Self::field(
                ProblemCode::NotFound,
                "id",
                format!("there is no NIC {nic}"),
            ),
            ServiceError::Remove(error @ SettleError::Transition { .. }) => internal(&error),
            ServiceError::RemovePort(_) => for_now(&error),
            ServiceError::CameToNothing(record) => of_failure(&record).into(),
        }
    }
}

fn of_refusal(refusal: Refusal) -> Problem {
    let code = match refusal.kind {
        RefusalKind::Invalid => ProblemCode::InvalidRequest,
        RefusalKind::NotFound => ProblemCode::NotFound,
        RefusalKind::Forbidden => ProblemCode::Forbidden,
        RefusalKind::Conflict => ProblemCode::Conflict,
        RefusalKind::LimitExceeded => ProblemCode::LimitExceeded,
        RefusalKind::Unavailable => ProblemCode::Unavailable,
    };
    Problem {
        field: refusal.field.map(str::to_owned),
        limit: refusal.limit.map(limit_detail),
        hint: refusal.hint,
        ..Problem::new(code, refusal.message)
    }
}

fn limit_detail(limit: LimitRefusal) -> LimitDetail {
    LimitDetail {
        name: limit.name.to_string(),
        value: limit.value,
        usage: limit.usage,
        frees: limit.frees,
    }
}

fn of_commit(error: &CommitError) -> Refused {
    match error {
        CommitError::Full => Refused::new(ProblemCode::JournalFull, error.to_string()),
        CommitError::TooLarge { .. } => Refused::new(ProblemCode::TooLarge, error.to_string()),
        CommitError::ClaimTaken { .. } | CommitError::Broken(_) => internal(error),
    }
}

/// What a record says of its last attempt; only for records that have failed.
pub(super) fn of_failure(record: &NicRecord) -> Problem {
    let problem = match &record.last_failure {
        Some(failure) => {
            let code = failure.code.parse().unwrap_or(ProblemCode::Internal);
            Problem::new(code, failure.message.clone())
        }
        None => Problem::new(ProblemCode::Internal, "the attempt came to nothing"),
    };
    Problem {
        nic: Some(record.id.clone()),
        ..problem
    }
}

/// A defect of ours: the log gets the cause, the client learns that it is not to blame.
pub(super) fn internal(error: &(dyn Error + 'static)) -> Refused {
    tracing::error!(error, "a request failed inside hostd");
    Refused::new(ProblemCode::Internal, format!("hostd failed: {error}"))
}

/// What hostd has taken on and could not finish: it goes on by itself, and whoever asks again with
/// the same token finds it done.
fn for_now(error: &(dyn Error + 'static)) -> Refused {
    tracing::warn!(error, "a request is not finished yet");
    Refused::new(ProblemCode::Unavailable, error.to_string())
}

pub(super) async fn no_such_path(uri: Uri) -> Refused {
    Refused::new(
        ProblemCode::NotFound,
        format!("there is no path {}", uri.path()),
    )
}

pub(super) async fn no_such_method(method: Method, uri: Uri) -> Refused {
    let message = format!("{} does not take {method}", uri.path());
    Refused::new(ProblemCode::MethodNotAllowed, message)
}
