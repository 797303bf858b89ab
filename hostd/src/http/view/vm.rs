//! A VM: its hardware as seen last, its class, its agent, and what of it is reserved.

use std::collections::BTreeSet;

use host_api::{Agent, AgentState, Slots, Vm, VmLimits, VmUsage};
use nic_lifecycle::{Ledger, NicRecord, Site, VmClass};
use nic_model::{RateLimits, SlotOccupant, VmClassName, VmHardware, VmId};

use crate::agent_link::{self, AgentView};
use crate::service::{Caller, Service};

/// Shown as the class of a VM that has none in the configuration, and so may have nothing.
const NO_CLASS: &str = "none";
/// Most characters shown of a text that a guest chose.
const GUEST_TEXT_MAX: usize = 64;

/// Every VM the caller may use, by name: seen, listed, configured, or home of a NIC.
pub(in crate::http) fn vms(service: &Service, caller: &Caller) -> Vec<VmId> {
    let mut ids: BTreeSet<VmId> = service.vms.ids().into_iter().collect();
    service.store.read(|ledger| {
        let placed = ledger
            .nics()
            .flat_map(NicRecord::reserved)
            .map(|place| &place.vm);
        let seen = ledger.vms().map(|(id, _)| id);
        ids.extend(
            placed
                .chain(seen)
                .chain(ledger.site().class_of.keys())
                .cloned(),
        );
        ids.retain(|id| may_use(ledger.site(), caller, id));
    });
    ids.into_iter().collect()
}

/// Whether a VM exists for a caller: one that belongs to a tenant does for that tenant alone.
pub(in crate::http) fn may_use(site: &Site, caller: &Caller, vm: &VmId) -> bool {
    site.tenant_of
        .get(vm)
        .is_none_or(|owner| caller.may_see(owner))
}

/// One VM as it is now, with those of its NICs that the caller may see.
pub(in crate::http) fn vm(service: &Service, caller: &Caller, id: &VmId) -> Vm {
    let agent = service.vms.with(id, |handle| handle.agent.view());
    service
        .store
        .read(|ledger| compose(ledger, caller, id, agent))
}

fn compose(ledger: &Ledger, caller: &Caller, id: &VmId, agent: AgentView) -> Vm {
    let hardware = ledger.hardware(id);
    let class = ledger.site().class(id);
    let here: Vec<_> = ledger.nics_at(id).collect();
    let addresses = here
        .iter()
        .map(|record| record.addressing.addresses().len() as u64);
    let mine = here.iter().filter(|record| caller.may_see(&record.tenant));
    Vm {
        id: id.clone(),
        power: hardware
            .filter(|_| ledger.is_up_to_date(id))
            .map(|hardware| hardware.power),
        class: class.map_or_else(no_class, |class| class.name.clone()),
        agent: agent_of(agent),
        hotplug: hardware.map(|hardware| hardware.hotplug),
        slots: hardware
            .map(|hardware| slots_of(ledger, id, hardware))
            .unwrap_or_default(),
        limits: limits_of(class),
        usage: VmUsage {
            nics: here.len() as u64,
            addresses: addresses.sum(),
        },
        nics: mine.map(|record| record.id.clone()).collect(),
    }
}

/// How many slots a VM has, and how many of them are to be had.
fn slots_of(ledger: &Ledger, id: &VmId, hardware: &VmHardware) -> Slots {
    let reserved = ledger.reserved_slots(id);
    let empty = hardware
        .slots
        .iter()
        .filter(|slot| slot.occupant == SlotOccupant::Empty);
    let (taken, free): (Vec<_>, Vec<_>) = empty.partition(|slot| reserved.contains(&slot.id));
    Slots {
        total: hardware.slots.len() as u64,
        free: free.len() as u64,
        reserved: taken.len() as u64,
    }
}

/// The state of an agent without its details.
fn agent_state_of(state: &agent_link::AgentState) -> AgentState {
    match state {
        agent_link::AgentState::Absent => AgentState::Absent,
        agent_link::AgentState::Connecting => AgentState::Connecting,
        agent_link::AgentState::Ready { .. } => AgentState::Ready,
        agent_link::AgentState::Incompatible { .. } => AgentState::Incompatible,
        agent_link::AgentState::Misbehaving { .. } => AgentState::Misbehaving,
    }
}

fn agent_of(view: AgentView) -> Agent {
    let state = agent_state_of(&view.state);
    let (version, boot_id) = match view.state {
        agent_link::AgentState::Ready { agent, boot_id } => {
            (Some(shortened(&agent)), Some(boot_id.to_string()))
        }
        agent_link::AgentState::Absent
        | agent_link::AgentState::Connecting
        | agent_link::AgentState::Incompatible { .. }
        | agent_link::AgentState::Misbehaving { .. } => (None, None),
    };
    Agent {
        state,
        version,
        boot_id,
        since_ms: view.since_ms,
    }
}

fn shortened(text: &str) -> String {
    text.chars()
        .filter(|character| !character.is_control())
        .take(GUEST_TEXT_MAX)
        .collect()
}

fn limits_of(class: Option<&VmClass>) -> VmLimits {
    VmLimits {
        max_nics: class.map_or(0, |class| class.max_nics),
        max_addresses_per_nic: class.map_or(0, |class| class.max_addresses_per_nic),
        max_queues: class.map_or(0, |class| class.max_queues),
        rates: class.map_or(RateLimits::default(), |class| class.rates),
    }
}

fn no_class() -> VmClassName {
    NO_CLASS.parse().expect("the constant is a valid name")
}
