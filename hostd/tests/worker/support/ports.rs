//! Ports and a journal in memory, failing as the stage says. The ports know what no plan may do:
//! plug without a port, unplug with frames still passing, take a port from under a device.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use journal::{Batch, CommitError, Journal, LoadError, MemoryJournal, Row};
use nic_model::NicId;
use port::{
    AdminState, IsolatePortError, ListPortsError, MakePortError, Port, PortProvider, PortSpec,
    PortView, RemovePortError, TapLifetime,
};
use tokio::sync::Semaphore;

use super::hypervisor::ScriptedHypervisor;
use super::stage::{Call, Deed, Fault, Stage};

/// See the module.
pub(crate) struct ScriptedPorts {
    stage: Arc<Stage>,
    hypervisor: Arc<ScriptedHypervisor>,
    ports: Mutex<BTreeMap<NicId, (AdminState, TapLifetime)>>,
}

impl ScriptedPorts {
    pub(crate) fn new(stage: Arc<Stage>, hypervisor: Arc<ScriptedHypervisor>) -> Self {
        Self {
            stage,
            hypervisor,
            ports: Mutex::default(),
        }
    }

    /// How a NIC's port is switched, if there is one.
    pub(crate) fn admin(&self, nic: &NicId) -> Option<AdminState> {
        self.lock().get(nic).map(|(admin, _)| *admin)
    }

    /// Puts a port there that nobody asked for.
    pub(crate) fn put(&self, nic: &NicId) {
        let port = (AdminState::Up, TapLifetime::Persistent);
        self.lock().insert(nic.clone(), port);
    }

    /// Removes a port as somebody with `ip link delete` would.
    pub(crate) fn take_away(&self, nic: &NicId) {
        self.lock().remove(nic);
        self.stage.note(nic, Deed::PortLost);
    }

    /// Switches a port off as somebody with `ip link set` would.
    pub(crate) fn switch_off(&self, nic: &NicId) {
        if let Some((admin, _)) = self.lock().get_mut(nic) {
            *admin = AdminState::Down;
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    /// The daemon's descriptors are closed: taps that live by them alone are gone.
    pub(crate) fn close_descriptors(&self) {
        let hypervisor = &self.hypervisor;
        self.lock().retain(|nic, (_, lifetime)| {
            let stays = *lifetime == TapLifetime::Persistent || hypervisor.uses(nic);
            if !stays {
                self.stage.note(nic, Deed::PortLost);
            }
            stays
        });
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NicId, (AdminState, TapLifetime)>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
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
            let port = (AdminState::Up, spec.lifetime);
            self.lock().insert(spec.nic.clone(), port);
            self.stage.note(&spec.nic, Deed::PortMade);
        });
        made.await.map_err(|cause| MakePortError {
            nic: spec.nic.clone(),
            step: "obey",
            cause,
        })?;
        Ok(Port {
            tap: spec.nic.tap_name(),
            queues: queues_of(spec.lifetime),
        })
    }

    async fn isolate(&self, nic: &NicId) -> Result<(), IsolatePortError> {
        let isolated = self.run(Call::IsolatePort, || {
            if let Some((admin, _)) = self.lock().get_mut(nic) {
                *admin = AdminState::Down;
            }
            self.stage.note(nic, Deed::PortIsolated);
        });
        isolated.await.map_err(|cause| IsolatePortError {
            nic: nic.clone(),
            cause,
        })
    }

    async fn remove(&self, nic: &NicId) -> Result<(), RemovePortError> {
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

    async fn ports(&self) -> Result<Vec<PortView>, ListPortsError> {
        let view = |(nic, (admin, _)): (&NicId, &(AdminState, TapLifetime))| PortView {
            nic: nic.clone(),
            tap: Some(nic.tap_name()),
            ifb: None,
            bridge: None,
            admin: *admin,
        };
        Ok(self.lock().iter().map(view).collect())
    }
}

/// Any descriptor does for a tap that nothing is sent through.
fn queues_of(lifetime: TapLifetime) -> Vec<OwnedFd> {
    match lifetime {
        TapLifetime::Persistent => Vec::new(),
        TapLifetime::Descriptors => vec![File::open("/dev/null").unwrap().into()],
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
