//! Metrics: counters kept here, and gauges read from the ledger when somebody asks.
//!
//! A time series that somebody else can make and that stays is a leak. So no counter bears a value
//! that a client or a guest can choose; of the gauges those of limits bear names of tenants, which
//! operators choose freely, each for as long as that tenant has a NIC.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use axum::http::StatusCode;
use host_api::{Limit, LimitScope, Vm};
use nic_lifecycle::NicState;
use nic_model::PowerState;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tokio::sync::broadcast::error::RecvError;

use super::{Api, view};
use crate::board::{Happening, StepTiming};
use crate::service::Caller;

/// The format of [`scrape`].
pub(super) const CONTENT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const PREFIX: &str = "hostd";

/// Labels by name; names and values are few and ours.
type Labels = Vec<(&'static str, String)>;
type Gauges = Family<Labels, Gauge<u64, AtomicU64>>;

/// The labels of a step, of which there are several in every operation: nothing is allocated.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabels {
    step: &'static str,
    source: &'static str,
}

/// Kinds of mutations.
#[derive(Debug, Clone, Copy)]
pub(super) enum Operation {
    Create,
    Attach,
    Detach,
    Move,
    Delete,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Attach => "attach",
            Self::Detach => "detach",
            Self::Move => "move",
            Self::Delete => "delete",
        }
    }
}

/// What is counted while hostd runs.
pub(super) struct Metrics {
    registry: Registry,
    operations: Family<Labels, Counter>,
    requests: Family<Labels, Counter>,
    steps: Family<StepLabels, Histogram, fn() -> Histogram>,
    events_missed: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let operations = Family::<Labels, Counter>::default();
        let requests = Family::<Labels, Counter>::default();
        let steps: Family<_, _, fn() -> Histogram> = Family::new_with_constructor(step_histogram);
        let events_missed = Counter::default();
        registry.register(
            "operations",
            "Mutations by kind and outcome",
            operations.clone(),
        );
        registry.register(
            "http_requests",
            "Requests by route and status",
            requests.clone(),
        );
        registry.register_with_unit(
            "step_duration",
            "Steps of attaching and detaching",
            Unit::Seconds,
            steps.clone(),
        );
        registry.register(
            "events_missed",
            "Events that a follower was too slow for",
            events_missed.clone(),
        );
        Self {
            registry,
            operations,
            requests,
            steps,
            events_missed,
        }
    }
}

/// 0.1 ms to 27 min: an agent's step at one end, a guest that boots at the other.
fn step_histogram() -> Histogram {
    Histogram::new(exponential_buckets(1e-4, 4.0, 13))
}

impl Metrics {
    /// A mutation was answered.
    pub(super) fn count_operation(&self, operation: Operation, outcome: &'static str) {
        let labels = vec![
            ("operation", operation.name().to_owned()),
            ("outcome", outcome.to_owned()),
        ];
        self.operations.get_or_create(&labels).inc();
    }

    /// A request was answered.
    pub(super) fn count_request(&self, route: &str, status: StatusCode) {
        let labels = vec![
            ("route", route.to_owned()),
            ("status", status.as_str().to_owned()),
        ];
        self.requests.get_or_create(&labels).inc();
    }

    /// A follower lagged behind.
    pub(super) fn count_missed(&self, events: u64) {
        self.events_missed.inc_by(events);
    }

    fn count_step(&self, timing: &StepTiming) {
        let labels = StepLabels {
            step: view::step_name(timing.step),
            source: view::step_source(timing.step).name(),
        };
        self.steps
            .get_or_create(&labels)
            .observe(timing.duration.as_secs_f64());
    }
}

/// Counts what happens, for as long as hostd runs.
pub(super) async fn observe(api: Arc<Api>) {
    let mut events = api.service.board.subscribe(None).future;
    loop {
        match events.recv().await {
            Ok(event) => {
                if let Happening::StepDone(timing) = &event.what {
                    api.metrics.count_step(timing);
                }
            }
            Err(RecvError::Lagged(missed)) => api.metrics.count_missed(missed),
            Err(RecvError::Closed) => return,
        }
    }
}

/// Every metric as text. Gauges are made anew each time, so that what is gone leaves no series.
pub(super) fn scrape(api: &Api) -> Result<String, fmt::Error> {
    let mut now = Registry::with_prefix(PREFIX);
    let limits = view::limits(&api.service, &Caller::Operator);
    let values = limits
        .iter()
        .filter_map(|limit| Some((limit_labels(limit), limit.value?)));
    let usage = limits
        .iter()
        .map(|limit| (limit_labels(limit), limit.usage));
    gauge(&mut now, "nics", "NICs by state", nics_by_state(api));
    gauge(&mut now, "limit", "Limits that are set", values);
    gauge(&mut now, "limit_usage", "What is used of each limit", usage);
    gauge(
        &mut now,
        "in_flight",
        "Requests and followers now",
        in_flight(api),
    );
    vm_gauges(&mut now, api);
    let mut text = String::new();
    encode_registry(&mut text, &now)?;
    encode_registry(&mut text, &api.metrics.registry)?;
    encode_eof(&mut text)?;
    Ok(text)
}

fn gauge(
    registry: &mut Registry,
    name: &str,
    help: &str,
    series: impl IntoIterator<Item = (Labels, u64)>,
) {
    let family = Gauges::default();
    for (labels, value) in series {
        family.get_or_create(&labels).inc_by(value);
    }
    registry.register(name, help, family);
}

fn vm_gauges(registry: &mut Registry, api: &Api) {
    let ids = view::vms(&api.service, &Caller::Operator);
    let vms: Vec<Vm> = ids
        .iter()
        .map(|id| view::vm(&api.service, &Caller::Operator, id))
        .collect();
    let power = |vm: &Vm| vm.power.map_or("unknown", power_word).to_owned();
    let powers = vms.iter().map(|vm| (vec![("power", power(vm))], 1));
    let agents = vms
        .iter()
        .map(|vm| (vec![("state", vm.agent.state.to_string())], 1));
    let of = |vm: &Vm| vec![("vm", vm.id.to_string())];
    let total = vms.iter().map(|vm| (of(vm), vm.slots.total));
    let free = vms.iter().map(|vm| (of(vm), vm.slots.free));
    gauge(registry, "vms", "VMs by power", powers);
    gauge(registry, "agents", "VMs by their agent's state", agents);
    gauge(registry, "slots", "Hot-plug slots", total);
    gauge(registry, "slots_free", "Hot-plug slots to be had", free);
}

fn power_word(power: PowerState) -> &'static str {
    match power {
        PowerState::Running => "running",
        PowerState::Paused => "paused",
        PowerState::Migrating => "migrating",
        PowerState::Off => "off",
    }
}

/// Every state, also those that no NIC is in: a series that comes and goes cannot be alarmed on.
fn nics_by_state(api: &Api) -> Vec<(Labels, u64)> {
    let series = |state, count| (vec![("state", view::nic_state(state).to_string())], count);
    let mut all: Vec<_> = NicState::ALL.map(|state| series(state, 0)).into();
    api.service.store.read(|ledger| {
        all.extend(ledger.nics().map(|record| series(record.state, 1)));
    });
    all
}

fn limit_labels(limit: &Limit) -> Labels {
    let (scope, of) = match &limit.scope {
        LimitScope::Host => ("host", String::new()),
        LimitScope::Tenant { tenant } => ("tenant", tenant.to_string()),
        LimitScope::Vm { vm } => ("vm", vm.to_string()),
    };
    vec![
        ("scope", scope.to_owned()),
        ("of", of),
        ("limit", limit.name.clone()),
    ]
}

fn in_flight(api: &Api) -> [(Labels, u64); 2] {
    let series = |what: &str, count| (vec![("what", what.to_owned())], count);
    [
        series("requests", api.requests.taken() as u64),
        series("followers", api.streams.taken() as u64),
    ]
}
