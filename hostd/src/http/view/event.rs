//! Events of the board as clients get them.

use host_api::{Event, EventKind};

use super::nic;
use crate::board::{BoardEvent, Happening};
use crate::service::Service;

/// An event under the id `wire_id`. A NIC shows as its record was then, and as it is observed now.
pub(in crate::http) fn event(service: &Service, wire_id: u64, happened: &BoardEvent) -> Event {
    let told = Event {
        id: wire_id,
        at_ms: happened.at_ms,
        kind: kind(&happened.what),
        nic: happened.nic.clone(),
        vm: happened.vm.clone(),
        step: None,
        body: None,
        message: message(&happened.what),
    };
    match &happened.what {
        Happening::NicChanged(record) => Event {
            body: Some(nic::nic(service, record)),
            ..told
        },
        Happening::StepDone(timing) => Event {
            step: Some(nic::timing(timing)),
            ..told
        },
        Happening::NicBlocked(_) | Happening::NicDegraded(_) | Happening::NicRecovered => {
            let record = happened.nic.as_ref().and_then(|id| service.store.nic(id));
            Event {
                body: record.map(|record| nic::nic(service, &record)),
                ..told
            }
        }
        Happening::NicDeleted
        | Happening::AgentChanged(_)
        | Happening::VmChanged(_)
        | Happening::VmGone => told,
    }
}

fn kind(what: &Happening) -> EventKind {
    match what {
        Happening::NicChanged(_)
        | Happening::NicBlocked(_)
        | Happening::NicDegraded(_)
        | Happening::NicRecovered => EventKind::NicChanged,
        Happening::NicDeleted => EventKind::NicDeleted,
        Happening::StepDone(_) => EventKind::StepDone,
        Happening::AgentChanged(_) | Happening::VmChanged(_) => EventKind::VmChanged,
        Happening::VmGone => EventKind::VmGone,
    }
}

fn message(what: &Happening) -> Option<String> {
    match what {
        Happening::NicChanged(_)
        | Happening::NicDeleted
        | Happening::StepDone(_)
        | Happening::VmGone => None,
        Happening::NicBlocked(blocked) => Some(nic::blocked_reason(blocked)),
        Happening::NicDegraded(reason) => Some(reason.clone()),
        Happening::NicRecovered => Some("in order again".to_owned()),
        Happening::AgentChanged(state) => Some(format!("agent {state}")),
        Happening::VmChanged(state) => Some(state.clone()),
    }
}
