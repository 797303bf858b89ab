//! What whoever runs hostd asks for: its health, its metrics, its document.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use host_api::{AgentState, Health, HealthStatus, ProblemCode, openapi, path};

use super::document::{self, Refusals};
use super::metrics::{CONTENT, scrape};
use super::problem::{Refused, internal};
use super::{Api, view};
use crate::service::{Caller, Service};

/// Whether hostd can do all of its work.
#[utoipa::path(
    get,
    path = path::HEALTH,
    operation_id = "health",
    tag = document::OPERATING,
    params(openapi::CallerHeaders),
    responses(
        (status = 200, description = "All of it.", body = Health),
        (status = 503, description = "Not all of it.", body = Health),
        Refusals,
    )
)]
pub(super) async fn health(
    State(api): State<Arc<Api>>,
    caller: Caller,
) -> (StatusCode, Json<Health>) {
    let unanswered = unanswered(&api.service, &caller);
    // Guests are hostile: what they break is listed, and is no reason to restart hostd.
    let (code, status) = match unanswered.as_slice() {
        [] => (StatusCode::OK, HealthStatus::Ok),
        _ => (StatusCode::SERVICE_UNAVAILABLE, HealthStatus::Degraded),
    };
    let mut problems = unanswered;
    problems.extend(misbehaving(&api.service, &caller));
    let version = env!("CARGO_PKG_VERSION").to_owned();
    (
        code,
        Json(Health {
            status,
            version,
            problems,
        }),
    )
}

fn unanswered(service: &Service, caller: &Caller) -> Vec<String> {
    vms(service, caller)
        .filter(|vm| vm.power.is_none())
        .map(|vm| format!("the hypervisor of VM {} does not answer", vm.id))
        .collect()
}

fn misbehaving(service: &Service, caller: &Caller) -> Vec<String> {
    vms(service, caller)
        .filter(|vm| vm.agent.state == AgentState::Misbehaving)
        .map(|vm| format!("the agent in VM {} breaks the protocol", vm.id))
        .collect()
}

fn vms(service: &Service, caller: &Caller) -> impl Iterator<Item = host_api::Vm> {
    let ids = view::vms(service, caller);
    ids.into_iter().map(|id| view::vm(service, caller, &id))
}

/// Metrics in Prometheus' text format, for operators.
#[utoipa::path(
    get,
    path = path::METRICS,
    operation_id = "metrics",
    tag = document::OPERATING,
    params(openapi::CallerHeaders),
    responses(
        (status = 200, description = "The metrics.", body = String,
            content_type = "application/openmetrics-text"),
        Refusals,
    )
)]
pub(super) async fn metrics(
    State(api): State<Arc<Api>>,
    caller: Caller,
) -> Result<impl IntoResponse, Refused> {
    if caller != Caller::Operator {
        return Err(Refused::new(
            ProblemCode::Forbidden,
            "metrics are for operators",
        ));
    }
    let text = scrape(&api).map_err(|error| internal(&error))?;
    Ok(([(CONTENT_TYPE, CONTENT)], text))
}

/// This document.
#[utoipa::path(
    get,
    path = path::OPENAPI,
    operation_id = "document",
    tag = document::OPERATING,
    responses(
        (status = 200, description = "The document.", body = Object),
        Refusals,
    )
)]
pub(super) async fn document(State(api): State<Arc<Api>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], api.document.clone())
}
