//! Orders to a cloud that runs, over HTTP: what goes wrong in it, how fast it goes, how it is.
//!
//! ```text
//!   GET    /                        everything at a glance: VMs, rules, clocks, events
//!   GET    /v1/events?after=N       what has happened
//!   GET    /v1/rules                rules in force, and what each has done
//!   POST   /v1/rules                one more (a rule, as in a file of rules, in JSON)
//!   DELETE /v1/rules[/NAME]         all, or one
//!   POST   /v1/paces                how fast a transition goes
//!   POST   /v1/clock                {"vm": "vm1", "order": "freeze"}; without vm all of them;
//!                                   orders: "freeze", "run", {"speed": 10}, {"step": "5s"}
//!   POST   /v1/vms/VM/step          does the transition that has waited longest to be told
//!   POST   /v1/vms/VM/{reset,kill,start}
//!   POST   /v1/hosts/HOST/kill      kills hostd, which is started again
//!   GET    /v1/hosts/HOST/links     what links there are on the host
//!   POST   /v1/snapshot             tells all there is to make the cloud anew; kills each
//!                                   hostd for it, which is started again
//!   POST   /v1/restore              the NICs of such a snapshot, then its rules and paces
//!   POST   /v1/reset                as at first
//!   POST   /v1/down                 the end
//! ```
//!
//! A refusal is `{"error": "…"}`. Requests that change something bear the content type
//! `application/json`. What has begun is done to its end, also when whoever has ordered it hangs
//! up, and an event tells of that; what another order keeps waiting is refused. Whoever may open
//! the socket may do all of it; over TCP the launcher passes it on from the loopback alone, to a
//! second socket that answers only to names of this machine.

mod client;
mod gate;

use std::future::IntoFuture;

use axum::Json;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::StatusCode;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use futures::future::join_all;
use misbehaviour::{ClockOrder, ClockRule, PaceRule, Rule, Script, Span};
use nic_model::VmId;
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;

use super::cloud::{Cloud, OrderError, is_of_the_host};
use super::event_log::Event;
use super::machine::{Order, RuleStatus, Status};
use super::snapshot::{self, Snapshot};
use super::topology::HostName;
use super::trouble::{Doing, Trouble, in_full};

pub use client::ControlClient;

/// A snapshot holds the journals of all hosts.
const BODY_MAX: usize = 256 * 1024 * 1024;

/// Everything at a glance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Page {
    /// The VMs.
    pub vms: Vec<VmPage>,
    /// What has happened lately.
    pub events: Vec<Event>,
}

/// One VM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VmPage {
    /// Its name.
    pub id: VmId,
    /// Its process; absent while it is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// How its hardware is, if it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware: Option<Status>,
}

/// A rule and what it has done in each VM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RulePage {
    /// The rule.
    pub rule: Rule,
    /// How often it has taken effect, in all VMs together.
    pub done: u64,
}

/// A change of clocks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClockRequest {
    /// Of this VM alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<VmId>,
    /// What becomes of it.
    pub order: ClockOrder,
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Refusal {
    /// For people.
    pub(super) error: String,
}

#[derive(Debug, Deserialize)]
struct EventsQuery {
    #[serde(default)]
    after: u64,
}

/// Serves for ever: at `listener` whoever may open it, at `passed_on` what comes over TCP.
///
/// # Errors
/// When a socket fails.
pub(super) async fn serve(
    listener: UnixListener,
    passed_on: UnixListener,
    cloud: Cloud,
) -> Result<(), Trouble> {
    let routes = axum::Router::new()
        .route("/", get(page))
        .route("/v1/events", get(events))
        .route("/v1/rules", get(rules).post(add_rule).delete(clear_rules))
        .route("/v1/rules/{name}", delete(remove_rule))
        .route("/v1/paces", post(set_pace))
        .route("/v1/clock", post(set_clock))
        .route("/v1/vms/{vm}/step", post(step))
        .route("/v1/vms/{vm}/reset", post(reset_vm))
        .route("/v1/vms/{vm}/kill", post(kill_vm))
        .route("/v1/vms/{vm}/start", post(start_vm))
        .route("/v1/hosts/{host}/kill", post(kill_hostd))
        .route("/v1/hosts/{host}/links", get(host_links))
        .route("/v1/snapshot", post(take_snapshot))
        .route("/v1/restore", post(restore))
        .route("/v1/reset", post(reset))
        .route("/v1/down", post(down))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(from_fn_with_state(cloud.clone(), gate::to_the_end))
        .layer(from_fn(gate::only_programs))
        .layer(from_fn(gate::in_one_form))
        .with_state(cloud);
    let guarded = routes.clone().layer(from_fn(gate::only_this_machine));
    let both = futures::future::try_join(
        axum::serve(listener, routes).into_future(),
        axum::serve(passed_on, guarded).into_future(),
    );
    both.await.map(drop).doing("serve orders")
}

impl IntoResponse for OrderError {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::NoHost(_) | Self::NoVm(_) | Self::NoRule(_) => StatusCode::NOT_FOUND,
            Self::Off(_) | Self::On(_) | Self::RuleTaken(_) => StatusCode::CONFLICT,
            Self::Script(_) => StatusCode::BAD_REQUEST,
            Self::Busy(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Trouble(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let error = in_full(&self);
        (status, Json(Refusal { error })).into_response()
    }
}

async fn page(State(cloud): State<Cloud>) -> Json<Page> {
    let page = async |(id, pid)| {
        // One that is off, or does not answer, has no status: that is what there is to say.
        let hardware = cloud.give(&id, &Order::Status).await.ok().flatten();
        VmPage { id, pid, hardware }
    };
    let vms = join_all(cloud.vms().into_iter().map(page)).await;
    let events = cloud.events().after(0);
    Json(Page { vms, events })
}

async fn events(State(cloud): State<Cloud>, Query(query): Query<EventsQuery>) -> Json<Vec<Event>> {
    Json(cloud.events().after(query.after))
}

async fn rules(State(cloud): State<Cloud>) -> Json<Vec<RulePage>> {
    let vms = cloud.vms();
    let asked = vms.iter().map(|(vm, _)| cloud.give(vm, &Order::Status));
    let told = join_all(asked).await.into_iter().flatten().flatten();
    let done: Vec<RuleStatus> = told.flat_map(|status| status.rules).collect();
    let page = |rule: Rule| {
        let same = done.iter().filter(|status| status.rule.name == rule.name);
        let standing = u64::from(is_of_the_host(&rule));
        let done = same.map(|status| status.done).sum::<u64>() + standing;
        RulePage { rule, done }
    };
    Json(cloud.plan().script.rules.into_iter().map(page).collect())
}

async fn add_rule(
    State(cloud): State<Cloud>,
    Json(rule): Json<Rule>,
) -> Result<StatusCode, OrderError> {
    cloud.add_rule(rule).await?;
    Ok(StatusCode::CREATED)
}

async fn clear_rules(State(cloud): State<Cloud>) -> Result<StatusCode, OrderError> {
    cloud.remove_rules(None).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn remove_rule(
    State(cloud): State<Cloud>,
    Path(name): Path<String>,
) -> Result<StatusCode, OrderError> {
    match cloud.remove_rules(Some(&name)).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(OrderError::NoRule(name)),
    }
}

async fn set_pace(
    State(cloud): State<Cloud>,
    Json(pace): Json<PaceRule>,
) -> Result<StatusCode, OrderError> {
    cloud.set_pace(pace).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn set_clock(
    State(cloud): State<Cloud>,
    Json(request): Json<ClockRequest>,
) -> Result<StatusCode, OrderError> {
    let clock = ClockRule {
        at: Span::default(),
        vm: request.vm.clone(),
        order: request.order,
    };
    cloud.check(&Script {
        clocks: vec![clock],
        ..Script::default()
    })?;
    let order = Order::Clock(request.order);
    match request.vm {
        Some(vm) => drop(cloud.give(&vm, &order).await?),
        None => cloud.give_all(&[order]).await?,
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn step(State(cloud): State<Cloud>, Path(vm): Path<VmId>) -> Result<StatusCode, OrderError> {
    cloud.give(&vm, &Order::Step).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn reset_vm(
    State(cloud): State<Cloud>,
    Path(vm): Path<VmId>,
) -> Result<StatusCode, OrderError> {
    cloud.give(&vm, &Order::Reset).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn kill_vm(
    State(cloud): State<Cloud>,
    Path(vm): Path<VmId>,
) -> Result<StatusCode, OrderError> {
    cloud.kill_vm(&vm)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn start_vm(
    State(cloud): State<Cloud>,
    Path(vm): Path<VmId>,
) -> Result<StatusCode, OrderError> {
    cloud.start_vm(&vm).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn kill_hostd(
    State(cloud): State<Cloud>,
    Path(host): Path<HostName>,
) -> Result<StatusCode, OrderError> {
    cloud.kill_hostd(&host)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn host_links(
    State(cloud): State<Cloud>,
    Path(host): Path<HostName>,
) -> Result<Json<Vec<String>>, OrderError> {
    Ok(Json(cloud.host_links(&host).await?))
}

async fn take_snapshot(State(cloud): State<Cloud>) -> Result<Json<Snapshot>, OrderError> {
    Ok(Json(snapshot::take(&cloud).await?))
}

async fn restore(
    State(cloud): State<Cloud>,
    Json(snapshot): Json<Snapshot>,
) -> Result<StatusCode, OrderError> {
    let turn = cloud.turn("restore a snapshot").await?;
    snapshot::place(&cloud, &snapshot).await?;
    cloud.follow(&turn, snapshot.plan.script).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn reset(State(cloud): State<Cloud>) -> Result<StatusCode, OrderError> {
    cloud.reset().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Whoever asked sees the connection end.
async fn down(State(cloud): State<Cloud>) -> StatusCode {
    cloud.site().sweep().unwrap_or_default();
    std::process::exit(0)
}
