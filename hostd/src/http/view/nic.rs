//! A NIC: its record, what its VM's class makes of it, and what the board knows of it.

use agent_protocol::BindStep;
use host_api::{Blocked, Degraded, Nic, NicState, Placement, StepName, StepSource, StepTiming};
use nic_lifecycle::{NicRecord, VmClass};
use nic_model::{Addressing, IpNet};

use crate::agent_link::AgentState;
use crate::board::{self, BlockedSince, LiveNic, TimedStep};
use crate::daemon::VmHandle;
use crate::http::problem;
use crate::service::Service;

/// A worker looks at everything this often, so what has no time of its own is tried again then.
const FULL_LOOK_MS: u64 = 30_000;

/// The NIC of a record as it is now.
pub(in crate::http) fn nic(service: &Service, record: &NicRecord) -> Nic {
    let mut live = service.board.nic(&record.id);
    let agent = record.placement.as_ref().and_then(|place| {
        let state = |handle: &VmHandle| Some(handle.agent.state());
        service.vms.with(&place.vm, state)
    });
    live.degraded = degraded(live.degraded, agent.as_ref());
    let class = record.placement.as_ref().and_then(|place| {
        service
            .store
            .read(|ledger| ledger.site().class(&place.vm).cloned())
    });
    let now_ms = service.surroundings.unix_ms();
    compose(record, live, class.as_ref(), now_ms)
}

fn compose(record: &NicRecord, live: LiveNic, class: Option<&VmClass>, now_ms: u64) -> Nic {
    let in_use = record.state == nic_lifecycle::NicState::InUse;
    let degraded = live.degraded.filter(|_| in_use);
    let reported = if in_use { live.addresses } else { Vec::new() };
    Nic {
        id: record.id.clone(),
        tenant: record.tenant.clone(),
        network: record.network.clone(),
        mac: record.mac,
        addresses: addresses_in_force(&record.addressing, reported),
        addressing: record.addressing.clone(),
        mtu: record.mtu,
        routes: record.routes.clone(),
        limits: class.map_or(record.limits, |class| class.effective_rates(record.limits)),
        queues: record.queue_count,
        state: state(record.state),
        generation: record.generation,
        placement: record.placement.as_ref().map(placement),
        moving_to: record.next_placement().map(placement),
        step: live.step.map(|step| StepName::from(step.name())),
        blocked: live.blocked.map(|blocked| blocked_view(&blocked, now_ms)),
        degraded: degraded.map(|reason| Degraded { reason }),
        last_error: record
            .last_failure
            .as_ref()
            .map(|_| problem::of_failure(record)),
        timings: live.timings.iter().map(timing).collect(),
        created_at_ms: record.created_at_ms,
        updated_at_ms: record.updated_at_ms,
    }
}

/// What the guest has reported, or else that nobody in it can tell: hostd may have been started
/// since the last report, and much may have happened to the container.
fn degraded(reported: Option<String>, agent: Option<&AgentState>) -> Option<String> {
    let silent = agent.is_some_and(|agent| !matches!(agent, AgentState::Ready { .. }));
    reported.or_else(|| {
        silent.then(|| {
            nic_lifecycle::Blocked::AgentUnreachable
                .describe()
                .to_owned()
        })
    })
}

/// What is reserved, and with DHCP what the guest says that it leased: with static addresses a
/// guest has no say.
fn addresses_in_force(addressing: &Addressing, reported: Vec<IpNet>) -> Vec<IpNet> {
    let mut addresses = addressing.addresses().to_vec();
    if let Addressing::Dhcp { .. } = addressing {
        let leased = reported
            .into_iter()
            .filter(|one| !addressing.addresses().contains(one));
        addresses.extend(leased);
    }
    addresses
}

/// A state as clients know it.
pub(in crate::http) fn state(state: nic_lifecycle::NicState) -> NicState {
    match state {
        nic_lifecycle::NicState::Available => NicState::Available,
        nic_lifecycle::NicState::Attaching => NicState::Attaching,
        nic_lifecycle::NicState::InUse => NicState::InUse,
        nic_lifecycle::NicState::Detaching => NicState::Detaching,
        nic_lifecycle::NicState::Deleting => NicState::Deleting,
    }
}

fn placement(place: &nic_lifecycle::Placement) -> Placement {
    Placement {
        vm: place.vm.clone(),
        target: place.target.clone(),
        link_name: place.link_name.clone(),
        slot: place.slot.clone(),
        pci_path: place.path.clone(),
    }
}

fn blocked_view(blocked: &BlockedSince, now_ms: u64) -> Blocked {
    let waited_ms = now_ms.saturating_sub(blocked.since_ms);
    let next_look_ms = blocked.since_ms + (waited_ms / FULL_LOOK_MS + 1) * FULL_LOOK_MS;
    Blocked {
        reason: blocked_reason(blocked),
        since_ms: blocked.since_ms,
        next_retry_ms: blocked.next_retry_ms.unwrap_or(next_look_ms),
    }
}

/// The sentence that says what is waited for.
pub(super) fn blocked_reason(blocked: &BlockedSince) -> String {
    let what = blocked.reason.describe();
    blocked
        .detail
        .as_ref()
        .map_or_else(|| what.to_owned(), |detail| format!("{what}: {detail}"))
}

/// The board knows when a step ended, clients are told when it began. For a step of the guest it
/// knows only when the report came, which says nothing about either.
pub(super) fn timing(timing: &board::StepTiming) -> StepTiming {
    let began = match timing.step {
        TimedStep::Host(_) => Some(timing.at.saturating_sub(timing.duration)),
        TimedStep::Guest(_) => None,
    };
    StepTiming {
        step: StepName::from(step_name(timing.step)),
        at_ms: began.map(|began| began.as_secs_f64() * 1e3),
        duration_ms: timing.duration.as_secs_f64() * 1e3,
        source: step_source(timing.step),
    }
}

/// Who took a step.
pub(in crate::http) fn step_source(step: TimedStep) -> StepSource {
    match step {
        TimedStep::Host(_) => StepSource::Host,
        TimedStep::Guest(_) => StepSource::Guest,
    }
}

/// A step by its name on the wire.
pub(in crate::http) fn step_name(step: TimedStep) -> &'static str {
    match step {
        TimedStep::Host(step) => step.name(),
        TimedStep::Guest(BindStep::Hold) => "guest-hold",
        TimedStep::Guest(BindStep::Enter) => "guest-enter",
        TimedStep::Guest(BindStep::SetMtu) => "guest-set-mtu",
        TimedStep::Guest(BindStep::SetAddresses) => "guest-set-addresses",
        TimedStep::Guest(BindStep::SetUp) => "guest-set-up",
        TimedStep::Guest(BindStep::SetRoutes) => "guest-set-routes",
        TimedStep::Guest(BindStep::Lease) => "guest-lease",
        TimedStep::Guest(BindStep::Announce) => "guest-announce",
        TimedStep::Guest(BindStep::Verify) => "guest-verify",
        TimedStep::Guest(BindStep::Release) => "guest-release",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nic_lifecycle::{Action, Step};

    use super::*;

    fn addresses(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_guest_with_static_addresses_has_no_say_in_them() {
        let reserved = addresses(&["10.0.0.5/24"]);
        let reported = addresses(&["10.0.0.5/24", "10.9.9.9/24"]);
        let fixed = Addressing::Static {
            addresses: reserved.clone(),
        };
        let leased = Addressing::Dhcp {
            addresses: reserved.clone(),
        };

        assert_eq!(addresses_in_force(&fixed, reported.clone()), reserved);
        assert_eq!(addresses_in_force(&leased, reported.clone()), reported);
    }

    #[test]
    fn of_a_nic_whose_agent_is_silent_nobody_says_that_it_is_whole() {
        let ready = AgentState::Ready {
            agent: "0.1.0".to_owned(),
            boot_id: "626e84a8-0d74-4727-ba79-e356d7258f8d".parse().unwrap(),
        };
        let died = || Some("the container died".to_owned());

        assert_eq!(degraded(None, Some(&ready)), None);
        assert_eq!(degraded(None, None), None);
        let silent = degraded(None, Some(&AgentState::Connecting));
        assert_eq!(
            silent.as_deref(),
            Some("the agent in the guest does not answer")
        );
        assert_eq!(degraded(died(), Some(&AgentState::Connecting)), died());
    }

    #[test]
    fn what_has_no_retry_of_its_own_is_tried_at_the_next_full_look() {
        let blocked = BlockedSince {
            reason: nic_lifecycle::Blocked::AgentUnreachable,
            detail: None,
            since_ms: 1_000,
            next_retry_ms: None,
        };

        assert_eq!(blocked_view(&blocked, 1_500).next_retry_ms, 31_000);
        assert_eq!(blocked_view(&blocked, 61_500).next_retry_ms, 91_000);
    }

    #[test]
    fn a_step_is_told_from_its_beginning() {
        let ended = board::StepTiming {
            step: TimedStep::Host(Step::Admit),
            at: Duration::from_millis(12),
            duration: Duration::from_millis(5),
        };

        let told = timing(&ended);

        assert!((told.at_ms.unwrap() - 7.0).abs() < 1e-9);
        assert!((told.duration_ms - 5.0).abs() < 1e-9);
    }

    #[test]
    fn of_a_step_of_the_guest_only_the_duration_is_told() {
        let reported = board::StepTiming {
            step: TimedStep::Guest(BindStep::Enter),
            at: Duration::from_millis(12),
            duration: Duration::from_millis(5),
        };

        let told = serde_json::to_value(timing(&reported)).unwrap();

        assert_eq!(
            told,
            serde_json::json!({"step": "guest-enter", "duration_ms": 5.0, "source": "guest"})
        );
    }

    #[test]
    fn a_state_has_one_word_wherever_it_is_read() {
        for recorded in nic_lifecycle::NicState::ALL {
            assert_eq!(state(recorded).to_string(), recorded.to_string());
        }
    }

    #[test]
    fn clients_know_every_step() {
        use Action as A;
        use BindStep as B;
        let acts = [A::MakePort, A::Declare, A::Plug, A::Quiesce, A::Unplug];
        let stages = [
            Step::Admit,
            Step::Arrive,
            Step::Bind,
            Step::Release,
            Step::GuestUnplug,
        ];
        let host = acts.into_iter().chain([A::Forget]).map(Step::Act);
        let host = host
            .chain(stages)
            .chain([Step::Record])
            .map(TimedStep::Host);
        let bound = [
            B::Hold,
            B::Enter,
            B::SetMtu,
            B::SetAddresses,
            B::Lease,
            B::SetUp,
        ];
        let after = [B::SetRoutes, B::Announce, B::Verify, B::Release];
        let guest = bound.into_iter().chain(after).map(TimedStep::Guest);

        for name in host.chain(guest).map(step_name) {
            assert!(StepName::KNOWN.contains(&name), "{name}");
        }
    }
}
