//! `/v1/limits`: what there may be and what there is.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use host_api::{Limits, openapi, path};

use super::document::{self, Refusals};
use super::fields::NoQuery;
use super::{Api, view};
use crate::service::Caller;

/// Every limit that concerns what the caller may see, and what is used of it.
#[utoipa::path(
    get,
    path = path::LIMITS,
    operation_id = "show_limits",
    tag = document::VMS,
    params(openapi::CallerHeaders),
    responses((status = 200, description = "The limits.", body = Limits), Refusals)
)]
pub(super) async fn show(State(api): State<Arc<Api>>, caller: Caller, _: NoQuery) -> Json<Limits> {
    Json(Limits {
        limits: view::limits(&api.service, &caller),
    })
}
