//! `/v1/nics`: NICs, shown and changed.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use host_api::{AttachNic, CreateNic, MoveNic, MutationQuery, Nic, NicList, openapi, path};
use nic_model::NicId;

use super::body::{JsonBody, NoBody};
use super::document::{self, Mutated, Refusals};
use super::fields::{Id, NoQuery};
use super::metrics::Operation;
use super::mutation::{Mutation, carry_out};
use super::problem::Refused;
use super::{Api, view};
use crate::service::{Answer, Caller, Service};

/// Every NIC the caller may see.
#[utoipa::path(
    get,
    path = path::NICS,
    operation_id = "list_nics",
    tag = document::NICS,
    params(openapi::CallerHeaders),
    responses((status = 200, description = "The NICs.", body = NicList), Refusals)
)]
pub(super) async fn list(State(api): State<Arc<Api>>, caller: Caller, _: NoQuery) -> Json<NicList> {
    let records = api.service.nics(&caller);
    Json(NicList {
        nics: records
            .iter()
            .map(|record| view::nic(&api.service, record))
            .collect(),
    })
}

/// Makes a NIC, and attaches it where the request says where.
#[utoipa::path(
    post,
    path = path::NICS,
    operation_id = "create_nic",
    tag = document::NICS,
    params(MutationQuery, openapi::MutationHeaders),
    request_body = CreateNic,
    responses(Mutated)
)]
pub(super) async fn create(
    State(api): State<Arc<Api>>,
    mutation: Mutation,
    JsonBody(request): JsonBody<CreateNic>,
) -> Result<Response, Refused> {
    let act = |service: Arc<Service>, ask| async move { service.create(&ask, request).await };
    carry_out(&api, Operation::Create, mutation, act).await
}

/// One NIC.
#[utoipa::path(
    get,
    path = path::NIC,
    operation_id = "show_nic",
    tag = document::NICS,
    params(openapi::NicInPath, openapi::CallerHeaders),
    responses((status = 200, description = "The NIC.", body = Nic), Refusals)
)]
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Id(id): Id<NicId>,
    _: NoQuery,
) -> Result<Json<Nic>, Refused> {
    let record = api.service.nic(&caller, &id)?;
    Ok(Json(view::nic(&api.service, &record)))
}

/// Deletes a NIC that is available; the answer shows it as it was last.
#[utoipa::path(
    delete,
    path = path::NIC,
    operation_id = "delete_nic",
    tag = document::NICS,
    params(openapi::NicInPath, MutationQuery, openapi::MutationHeaders),
    responses(Mutated)
)]
pub(super) async fn delete(
    State(api): State<Arc<Api>>,
    mutation: Mutation,
    Id(id): Id<NicId>,
    _: NoBody,
) -> Result<Response, Refused> {
    let act = |service: Arc<Service>, ask| async move {
        service.delete(&ask, &id).await.map(Answer::Settled)
    };
    carry_out(&api, Operation::Delete, mutation, act).await
}

/// Attaches a NIC that is available.
#[utoipa::path(
    post,
    path = path::NIC_ATTACH,
    operation_id = "attach_nic",
    tag = document::NICS,
    params(openapi::NicInPath, MutationQuery, openapi::MutationHeaders),
    request_body = AttachNic,
    responses(Mutated)
)]
pub(super) async fn attach(
    State(api): State<Arc<Api>>,
    mutation: Mutation,
    Id(id): Id<NicId>,
    JsonBody(request): JsonBody<AttachNic>,
) -> Result<Response, Refused> {
    let act = |service: Arc<Service>, ask| async move { service.attach(&ask, &id, request).await };
    carry_out(&api, Operation::Attach, mutation, act).await
}

/// Takes a NIC out of its VM.
#[utoipa::path(
    post,
    path = path::NIC_DETACH,
    operation_id = "detach_nic",
    tag = document::NICS,
    params(openapi::NicInPath, MutationQuery, openapi::MutationHeaders),
    responses(Mutated)
)]
pub(super) async fn detach(
    State(api): State<Arc<Api>>,
    mutation: Mutation,
    Id(id): Id<NicId>,
    _: NoBody,
) -> Result<Response, Refused> {
    let act = |service: Arc<Service>, ask| async move { service.detach(&ask, &id).await };
    carry_out(&api, Operation::Detach, mutation, act).await
}

/// Moves a NIC to another target, of the same VM or of another.
#[utoipa::path(
    post,
    path = path::NIC_MOVE,
    operation_id = "move_nic",
    tag = document::NICS,
    params(openapi::NicInPath, MutationQuery, openapi::MutationHeaders),
    request_body = MoveNic,
    responses(Mutated)
)]
pub(super) async fn relocate(
    State(api): State<Arc<Api>>,
    mutation: Mutation,
    Id(id): Id<NicId>,
    JsonBody(request): JsonBody<MoveNic>,
) -> Result<Response, Refused> {
    let act =
        |service: Arc<Service>, ask| async move { service.relocate(&ask, &id, request).await };
    carry_out(&api, Operation::Move, mutation, act).await
}
