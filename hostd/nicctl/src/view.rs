//! What people see of the API's bodies. All of it is plain text, made without asking anybody.

use std::time::{Duration, UNIX_EPOCH};

use host_api::{Event, Health, HealthStatus, Limit, Nic, NicState, Placement, StepTiming, Vm};
use nic_model::{Addressing, HotplugMode, PowerState, RateLimit, RateLimits, Route};

use crate::table::{list, table};

/// What stands where there is nothing to tell.
const NONE: &str = "-";

/// One line a NIC.
pub(crate) fn nics(nics: &[Nic]) -> String {
    let header = [
        "NIC",
        "STATE",
        "VM",
        "TARGET",
        "LINK",
        "MAC",
        "ADDRESSES",
        "CONDITION",
    ];
    let rows = nics
        .iter()
        .map(|nic| {
            let place = nic.placement.as_ref();
            [
                nic.id.to_string(),
                nic.state.to_string(),
                or_none(place.map(|place| place.vm.to_string())),
                or_none(place.map(|place| place.target.to_string())),
                or_none(place.map(|place| place.link_name.to_string())),
                nic.mac.to_string(),
                joined(&nic.addresses),
                condition(nic),
            ]
        })
        .collect::<Vec<_>>();
    table(header, &rows)
}

/// All about one NIC.
pub(crate) fn nic(nic: &Nic) -> String {
    let mut entries = vec![
        ("nic", nic.id.to_string()),
        ("state", nic.state.to_string()),
        ("condition", condition(nic)),
        ("tenant", nic.tenant.to_string()),
        ("network", nic.network.to_string()),
        ("mac", nic.mac.to_string()),
        ("addressing", addressing(&nic.addressing)),
        ("addresses", joined(&nic.addresses)),
        ("mtu", nic.mtu.bytes().to_string()),
        ("routes", or_none_text(nic.routes.iter().map(route))),
        ("rates", rates(&nic.limits)),
        ("queues", nic.queues.to_string()),
        ("placement", or_none(nic.placement.as_ref().map(placement))),
    ];
    if let Some(next) = &nic.moving_to {
        entries.push(("moving to", placement(next)));
    }
    entries.extend([
        ("generation", nic.generation.to_string()),
        ("created", time(nic.created_at_ms)),
        ("updated", time(nic.updated_at_ms)),
    ]);
    list(&entries) + &steps(&nic.timings)
}

/// The end of a change, in one line.
pub(crate) fn outcome(nic: &Nic) -> String {
    let place = nic
        .placement
        .as_ref()
        .map(|place| format!(" in {}, {} as {}", place.vm, place.target, place.link_name));
    let ends = nic.timings.iter().filter_map(StepTiming::end_ms);
    let total = ends.reduce(f64::max).filter(|_| nic.state.is_settled());
    let total = total.map(|total| format!(" ({total:.1} ms)"));
    format!(
        "{} is {}{}: {}, {}{}",
        nic.id,
        nic.state,
        place.unwrap_or_default(),
        nic.mac,
        joined(&nic.addresses),
        total.unwrap_or_default(),
    )
}

/// What there is to say of a NIC beyond its state, the most pressing first.
pub(crate) fn condition(nic: &Nic) -> String {
    if let Some(blocked) = &nic.blocked {
        return format!(
            "blocked: {} (since {}, next try {})",
            blocked.reason,
            time(blocked.since_ms),
            time(blocked.next_retry_ms)
        );
    }
    if let Some(degraded) = &nic.degraded {
        return format!("degraded: {}", degraded.reason);
    }
    if let Some(step) = &nic.step {
        return format!("step {step}");
    }
    match &nic.last_error {
        Some(problem) if nic.state == NicState::Available => format!("failed: {}", problem.message),
        _ => NONE.to_owned(),
    }
}

fn steps(timings: &[StepTiming]) -> String {
    let names = timings.iter().map(|timing| timing.step.0.as_str());
    let width = widest(names);
    let lines = timings.iter().map(|timing| step(timing, width) + "\n");
    let heading = (!timings.is_empty()).then(|| "steps:\n".to_owned());
    heading.into_iter().chain(lines).collect()
}

/// The width of a column of step names.
pub(crate) fn widest<'a>(names: impl IntoIterator<Item = &'a str>) -> usize {
    let widths = names.into_iter().map(|name| name.chars().count());
    widths.max().unwrap_or(0)
}

/// When a step began, where that is known, what it was, how long it took, and by whose clock.
pub(crate) fn step(timing: &StepTiming, name_width: usize) -> String {
    let at = timing.at_ms.map(|at_ms| format!("{at_ms:+.1} ms"));
    format!(
        "{:>13}  {:<name_width$}  {:>8.1} ms  {}",
        at.unwrap_or_default(),
        timing.step,
        timing.duration_ms,
        timing.source
    )
}

/// One line a VM.
pub(crate) fn vms(vms: &[Vm]) -> String {
    let header = ["VM", "POWER", "CLASS", "AGENT", "NICS", "FREE SLOTS"];
    let rows = vms
        .iter()
        .map(|vm| {
            [
                vm.id.to_string(),
                power(vm.power).to_owned(),
                vm.class.to_string(),
                vm.agent.state.to_string(),
                format!("{} of {}", vm.usage.nics, vm.limits.max_nics),
                format!("{} of {}", vm.slots.free, vm.slots.total),
            ]
        })
        .collect::<Vec<_>>();
    table(header, &rows)
}

/// All about one VM.
pub(crate) fn vm(vm: &Vm) -> String {
    let agent = &vm.agent;
    list(&[
        ("vm", vm.id.to_string()),
        ("power", power(vm.power).to_owned()),
        ("class", vm.class.to_string()),
        (
            "agent",
            match agent.since_ms {
                // As it was when hostd started.
                0 => agent.state.to_string(),
                since_ms => format!("{} since {}", agent.state, time(since_ms)),
            },
        ),
        ("agent version", or_none(agent.version.clone())),
        ("boot id", or_none(agent.boot_id.clone())),
        ("hot-plug", hotplug(vm.hotplug).to_owned()),
        (
            "slots",
            format!(
                "{} free, {} reserved, {} in all",
                vm.slots.free, vm.slots.reserved, vm.slots.total
            ),
        ),
        (
            "NICs",
            format!("{} of {}", vm.usage.nics, vm.limits.max_nics),
        ),
        (
            "addresses",
            format!(
                "{}, at most {} a NIC",
                vm.usage.addresses, vm.limits.max_addresses_per_nic
            ),
        ),
        ("queues", format!("at most {} a NIC", vm.limits.max_queues)),
        ("rates", rates(&vm.limits.rates)),
        ("holds", joined(&vm.nics)),
    ])
}

/// One line a limit.
pub(crate) fn limits(limits: &[Limit]) -> String {
    let rows = limits
        .iter()
        .map(|limit| {
            [
                limit.scope.to_string(),
                limit.name.clone(),
                limit
                    .value
                    .map_or("unlimited".to_owned(), |value| value.to_string()),
                limit.usage.to_string(),
            ]
        })
        .collect::<Vec<_>>();
    table(["OF", "LIMIT", "VALUE", "IN USE"], &rows)
}

/// hostd's state in a line, and what is wrong in a line each.
pub(crate) fn health(health: &Health) -> String {
    let status = match health.status {
        HealthStatus::Ok => "ok",
        HealthStatus::Degraded => "degraded",
    };
    let problems = health
        .problems
        .iter()
        .map(|problem| format!("  {problem}\n"));
    format!("hostd {} is {status}\n", health.version) + &problems.collect::<String>()
}

/// One line an event.
pub(crate) fn event(event: &Event) -> String {
    let nic = event.nic.as_ref().map(ToString::to_string);
    let vm = event.vm.as_ref().map(ToString::to_string);
    let step = event.step.as_ref().map(|timing| {
        format!(
            "{} {:.1} ms ({})",
            timing.step, timing.duration_ms, timing.source
        )
    });
    let body = event.body.as_ref().map(|nic| match condition(nic) {
        nothing if nothing == NONE => nic.state.to_string(),
        condition => format!("{}, {condition}", nic.state),
    });
    // Of a NIC, the message often says what its condition says already.
    let is_said = |message: &&String| body.as_ref().is_none_or(|body| !body.contains(*message));
    let message = event.message.as_ref().filter(is_said).cloned();
    let place = format!(
        "{}  {:<11}  {:<14}  {}",
        time(event.at_ms),
        event.kind,
        or_none(nic),
        or_none(vm)
    );
    let rest = step.into_iter().chain(body).chain(message);
    let whole: Vec<_> = std::iter::once(place).chain(rest).collect();
    whole.join("  ")
}

fn placement(place: &Placement) -> String {
    format!(
        "{}, {} as {} (slot {}, PCI {})",
        place.vm, place.target, place.link_name, place.slot, place.pci_path
    )
}

fn addressing(addressing: &Addressing) -> String {
    match addressing {
        Addressing::Static { .. } => "static".to_owned(),
        Addressing::Dhcp { .. } => "dhcp".to_owned(),
    }
}

fn route(route: &Route) -> String {
    let gateway = route.gateway.map(|gateway| format!(" via {gateway}"));
    let metric = route.metric.map(|metric| format!(" metric {metric}"));
    format!(
        "{}{}{}",
        route.destination,
        gateway.unwrap_or_default(),
        metric.unwrap_or_default()
    )
}

fn rates(limits: &RateLimits) -> String {
    format!("in {}, out {}", rate(limits.inbound), rate(limits.outbound))
}

fn rate(limit: RateLimit) -> String {
    let bandwidth = limit.bandwidth.map(|rate| rate.to_string());
    let packets = limit.packets.map(|rate| rate.to_string());
    let both = bandwidth.into_iter().chain(packets).collect::<Vec<_>>();
    if both.is_empty() {
        "unlimited".to_owned()
    } else {
        both.join(" and ")
    }
}

fn power(power: Option<PowerState>) -> &'static str {
    match power {
        Some(PowerState::Running) => "running",
        Some(PowerState::Paused) => "paused",
        Some(PowerState::Migrating) => "migrating",
        Some(PowerState::Off) => "off",
        None => "unknown",
    }
}

fn hotplug(mode: Option<HotplugMode>) -> &'static str {
    match mode {
        Some(HotplugMode::Acpi) => "acpi",
        Some(HotplugMode::Native) => "native",
        None => "unknown",
    }
}

/// RFC 3339, in UTC. A time that no calendar has is shown as the number it is.
fn time(unix_ms: u64) -> String {
    /// The last millisecond of the year 9999, where the format ends.
    const LAST_MS: u64 = 253_402_300_799_999;
    if unix_ms > LAST_MS {
        return format!("{unix_ms} ms");
    }
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(unix_ms)).to_string()
}

fn joined<T: ToString>(items: &[T]) -> String {
    or_none_text(items.iter().map(ToString::to_string))
}

fn or_none_text(items: impl Iterator<Item = String>) -> String {
    let text = items.collect::<Vec<_>>().join(", ");
    or_none((!text.is_empty()).then_some(text))
}

fn or_none(text: Option<String>) -> String {
    text.unwrap_or_else(|| NONE.to_owned())
}

#[cfg(test)]
mod tests;
