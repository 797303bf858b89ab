//! Room for one more request, or an answer that says there is none; and a count of all of them.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use host_api::ProblemCode;
use tokio::sync::OwnedSemaphorePermit;

use super::Api;
use super::problem::Refused;

/// A request's place among those that are worked on. Work that outlives its connection keeps it.
#[derive(Debug, Clone)]
pub(super) struct Place(
    #[expect(dead_code, reason = "held, never read")] Arc<OwnedSemaphorePermit>,
);

pub(super) async fn admit(
    State(api): State<Arc<Api>>,
    path: Option<MatchedPath>,
    mut request: Request,
    next: Next,
) -> Response {
    let response = match api.requests.clone().try_acquire_owned() {
        Ok(permit) => {
            request.extensions_mut().insert(Place(Arc::new(permit)));
            next.run(request).await
        }
        Err(_all_taken) => overloaded("requests").into_response(),
    };
    let route = path.as_ref().map_or("none", MatchedPath::as_str);
    api.metrics.count_request(route, response.status());
    response
}

/// Too many of something at once.
pub(super) fn overloaded(what: &str) -> Refused {
    Refused::new(
        ProblemCode::Overloaded,
        format!("too many {what} at once, try again in a second"),
    )
}
