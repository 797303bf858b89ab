//! The HTTP API, on a unix socket or whatever else brings connections.
//!
//! ```text
//!   connection ─► who is it (SO_PEERCRED) ─► guard: room for one more? ─► route
//!        │                                                                  │
//!        │   caller, token, wait, body: each checked, each refusal names its field
//!        │                                                                  ▼
//!        └──────────── answer ◄── view ◄──────────── Service ◄── admission in its own task
//! ```
//!
//! Nothing is decided here: requests become calls of [`Service`], records become the types of
//! `host-api`. What this layer does own is protection: everything a client can hold or send has a
//! cap and a deadline, and its user a share, so that no client takes hostd away from the others.

mod body;
mod caller;
mod connection;
mod document;
mod events;
mod fields;
mod guard;
mod limits;
mod listen;
mod metrics;
mod mutation;
mod nics;
mod operator;
mod problem;
mod shares;
mod view;
mod vms;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use host_api::{Limit, Nic, Vm};
use nic_lifecycle::NicRecord;
use nic_model::TenantId;
use tokio::task::JoinSet;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::config::Config;
use crate::service::{Caller, Service};
pub use connection::Connections;
use events::EventIds;
pub use listen::ServeError;
use metrics::Metrics;
use shares::Shares;

/// Requests worked on at once, waiting ones included. One user gets half of them at most.
const REQUESTS_MAX: usize = 2048;
/// Clients that follow events at once. One user gets half of them at most.
const STREAMS_MAX: usize = 512;

/// What every handler works with.
struct Api {
    service: Arc<Service>,
    tenants_by_uid: BTreeMap<u32, TenantId>,
    metrics: Metrics,
    event_ids: EventIds,
    requests: Arc<Shares>,
    streams: Arc<Shares>,
    document: Bytes,
}

/// Serves the API on the socket of `config` until the future is dropped, which ends every
/// connection.
///
/// # Errors
/// When the socket cannot be made, or somebody answers on it already.
pub async fn serve(config: &Config, service: Arc<Service>) -> Result<(), ServeError> {
    let listener = listen::bind(&config.socket, config.socket_mode).await?;
    serve_over(listener, config.tenants_by_uid.clone(), service).await;
    Ok(())
}

/// Serves the API on `connections` until the future is dropped, which ends every one of them.
/// Users that act for one tenant are those of `tenants_by_uid`; every other one is an operator.
pub async fn serve_over(
    mut connections: impl Connections,
    tenants_by_uid: BTreeMap<u32, TenantId>,
    service: Arc<Service>,
) {
    let (routes, document) = routes().split_for_parts();
    let api = Arc::new(Api {
        tenants_by_uid,
        metrics: Metrics::default(),
        event_ids: EventIds::of_run(service.surroundings.unix_ms()),
        service,
        requests: Shares::new(REQUESTS_MAX),
        streams: Shares::new(STREAMS_MAX),
        document: document::text_of(document),
    });
    let mut tasks = JoinSet::new();
    tasks.spawn(metrics::observe(api.clone()));
    connection::accept_all(&mut connections, &guarded(routes, api), &mut tasks).await;
}

/// A NIC as the API shows it.
#[must_use]
pub fn nic_view(service: &Service, record: &NicRecord) -> Nic {
    view::nic(service, record)
}

/// Every limit as the API shows it to an operator.
#[must_use]
pub fn limit_views(service: &Service) -> Vec<Limit> {
    view::limits(service, &Caller::Operator)
}

/// Every VM as the API shows it to an operator.
#[must_use]
pub fn vm_views(service: &Service) -> Vec<Vm> {
    let vms = view::vms(service, &Caller::Operator);
    let views = vms
        .iter()
        .map(|id| view::vm(service, &Caller::Operator, id));
    views.collect()
}

/// Every route with its part of the document, so that neither can be without the other.
fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::with_openapi(document::head())
        .routes(routes!(nics::list, nics::create))
        .routes(routes!(nics::show, nics::delete))
        .routes(routes!(nics::attach))
        .routes(routes!(nics::detach))
        .routes(routes!(nics::relocate))
        .routes(routes!(vms::list))
        .routes(routes!(vms::show))
        .routes(routes!(limits::show))
        .routes(routes!(events::follow))
        .routes(routes!(operator::document))
        .routes(routes!(operator::health))
        .routes(routes!(operator::metrics))
}

fn guarded(routes: Router<Arc<Api>>, api: Arc<Api>) -> Router {
    routes
        .fallback(problem::no_such_path)
        .method_not_allowed_fallback(problem::no_such_method)
        .layer(axum::middleware::from_fn_with_state(
            api.clone(),
            guard::admit,
        ))
        .with_state(api)
}
