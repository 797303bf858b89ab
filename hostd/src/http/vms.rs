//! `/v1/vms`: VMs as seen last.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use host_api::{ProblemCode, Vm, VmList, openapi, path};
use nic_model::VmId;

use super::document::{self, Refusals};
use super::fields::{Id, NoQuery};
use super::problem::Refused;
use super::{Api, view};
use crate::service::Caller;

/// Every VM the caller may use.
#[utoipa::path(
    get,
    path = path::VMS,
    operation_id = "list_vms",
    tag = document::VMS,
    params(openapi::CallerHeaders),
    responses((status = 200, description = "The VMs.", body = VmList), Refusals)
)]
pub(super) async fn list(State(api): State<Arc<Api>>, caller: Caller, _: NoQuery) -> Json<VmList> {
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
    tag = document::VMS,
    params(openapi::VmInPath, openapi::CallerHeaders),
    responses((status = 200, description = "The VM.", body = Vm), Refusals)
)]
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Id(id): Id<VmId>,
    _: NoQuery,
) -> Result<Json<Vm>, Refused> {
    if !view::vms(&api.service, &caller).contains(&id) {
        let message = format!("there is no VM {id}");
        return Err(Refused::field(ProblemCode::NotFound, "id", message));
    }
    Ok(Json(view::vm(&api.service, &caller, &id)))
}
