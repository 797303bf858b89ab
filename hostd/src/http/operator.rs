//! What whoever runs hostd asks for: its health, its metrics, its document.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use host_api::{AgentState, Health, HealthStatus, Problem, ProblemCode, path};

use super::metrics::{CONTENT, scrape};
use super::problem::{Refused, internal};
use super::{Api, view};
use crate::service::{Caller, Service};

/// Whether hostd can do all of its work.
#[utoipa::path(
    get,
    path = path::HEALTH,
    operation_id = "health",
    responses(
        (status = 200, description = "All of it.", body = Health),
        (status = 503, description = "Not all of it.", body = Health),
        (status = "default", description = "Not done.", body = Problem),
    )
)]
pub(super) async fn health(
    State(api): State<Arc<Api>>,
    caller: Caller,
) -> (StatusCode, Json<Health>) {
    let problems = problems(&api.service, &caller);
    let (code, status) = match problems.as_slice() {
        [] => (StatusCode::OK, HealthStatus::Ok),
        _ => (StatusCode::SERVICE_UNAVAILABLE, HealthStatus::Degraded),
    };
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

fn problems(service: &Service, caller: &Caller) -> Vec<String> {
    let vms = view::vms(service, caller)
        .into_iter()
        .map(|id| view::vm(service, caller, &id));
    let problem = |vm: host_api::Vm| {
        if vm.power.is_none() {
            return Some(format!("the hypervisor of VM {} does not answer", vm.id));
        }
        let misbehaves = vm.agent.state == AgentState::Misbehaving;
        misbehaves.then(|| format!("the agent in VM {} breaks the protocol", vm.id))
    };
    vms.filter_map(problem).collect()
}

/// Metrics in Prometheus' text format, for operators.
#[utoipa::path(
    get,
    path = path::METRICS,
    operation_id = "metrics",
    responses(
        (status = 200, description = "The metrics.", body = String,
            content_type = "application/openmetrics-text"),
        (status = "default", description = "Not done.", body = Problem),
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
    responses((status = 200, description = "The document.", content_type = "application/json"))
)]
pub(super) async fn document(State(api): State<Arc<Api>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], api.document.clone())
}
