//! The keeper of one hypervisor: a worker for each of its VMs for as long as there is something to
//! do in it, and whoever rings its bell.
//!
//! ```text
//!            listed                    not listed any more
//!   new ──► worker runs ─────────────► worker cleans up, if a record reserves a place in the VM
//!               ▲                        │   │ the last place is free
//!               └──── listed again ──────┘   ▼
//!                                      ledger: unknown from now on ──► worker, agent line: end
//!                                            ──► registry: out ──► event: gone
//! ```
//!
//! The ledger comes first, in one step with the look whether anything is reserved: after it nobody
//! is admitted, so no NIC can come to a VM whose worker is about to end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hypervisor::{EventKind, HypervisorEvent};
use nic_lifecycle::{Ledger, NicRecord, Retirement};
use nic_model::VmId;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::agent_link::AgentHandle;
use crate::board::Happening;
use crate::daemon::{Backend, Others, VmHandle, VmRegistry};
use crate::sabotage::{self, Sabotage};
use crate::supervisor::{Course, Supervisor};
use crate::worker::{Nudge, Tools, VmWorker, WorkerStart};

/// How often the list of VMs is read although no event said that it changed.
const LIST_AGAIN: Duration = Duration::from_secs(30);

/// See the module.
pub(crate) struct Keeper {
    backend: Backend,
    vms: Arc<VmRegistry>,
    tools: Tools,
    supervisor: Supervisor,
    /// VMs whose workers this keeper has started: no other keeper's VM is ever dropped by it.
    own: BTreeMap<VmId, Kept>,
    awaited: Awaited,
}

/// What the ledger waits for of this keeper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    /// Until then, a VM that nobody has heard of may be one all the same.
    Listing,
    Nothing,
}

struct Kept {
    listing: Listing,
    worker: JoinHandle<()>,
}

/// Whether the hypervisor knew a VM when it was last asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listing {
    Listed,
    Unlisted,
}

impl Keeper {
    pub(crate) fn new(
        backend: Backend,
        vms: Arc<VmRegistry>,
        tools: Tools,
        supervisor: Supervisor,
    ) -> Self {
        tools.store.observe(Ledger::await_listing);
        Self {
            backend,
            vms,
            tools,
            supervisor,
            own: BTreeMap::new(),
            awaited: Awaited::Listing,
        }
    }

    /// Keeps until the task is aborted, or the hypervisor has ended.
    pub(crate) async fn run(mut self) {
        let mut events = self.backend.hypervisor.events();
        let mut vacated = self.tools.store.vacated();
        let mut list_again = tokio::time::interval(LIST_AGAIN);
        list_again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let waits_for_room = !self.unlisted().is_empty();
            tokio::select! {
                biased;
                _ = list_again.tick() => self.list().await,
                _ = vacated.changed(), if waits_for_room => self.drop_unlisted().await,
                event = events.recv() => match event {
                    Ok(event) => self.dispatch(&event).await,
                    Err(broadcast::error::RecvError::Lagged(_)) => {
                        self.list().await;
                        self.vms.all_may_have_changed();
                    }
                    Err(broadcast::error::RecvError::Closed) => return,
                },
            }
        }
    }

    async fn dispatch(&mut self, event: &HypervisorEvent) {
        tracing::debug!(vm = ?event.vm, kind = ?event.kind, "hypervisor event");
        if overhears(&event.kind) {
            return;
        }
        // A connection to one VM says nothing of others.
        if event.vm.is_none() || event.kind == EventKind::VmsChanged {
            self.list().await;
        }
        if let (EventKind::Reset, Some(vm)) = (&event.kind, &event.vm)
            && let Some(agent) = self.vms.with(vm, |handle| Some(handle.agent.clone()))
        {
            agent.guest_reset().await;
        }
        match (&event.vm, &event.kind) {
            (Some(vm), EventKind::DeviceGone(nic)) => self
                .vms
                .with(vm, |handle| handle.nudge.device_gone(nic.clone())),
            // Everything is as it was, and the next request has its own time.
            (Some(_), EventKind::UnplugRefused(_)) => {}
            (Some(vm), _) => self.vms.with(vm, |handle| handle.nudge.world_changed()),
            (None, _) => self.vms.all_may_have_changed(),
        }
    }

    /// Starts workers for VMs that are new, and drops those that are no more. When nobody can say
    /// which VMs there are, all stay.
    async fn list(&mut self) {
        let found = match self.backend.hypervisor.vms().await {
            Ok(found) => found,
            Err(error) => {
                return tracing::warn!(error = &error as &dyn std::error::Error, "VMs not listed");
            }
        };
        if std::mem::replace(&mut self.awaited, Awaited::Nothing) == Awaited::Listing {
            self.tools.store.observe(Ledger::note_listing);
        }
        for kept in self.own.values_mut() {
            kept.listing = Listing::Unlisted;
        }
        for vm in found {
            self.keep(vm, Listing::Listed);
        }
        for vm in self.homes_of_nics() {
            self.keep(vm, Listing::Unlisted);
        }
        self.drop_unlisted().await;
    }

    /// VMs that records name, no other hypervisor sees to, and nobody works for yet: one that is
    /// not listed needs a worker too, or its NICs are never cleaned up.
    fn homes_of_nics(&self) -> Vec<VmId> {
        let Others::MineExcept(others) = &self.backend.others else {
            return Vec::new();
        };
        self.tools.store.read(|ledger| {
            let places = ledger.nics().flat_map(NicRecord::reserved);
            places
                .map(|place| &place.vm)
                .filter(|vm| !self.own.contains_key(*vm) && !others.contains(*vm))
                .cloned()
                .collect()
        })
    }

    fn keep(&mut self, vm: VmId, listing: Listing) {
        if let Some(kept) = self.own.get_mut(&vm) {
            if listing == Listing::Listed {
                kept.listing = listing;
            }
        } else if let Some(worker) = self.vms.add(&vm, || self.start_worker(&vm)) {
            self.tools.store.observe(|ledger| ledger.not_observed(&vm));
            let found = Happening::VmChanged("found".to_owned());
            self.tools.board.vm_event(&vm, found);
            self.own.insert(vm, Kept { listing, worker });
        }
    }

    fn start_worker(&self, vm: &VmId) -> (VmHandle, JoinHandle<()>) {
        let agent = AgentHandle::spawn(
            vm.clone(),
            &self.supervisor,
            &self.tools.surroundings,
            self.vms.pace(),
        );
        let nudge = Arc::new(Nudge::default());
        let registry = Arc::downgrade(&self.vms);
        let mut worker = VmWorker::new(WorkerStart {
            vm: vm.clone(),
            hypervisor: self.backend.hypervisor.clone(),
            tap_access: self.backend.tap_access,
            tools: self.tools.clone(),
            agent: agent.clone(),
            nudge: nudge.clone(),
            pace: self.vms.pace().clone(),
            wake_others: Arc::new(move |other| {
                if let Some(registry) = registry.upgrade() {
                    registry.nudge(other);
                }
            }),
        });
        let name = format!("the worker of VM {vm}");
        let work = async move { worker.run().await };
        let worker = self.supervisor.spawn(name, Course::Endless, work);
        (VmHandle { agent, nudge }, worker)
    }

    fn unlisted(&self) -> Vec<VmId> {
        let unlisted = self
            .own
            .iter()
            .filter(|(_, kept)| kept.listing == Listing::Unlisted);
        unlisted.map(|(vm, _)| vm.clone()).collect()
    }

    async fn drop_unlisted(&mut self) {
        for vm in self.unlisted() {
            let retirement = self.tools.store.observe(|ledger| ledger.retire(&vm));
            if retirement == Retirement::Begun {
                self.forget(&vm).await;
            }
        }
    }

    /// Ends what there is of a VM that the ledger has retired. The agent's line ends with the last
    /// handle of it: the worker has one, the registry the other.
    async fn forget(&mut self, vm: &VmId) {
        if let Some(kept) = self.own.remove(vm) {
            kept.worker.abort();
            // Over as soon as the worker waits for anything, as it does all the time.
            let _aborted = kept.worker.await;
        }
        self.tools.store.observe(|ledger| ledger.vm_gone(vm));
        self.vms.remove(vm);
        tracing::info!(%vm, "not listed any more: dropped");
        self.tools.board.vm_event(vm, Happening::VmGone);
    }
}

/// Whether sabotage lets an event go unheard.
fn overhears(event: &EventKind) -> bool {
    match event {
        EventKind::DeviceGone(_) => sabotage::is(Sabotage::IgnoreDeviceGone),
        EventKind::Connection => sabotage::is(Sabotage::ForgetLookAfterReconnect),
        EventKind::UnplugRefused(_)
        | EventKind::Reset
        | EventKind::Power
        | EventKind::VmsChanged => false,
    }
}
