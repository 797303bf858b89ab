//! Ports and a journal in memory, failing as the stage says. The ports know what no plan may do:
//! plug without a port, unplug with frames still passing, take a port from under a device.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use hypervisor::Descriptor;
use journal::{Batch, CommitError, Journal, LoadError, MemoryJournal, Row};
use nic_model::{LinkName, NicId};
use port::{
    AdminState, Holder, IsolatePortError, ListPortsError, MakePortError, Port, PortProvider,
    PortSpec, PortView, RemovalClaim, RemovePortError, TapAccess,
};
use tokio::sync::Semaphore;

use super::hypervisor::ScriptedHypervisor;
use super::stage::{Call, Deed, Fault, Stage};

/// A port as it is to be while its NIC is attached.
const UP: ScriptedPort = ScriptedPort {
    admin: AdminState::Up,
    bridged: Bridged::InPlace,
    holder: Holder::Nobody,
    tap: ScriptedTap::Whole,
};

/// See the module.
pub(crate) struct ScriptedPorts {
    stage: Arc<Stage>,
    hypervisor: Arc<ScriptedHypervisor>,
    bridge: LinkName,
    ports: Mutex<BTreeMap<NicId, ScriptedPort>>,
    /// What was asked for last, of each port that was made.
    specs: Mutex<BTreeMap<NicId, PortSpec>>,
    /// Each removal takes one permit.
    pub(crate) removals: Semaphore,
    /// Removals that the kernel has yet to end, where it takes longer than anybody waits.
    overrun: Mutex<Option<Vec<(NicId, RemovalClaim)>>>,
}

#[derive(Debug, Clone, Copy)]
struct ScriptedPort {
    admin: AdminState,
    bridged: Bridged,
    /// A process that no hypervisor knows of.
    holder: Holder,
    tap: ScriptedTap,
}

/// What became of a tap that a device was connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ScriptedTap {
    Whole,
    /// Gone, and the intermediate device is left.
    Gone,
    /// Another of the same name, which no device is connected to.
    Another,
}

/// Where a tap is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bridged {
    InPlace,
    Nowhere,
}

impl ScriptedPorts {
    pub(crate) fn new(stage: Arc<Stage>, hypervisor: Arc<ScriptedHypervisor>) -> Self {
        Self {
            stage,
            hypervisor,
            bridge: "br-blue".parse().unwrap(),
            ports: Mutex::default(),
            specs: Mutex::default(),
            removals: Semaphore::new(Semaphore::MAX_PERMITS),
            overrun: Mutex::default(),
        }
    }

    /// From now on the kernel takes longer for a removal than anybody waits.
    pub(crate) fn begin_overrunning(&self) {
        *self.overrun() = Some(Vec::new());
    }

    /// How many removals the kernel has begun and not ended.
    pub(crate) fn overrun_count(&self) -> usize {
        self.overrun().as_ref().map_or(0, Vec::len)
    }

    /// The kernel ends what it has begun.
    pub(crate) fn end_overrunning(&self) {
        let ended = self.overrun().take();
        for (nic, claim) in ended.into_iter().flatten() {
            self.lock().remove(&nic);
            self.stage.note(&nic, Deed::PortRemoved);
            drop(claim);
        }
    }

    /// How a NIC's port is switched, if there is one.
    pub(crate) fn admin(&self, nic: &NicId) -> Option<AdminState> {
        self.lock().get(nic).map(|port| port.admin)
    }

    /// How a NIC's port was last asked to be.
    pub(crate) fn spec(&self, nic: &NicId) -> Option<PortSpec> {
        self.lock_specs().get(nic).cloned()
    }

    /// Puts a port there that nobody asked for.
    pub(crate) fn put(&self, nic: &NicId) {
        self.lock().insert(nic.clone(), UP);
    }

    /// Removes a port as somebody with `ip link delete` would.
    pub(crate) fn take_away(&self, nic: &NicId) {
        self.lock().remove(nic);
        self.stage.note(nic, Deed::PortLost);
    }

    /// Removes a tap alone as somebody with `ip link delete` would.
    pub(crate) fn take_tap_away(&self, nic: &NicId) {
        self.change(nic, |port| port.tap = ScriptedTap::Gone);
        self.stage.note(nic, Deed::PortLost);
    }

    /// Puts another tap in the place of a tap, in its bridge and up.
    pub(crate) fn replace_tap(&self, nic: &NicId) {
        self.change(nic, |port| port.tap = ScriptedTap::Another);
        self.stage.note(nic, Deed::PortLost);
    }

    /// Switches a port off as somebody with `ip link set` would.
    pub(crate) fn switch_off(&self, nic: &NicId) {
        self.change(nic, |port| port.admin = AdminState::Down);
    }

    /// Takes a tap out of its bridge as somebody with `ip link set` would.
    pub(crate) fn take_out_of_bridge(&self, nic: &NicId) {
        self.change(nic, |port| port.bridged = Bridged::Nowhere);
    }

    /// A process that no hypervisor tells of holds a tap, or does so no more.
    pub(crate) fn hold(&self, nic: &NicId, holder: Holder) {
        self.change(nic, |port| port.holder = holder);
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    fn change(&self, nic: &NicId, change: impl FnOnce(&mut ScriptedPort)) {
        self.lock().get_mut(nic).map(change);
    }

    fn holder(&self, nic: &NicId, port: ScriptedPort) -> Holder {
        if port.tap == ScriptedTap::Whole && self.hypervisor.uses(nic) {
            Holder::Somebody
        } else {
            port.holder
        }
    }

    fn overrun(&self) -> MutexGuard<'_, Option<Vec<(NicId, RemovalClaim)>>> {
        self.overrun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NicId, ScriptedPort>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_specs(&self) -> MutexGuard<'_, BTreeMap<NicId, PortSpec>> {
        self.specs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one call with its fault and its places to die.
    async fn run(&self, call: Call, effect: impl FnOnce()) -> Result<(), port::Cause> {
        self.stage.pass().await;
        let fault = self.stage.fault(call, None);
        if fault.is_none_or(Fault::happened) {
            effect();
        }
        self.stage.pass().await;
        fault.map_or(Ok(()), |_| Err("no, for a test".into()))
    }
}

#[async_trait]
impl PortProvider for ScriptedPorts {
    async fn make(&self, spec: &PortSpec) -> Result<Port, MakePortError> {
        let made = self.run(Call::MakePort, || {
            let connected = self.hypervisor.uses(&spec.nic);
            let mut ports = self.lock();
            let port = ports.entry(spec.nic.clone()).or_insert(UP);
            (port.admin, port.bridged) = (UP.admin, UP.bridged);
            port.tap = match port.tap {
                ScriptedTap::Gone | ScriptedTap::Another if connected => ScriptedTap::Another,
                ScriptedTap::Whole | ScriptedTap::Gone | ScriptedTap::Another => ScriptedTap::Whole,
            };
            drop(ports);
            self.lock_specs().insert(spec.nic.clone(), spec.clone());
            self.stage.note(&spec.nic, Deed::PortMade);
        });
        made.await.map_err(|cause| MakePortError {
            nic: spec.nic.clone(),
            step: "obey",
            cause,
        })?;
        Ok(Port {
            tap: spec.nic.tap_name(),
            access: spec.access,
            queues: queues_of(spec.access),
        })
    }

    async fn isolate(&self, nic: &NicId) -> Result<(), IsolatePortError> {
        let isolated = self.run(Call::IsolatePort, || {
            self.switch_off(nic);
            self.stage.note(nic, Deed::PortIsolated);
        });
        isolated.await.map_err(|cause| IsolatePortError {
            nic: nic.clone(),
            cause,
        })
    }

    async fn remove(&self, nic: &NicId, claim: RemovalClaim) -> Result<(), RemovePortError> {
        if let Some(overrun) = self.overrun().as_mut() {
            overrun.push((nic.clone(), claim));
            return Err(RemovePortError {
                nic: nic.clone(),
                cause: "it takes too long, for a test".into(),
            });
        }
        self.removals.acquire().await.unwrap().forget();
        let removed = self.run(Call::RemovePort, || {
            if self.hypervisor.uses(nic) {
                self.stage
                    .breach(format!("port of {nic} removed under its device"));
            }
            self.lock().remove(nic);
            self.stage.note(nic, Deed::PortRemoved);
        });
        removed.await.map_err(|cause| RemovePortError {
            nic: nic.clone(),
            cause,
        })
    }

    fn bridge(&self) -> Option<&LinkName> {
        Some(&self.bridge)
    }

    async fn port(&self, nic: &NicId) -> Result<Option<PortView>, ListPortsError> {
        let mut all = self.ports().await?.into_iter();
        Ok(all.find(|port| port.nic == *nic))
    }

    async fn ports(&self) -> Result<Vec<PortView>, ListPortsError> {
        let ports = self.lock().clone();
        let view = |(nic, port): (NicId, ScriptedPort)| PortView {
            tap: (port.tap != ScriptedTap::Gone).then(|| nic.tap_name()),
            ifb: (port.tap == ScriptedTap::Gone).then(|| nic.ifb_name()),
            bridge: (port.bridged == Bridged::InPlace).then(|| self.bridge.to_string()),
            admin: port.admin,
            holder: self.holder(&nic, port),
            nic,
        };
        Ok(ports.into_iter().map(view).collect())
    }
}

/// Any descriptor does for a tap that nothing is sent through.
fn queues_of(access: TapAccess) -> Vec<Descriptor> {
    match access {
        TapAccess::Name => Vec::new(),
        TapAccess::Descriptors => vec![Descriptor::new(File::open("/dev/null").unwrap())],
    }
}

/// A journal whose commits wait, fail and die as told.
pub(crate) struct ScriptedJournal {
    stage: Arc<Stage>,
    rows: MemoryJournal,
    /// Each commit takes one permit.
    pub(crate) gate: Semaphore,
}

impl ScriptedJournal {
    pub(crate) fn new(stage: Arc<Stage>) -> Self {
        Self {
            stage,
            rows: MemoryJournal::default(),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
        }
    }
}

#[async_trait]
impl Journal for ScriptedJournal {
    fn load(&self) -> Result<Vec<Row>, LoadError> {
        self.rows.load()
    }

    async fn commit(&self, batch: Batch) -> Result<(), CommitError> {
        self.gate.acquire().await.unwrap().forget();
        self.stage.pass().await;
        if self.stage.fault(Call::Commit, None).is_some() {
            return Err(CommitError::Full);
        }
        let committed = self.rows.commit(batch).await;
        self.stage.pass().await;
        committed
    }
}
