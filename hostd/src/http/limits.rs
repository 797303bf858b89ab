//! `/v1/limits`: what there may be and what there is.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use host_api::{Limits, Problem, openapi, path};

use super::{Api, view};
use crate::service::Caller;

/// Every limit that concerns what the caller may see, and what is used of it.
#[utoipa::path(
    get,
    path = path::LIMITS,
    operation_id = "show_limits",
    params(("tenant" = Option<openapi::TenantId>, Header, description = "Act for this tenant.")),
    responses(
        (status = 200, description = "The limits.", body = Limits),
        (status = "default", description = "Not done.", body = Problem),
    )
)]
pub(super) async fn show(State(api): State<Arc<Api>>, caller: Caller) -> Json<Limits> {
    Json(Limits {
        limits: view::limits(&api.service, &caller),
    })
}
