//! Request bodies: read up to a cap and a deadline, and never left lying in the socket.
//!
//! A connection that is closed with unread bytes in it is reset, and a client that is still
//! writing sees the reset instead of the answer (RFC 9112 §9.6). So whatever of a body no handler
//! wanted is read and thrown away, for a while.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use host_api::{Problem, ProblemCode};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::fields;
use super::problem::Refused;

/// Longest body of any request: a NIC with every list at its cap takes some 10 KiB, and as many
/// requests as one user may have at once take 64 MiB.
const BODY_MAX_BYTES: usize = 64 * 1024;
/// Time for a body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// The one media type of a body.
const JSON: &str = "application/json";
/// Time that a client gets to send what nobody wants, before it is cut off.
const LINGER_TIMEOUT: Duration = Duration::from_secs(10);

/// A JSON body of type `T`.
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refused> {
        check_media_type(request.headers())?;
        parse(&bytes_of(request).await?).map(Self)
    }
}

/// No body, or an empty object, which says as much: what a client means to say is never ignored.
pub(super) struct NoBody;

/// See [`NoBody`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

impl<S: Send + Sync> FromRequest<S> for NoBody {
    type Rejection = Refused;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refused> {
        let bytes = bytes_of(request).await?;
        if bytes.trim_ascii().is_empty() {
            return Ok(Self);
        }
        parse(&bytes).map(|Nothing {}| Self)
    }
}

/// What is announced as something else than JSON was not meant for us. A body that is announced as
/// nothing is taken for JSON.
fn check_media_type(headers: &HeaderMap) -> Result<(), Refused> {
    let announced: Option<String> = fields::header(headers, CONTENT_TYPE.as_str())?;
    let essence = announced
        .as_deref()
        .map(|text| text.split(';').next().unwrap_or_default().trim());
    match essence {
        Some(other) if !other.eq_ignore_ascii_case(JSON) => Err(Refused::from(Problem {
            field: Some(CONTENT_TYPE.as_str().to_owned()),
            hint: Some(format!("send the header {CONTENT_TYPE}: {JSON}")),
            ..Problem::new(
                ProblemCode::UnsupportedMediaType,
                "the body is announced as something else than JSON",
            )
        })),
        _ => Ok(()),
    }
}

async fn bytes_of(request: Request) -> Result<Vec<u8>, Refused> {
    if announced_bytes(&request).is_some_and(|bytes| bytes > BODY_MAX_BYTES as u64) {
        return Err(too_large());
    }
    tokio::time::timeout(BODY_TIMEOUT, read(request.into_body()))
        .await
        .map_err(|_| too_slow())?
}

fn announced_bytes(request: &Request) -> Option<u64> {
    request
        .headers()
        .get(CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

async fn read(mut body: Body) -> Result<Vec<u8>, Refused> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| invalid(format!("the body broke off: {error}")))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if bytes.len() + data.len() > BODY_MAX_BYTES {
            return Err(too_large());
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refused> {
    if bytes.trim_ascii().is_empty() {
        return Err(invalid("the body is empty, a JSON object is needed"));
    }
    // serde would take an array for an object, its fields in order.
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return Err(invalid("the body must be a JSON object"));
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|e| refusal(bytes, &e))?;
    json.end().map_err(|error| malformed(&error))?;
    Ok(value)
}

/// serde_json calls some values of a wrong type (a number for one of several words, a number that
/// no type holds) mistakes in the syntax: whether they are is seen by reading for the syntax alone.
fn refusal(bytes: &[u8], error: &serde_path_to_error::Error<serde_json::Error>) -> Refused {
    let cause = error.inner();
    if !cause.is_data() && serde_json::from_slice::<IgnoredAny>(bytes).is_err() {
        return malformed(cause);
    }
    let message = cause.to_string();
    let place = format!(" at line {} column {}", cause.line(), cause.column());
    let rule = match message.strip_suffix(&place).unwrap_or(&message) {
        "expected value" => "a value of another type is expected",
        rule => rule,
    };
    fields::refusal(error.path(), rule, "body")
}

fn malformed(error: &serde_json::Error) -> Refused {
    invalid(format!("the body is no JSON: {error}"))
}

fn invalid(message: impl Into<String>) -> Refused {
    Refused::field(ProblemCode::InvalidRequest, "body", message)
}

fn too_slow() -> Refused {
    invalid(format!(
        "the body did not arrive within {} s",
        BODY_TIMEOUT.as_secs()
    ))
}

fn too_large() -> Refused {
    let message = format!("the body has more than {BODY_MAX_BYTES} bytes");
    Refused::from(Problem {
        field: Some("body".to_owned()),
        ..Problem::new(ProblemCode::TooLarge, message)
    })
}

/// A request's body that, when dropped half read, reads on by itself for a while.
pub(super) struct Lingering {
    incoming: Option<Incoming>,
}

impl Lingering {
    /// A client that awaits permission to send its body sends nothing once it is refused, so there
    /// is nothing to wait for (RFC 9110 §10.1.1).
    pub(super) fn wrap(request: hyper::Request<Incoming>) -> Request {
        let sends_unasked = !request.headers().contains_key(EXPECT);
        request.map(|incoming| {
            if sends_unasked {
                Body::new(Self {
                    incoming: Some(incoming),
                })
            } else {
                Body::new(incoming)
            }
        })
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        if let Some(incoming) = self.incoming.take().filter(|body| !body.is_end_stream()) {
            tokio::spawn(tokio::time::timeout(LINGER_TIMEOUT, discard(incoming)));
        }
    }
}

async fn discard(mut body: Incoming) {
    while let Some(Ok(_unwanted)) = body.frame().await {}
}

impl HttpBody for Lingering {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.incoming {
            Some(incoming) => Pin::new(incoming).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming
            .as_ref()
            .map(HttpBody::size_hint)
            .unwrap_or_default()
    }
}
