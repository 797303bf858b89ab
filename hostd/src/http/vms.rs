//! `/v1/vms`: VMs as seen last.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use host_api::{Problem, ProblemCode, Vm, VmList, openapi, path};
use nic_model::VmId;

use super::fields::Id;
use super::problem::Refused;
use super::{Api, view};
use crate::service::Caller;

/// Every VM the caller may use.
#[utoipa::path(
    get,
    path = path::VMS,
    operation_id = "list_vms",
    params(("tenant" = Option<openapi::TenantId>, Header, description = "Act for this tenant.")),
    responses(
        (status = 200, description = "The VMs.", body = VmList),
        (status = "default", description = "Not done.", body = Problem),
    )
)]
pub(super) async fn list(State(api): State<Arc<Api>>, caller: Caller) -> Json<VmList> {
    let ids = view::vms(&api.service, &caller);
    Json(VmList {
        vms: ids
            .iter()
            .map(|id| view::vm(&api.service, &caller, id))
            .collect(),
    })
}

/// One VM.
#[utoipa::path(
    get,
    path = path::VM,
    operation_id = "show_vm",
    params(
        ("id" = openapi::VmId, Path, description = "Which VM."),
        ("tenant" = Option<openapi::TenantId>, Header, description = "Act for this tenant."),
    ),
    responses(
        (status = 200, description = "The VM.", body = Vm),
        (status = "default", description = "Not done.", body = Problem),
    )
)]
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Id(id): Id<VmId>,
) -> Result<Json<Vm>, Refused> {
    if !view::vms(&api.service, &caller).contains(&id) {
        let message = format!("there is no VM {id}");
        return Err(Refused::field(ProblemCode::NotFound, "id", message));
    }
    Ok(Json(view::vm(&api.service, &caller, &id)))
}
