//! Room for one more request, or an answer that says there is none; and a count of all of them.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use host_api::{Problem, ProblemCode};

use super::Api;
use super::connection::PeerUid;
use super::problem::{NoPeer, Refused, internal};
use super::shares::{NoPlace, Share};

/// A request's place among those that are worked on. Work that outlives its connection keeps it.
#[derive(Debug, Clone)]
pub(super) struct Place(#[expect(dead_code, reason = "held, never read")] Arc<Share>);

pub(super) async fn admit(
    State(api): State<Arc<Api>>,
    path: Option<MatchedPath>,
    mut request: Request,
    next: Next,
) -> Response {
    let response = match place_of(&api, &request) {
        Ok(place) => {
            // The request is taken apart before its handler runs, which may wait for long.
            request.extensions_mut().insert(place.clone());
            let response = next.run(request).await;
            drop(place);
            response
        }
        Err(refused) => refused.into_response(),
    };
    let route = path.as_ref().map_or("none", MatchedPath::as_str);
    api.metrics.count_request(route, response.status());
    response
}

fn place_of(api: &Api, request: &Request) -> Result<Place, Refused> {
    let PeerUid(uid) = request
        .extensions()
        .get()
        .copied()
        .ok_or_else(|| internal(&NoPeer))?;
    let share = api.requests.take(uid);
    let share = share.map_err(|none| overloaded("requests", none))?;
    Ok(Place(Arc::new(share)))
}

/// Too many of something at once.
pub(super) fn overloaded(what: &str, none: NoPlace) -> Problem {
    let message = match none {
        NoPlace::ShareUsedUp => format!("this user has too many {what} at once"),
        NoPlace::AllTaken => format!("other users have too many {what} at once"),
    };
    Problem {
        hint: Some("try again in a second".to_owned()),
        ..Problem::new(ProblemCode::Overloaded, message)
    }
}
