//! How every mutation runs: admitted in a task of its own, then waited for as long as asked.
//!
//! A client that goes away must not take its request with it half way through a commit, so the
//! admission runs on whatever becomes of the connection. The wait does not: nobody would hear its
//! end. The request keeps its place until both are over: the guard holds it for as long as the
//! connection waits, the admission for as long as it runs.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use host_api::{MutationQuery, path};

use super::connection::ReceivedAt;
use super::guard::Place;
use super::metrics::Operation;
use super::problem::{Refused, internal};
use super::{Api, fields, view};
use crate::service::{Answer, Ask, Caller, Service, ServiceError};

/// A mutation's caller, token and time to wait.
pub(super) struct Mutation {
    ask: Ask,
    wait: Duration,
    place: Option<Place>,
}

impl FromRequestParts<Arc<Api>> for Mutation {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Refused> {
        let caller = Caller::from_request_parts(parts, api).await?;
        let token = fields::header(&parts.headers, path::CLIENT_TOKEN_HEADER)?;
        let query: MutationQuery = fields::query(parts)?;
        let received_at = parts.extensions.get().map(|ReceivedAt(at)| *at);
        Ok(Self {
            ask: Ask {
                caller,
                token,
                wait: Duration::ZERO,
                received_at: received_at.unwrap_or_else(tokio::time::Instant::now),
            },
            wait: query.wait.map(host_api::Wait::duration).unwrap_or_default(),
            place: parts.extensions.get().cloned(),
        })
    }
}

/// Does `act` for the client and answers with the NIC.
pub(super) async fn carry_out<F>(
    api: &Arc<Api>,
    operation: Operation,
    mutation: Mutation,
    act: impl FnOnce(Arc<Service>, Ask) -> F,
) -> Result<Response, Refused>
where
    F: Future<Output = Result<Answer, ServiceError>> + Send + 'static,
{
    let outcome = admit_and_wait(&api.service, mutation, act).await;
    let word = match &outcome {
        Ok(Answer::Settled(_)) => "settled",
        Ok(Answer::UnderWay(_)) => "under_way",
        Err(refused) => refused.code().as_str(),
    };
    api.metrics.count_operation(operation, word);
    let (status, record) = match outcome? {
        Answer::Settled(record) => (StatusCode::OK, record),
        Answer::UnderWay(record) => (StatusCode::ACCEPTED, record),
    };
    Ok((status, Json(view::nic(&api.service, &record))).into_response())
}

async fn admit_and_wait<F>(
    service: &Arc<Service>,
    mutation: Mutation,
    act: impl FnOnce(Arc<Service>, Ask) -> F,
) -> Result<Answer, Refused>
where
    F: Future<Output = Result<Answer, ServiceError>> + Send + 'static,
{
    let Mutation { ask, wait, place } = mutation;
    let acting = act(service.clone(), ask.clone());
    let admission = service.supervisor.spawn_listed(async move {
        let outcome = acting.await;
        drop(place);
        outcome
    });
    match admission.await.map_err(|panicked| internal(&panicked))?? {
        Answer::UnderWay(record) if !wait.is_zero() => {
            let ask = Ask { wait, ..ask };
            Ok(service
                .wait_for_rest(&record.id, record.generation, &ask)
                .await?)
        }
        answer @ (Answer::Settled(_) | Answer::UnderWay(_)) => Ok(answer),
    }
}
