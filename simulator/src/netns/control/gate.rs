//! What every order passes through, whatever it is about: who may ask at all, and that a refusal
//! has one form.
//!
//! ```text
//!   TCP ──► Host: of this machine? ─┐
//!   socket ─────────────────────────┴─► says it is JSON? ──► order ──► {"error": "…"} or result
//!                                    goes on when nobody waits for it ┘
//! ```

use std::time::Duration;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::oneshot;

use super::Refusal;
use crate::netns::cloud::Cloud;

const JSON: &str = "application/json";

/// Before whoever has given an order stops waiting for its answer ([`super::client`]).
const ORDER_DEADLINE: Duration = Duration::from_secs(50);

/// Longest complaint that is passed on, in bytes.
const COMPLAINT_MAX: usize = 64 * 1024;

/// What changes something has to call itself JSON, body or not. A page in somebody's browser cannot
/// send that to another origin without asking first (the Fetch standard's "CORS-safelisted
/// request-header"), and nobody answers here.
pub(super) async fn only_programs(request: Request, next: Next) -> Response {
    if request.method() == Method::GET || is_json(request.headers()) {
        return next.run(request).await;
    }
    let error = "the content type has to be application/json";
    refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, error.to_owned())
}

/// A page may give its own name this machine's address, and is then of the same origin as the
/// orders ("DNS rebinding"); but a browser says under which name it asks.
pub(super) async fn only_this_machine(request: Request, next: Next) -> Response {
    let host = request.headers().get(HOST);
    let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
    if is_this_machine(host) {
        return next.run(request).await;
    }
    let error = format!("host: {host:?} is neither localhost nor an address of the loopback");
    refuse(StatusCode::FORBIDDEN, error)
}

/// Has an order that has begun done to its end, also when whoever has given it hangs up meanwhile:
/// half of it would leave a VM that runs and is nobody's, or a rule that one VM follows and another
/// does not.
pub(super) async fn to_the_end(
    State(cloud): State<Cloud>,
    request: Request,
    next: Next,
) -> Response {
    let about = format!("{} {}", request.method(), request.uri().path());
    let (answer, answered) = oneshot::channel();
    let order = about.clone();
    tokio::spawn(async move {
        let response = next.run(request).await;
        if let Err(unheard) = answer.send(response) {
            let end = end_of(unheard).await;
            let events = cloud.events();
            events.note(format_args!("{order}, for which nobody waits, {end}"));
        }
    });
    let problem = match tokio::time::timeout(ORDER_DEADLINE, answered).await {
        Ok(Ok(response)) => return response,
        Ok(Err(_dropped)) => "it has panicked, and is not done to its end".to_owned(),
        Err(_elapsed) => {
            let seconds = ORDER_DEADLINE.as_secs();
            format!("it has taken {seconds} s by now, and goes on: the events tell of its end")
        }
    };
    refuse(
        StatusCode::INTERNAL_SERVER_ERROR,
        format!("{about}: {problem}"),
    )
}

/// How an order has ended, for people.
async fn end_of(response: Response) -> String {
    if response.status().is_success() {
        return "is done".to_owned();
    }
    let complaint = complaint(response.into_body()).await;
    match serde_json::from_str::<Refusal>(&complaint) {
        Ok(refusal) => format!("is refused: {}", refusal.error),
        Err(_no_refusal) => format!("is refused: {complaint}"),
    }
}

/// Gives the refusals of the HTTP library the form of all others.
pub(super) async fn in_one_form(request: Request, next: Next) -> Response {
    let about = format!("{} {}", request.method(), request.uri().path());
    let response = next.run(request).await;
    let status = response.status();
    let refused = status.is_client_error() || status.is_server_error();
    if !refused || is_json(response.headers()) {
        return response;
    }
    let complaint = complaint(response.into_body()).await;
    let what = status.canonical_reason().unwrap_or("refused");
    let error = match complaint.is_empty() {
        true => format!("{about}: {}", what.to_lowercase()),
        false => complaint,
    };
    refuse(status, error)
}

async fn complaint(body: Body) -> String {
    // One that cannot be had is none.
    let bytes = to_bytes(body, COMPLAINT_MAX).await.unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn refuse(status: StatusCode, error: String) -> Response {
    (status, Json(Refusal { error })).into_response()
}

/// Parameters such as the character set do not matter (RFC 8259, section 11).
fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case(JSON)
}

/// Whether a `Host:` names this machine and cannot be anybody else's name for it.
fn is_this_machine(host: &str) -> bool {
    let Ok(authority) = host.parse::<axum::http::uri::Authority>() else {
        return false;
    };
    let name = authority.host();
    let address = name.trim_start_matches('[').trim_end_matches(']');
    let address: Option<std::net::IpAddr> = address.parse().ok();
    name.eq_ignore_ascii_case("localhost") || address.is_some_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_asked_for() {
        for host in [
            "localhost",
            "LOCALHOST:80",
            "127.0.0.1:8080",
            "127.1.2.3",
            "[::1]:80",
            "[::1]",
        ] {
            assert!(is_this_machine(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "10.0.0.1:80",
            "[::]:80",
            "a b",
        ] {
            assert!(!is_this_machine(host), "{host}");
        }
    }

    #[test]
    fn a_character_set_makes_it_no_other_content() {
        for (kind, expected) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/jsonp", false),
            ("text/plain; application/json", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, kind.parse().unwrap())]);

            assert_eq!(is_json(&headers), expected, "{kind}");
        }
    }
}
