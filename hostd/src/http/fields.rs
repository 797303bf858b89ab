//! Which field of a request is to blame, from what serde says.

use std::fmt::Display;
use std::str::FromStr;

use axum::extract::{FromRequestParts, Path};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use host_api::ProblemCode;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::problem::Refused;

/// A refusal for the field at `path`, or for `whole` when it is no field in particular. `rule` is
/// the message of the type that refused.
pub(super) fn refusal(path: &serde_path_to_error::Path, rule: &str, whole: &str) -> Refused {
    let parent = path.iter().next().map(|_| path.to_string());
    let field = match (parent, field_in(rule)) {
        (None, None) => whole.to_owned(),
        (None, Some(name)) => name.to_owned(),
        (Some(parent), None) => parent,
        (Some(path), Some(name)) if ends_with(&path, name) => path,
        (Some(parent), Some(name)) => format!("{parent}.{name}"),
    };
    Refused::field(
        ProblemCode::InvalidRequest,
        shortened(&field),
        shortened(rule),
    )
}

/// Most characters that are said back of a text that a client chose.
const ECHO_MAX: usize = 500;

/// The beginning of `text`: a client knows what it has sent, and logs need not hold all of it.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(ECHO_MAX) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// serde names a field that is unknown, missing or there twice in its message alone.
fn field_in(rule: &str) -> Option<&str> {
    ["unknown field `", "missing field `", "duplicate field `"]
        .iter()
        .find_map(|start| rule.strip_prefix(start)?.split('`').next())
}

fn ends_with(path: &str, name: &str) -> bool {
    path.strip_suffix(name)
        .is_some_and(|parent| parent.is_empty() || parent.ends_with('.'))
}

/// The query as a `T`.
pub(super) fn query<T: DeserializeOwned>(parts: &Parts) -> Result<T, Refused> {
    let text = parts.uri.query().unwrap_or_default();
    let pairs = serde_urlencoded::Deserializer::new(form_urlencoded::parse(text.as_bytes()));
    serde_path_to_error::deserialize(pairs)
        .map_err(|error| refusal(error.path(), &error.inner().to_string(), "query"))
}

/// No query at all, where none means anything: a filter that is misspelt must not read as none.
pub(super) struct NoQuery;

/// See [`NoQuery`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

impl<S: Send + Sync> FromRequestParts<S> for NoQuery {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refused> {
        query(parts).map(|Nothing {}| Self)
    }
}

/// A header as a `T`; `None` when it is absent.
pub(super) fn header<T>(headers: &HeaderMap, name: &str) -> Result<Option<T>, Refused>
where
    T: FromStr<Err: Display>,
{
    let refuse =
        |why: &dyn Display| Refused::field(ProblemCode::InvalidRequest, name, why.to_string());
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(refuse(&format_args!(
            "the header {name} is there more than once"
        )));
    }
    let text = value
        .to_str()
        .map_err(|_| refuse(&format_args!("the header {name} is not printable ASCII")))?;
    text.parse()
        .map(Some)
        .map_err(|error: T::Err| refuse(&error))
}

/// The `{id}` of a path.
pub(super) struct Id<T>(pub(super) T);

impl<T: FromStr<Err: Display>, S: Send + Sync> FromRequestParts<S> for Id<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let refuse = |why: String| Refused::field(ProblemCode::InvalidRequest, "id", why);
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|error| refuse(error.body_text()))?;
        text.parse()
            .map(Self)
            .map_err(|error: T::Err| refuse(error.to_string()))
    }
}
