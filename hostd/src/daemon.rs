//! Wiring: opens the journal, connects the hypervisors, starts a keeper for each of them.
//!
//! ```text
//!   Backend (QMP, libvirt) ──► Keeper ──► VmRegistry: VmId → worker task, agent line, bell
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use hypervisor::Hypervisor;
use hypervisor_qmp::{QmpHypervisor, QmpVm};
use journal::SqliteJournal;
use linux_network::Netns;
use nic_lifecycle::NicState;
use nic_model::{NetworkName, VmId};
use port::{BridgePorts, PortProvider, TapAccess, TapPorts};

use crate::agent_link::AgentHandle;
use crate::board::Board;
use crate::config::{Config, PortKind};
use crate::janitor;
use crate::keeper::Keeper;
use crate::pace::Pace;
use crate::ports::HostPorts;
use crate::service::Service;
use crate::store::{OpenStoreError, Store};
use crate::supervisor::{Course, Supervisor, TaskEnded};
use crate::surroundings::Surroundings;
use crate::worker::{Nudge, Tools};

/// A hypervisor and what it implies for ports.
#[derive(Clone)]
pub struct Backend {
    /// The hypervisor.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// How it comes to the taps of its VMs.
    pub tap_access: TapAccess,
    /// Whose VMs are not its business even if it does not list them.
    pub others: Others,
}

/// VMs that records name and a hypervisor does not list: their NICs have to be cleaned up by one
/// worker, and by one only.
#[derive(Debug, Clone)]
pub enum Others {
    /// Another hypervisor sees to them.
    NotMine,
    /// They are this one's, but for these.
    MineExcept(BTreeSet<VmId>),
}

/// One VM under hostd's care.
pub struct VmHandle {
    /// Its line to the guest.
    pub agent: AgentHandle,
    /// Its worker's bell.
    pub nudge: Arc<Nudge>,
}

/// The VMs under hostd's care.
#[derive(Default)]
pub struct VmRegistry {
    vms: Mutex<BTreeMap<VmId, VmHandle>>,
    pace: Pace,
}

/// Why hostd did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The journal cannot be opened.
    #[error("failed to open the journal")]
    Journal(#[from] journal::OpenError),
    /// It cannot be read.
    #[error("failed to take over what was journalled")]
    Store(#[from] OpenStoreError),
    /// A hypervisor cannot be used at all.
    #[error("failed to set up the hypervisor at {address}")]
    Hypervisor {
        /// Where it was looked for.
        address: String,
        /// Why.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The kernel's network cannot be talked to.
    #[error("failed to reach the kernel's network")]
    Network(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// This build has no libvirt.
    #[error(
        "the configuration asks for libvirt, and this hostd was built without the feature libvirt"
    )]
    NoLibvirt,
}

/// A running hostd, but for its API.
pub struct Daemon {
    /// What it does for clients.
    pub service: Arc<Service>,
    supervisor: Supervisor,
}

impl Daemon {
    /// Starts everything but the API.
    ///
    /// # Errors
    /// When the journal or a hypervisor cannot be used.
    pub async fn start(config: &Config) -> Result<Self, StartError> {
        let surroundings = Surroundings::default();
        let board = Arc::new(Board::new(surroundings.clock.clone()));
        let journal = Arc::new(SqliteJournal::open(&config.journal)?);
        let store = Arc::new(Store::open(config.site.clone(), journal, board.clone())?);
        let tools = Tools {
            store,
            board,
            ports: Arc::new(HostPorts::new(port_providers(config).await?)),
            patience: config.patience,
            surroundings,
        };
        Ok(Self::over(backends(config)?, tools))
    }

    /// The same over hypervisors and tools of the caller's, within a tokio runtime.
    #[must_use]
    pub fn over(backends: Vec<Backend>, tools: Tools) -> Self {
        let vms = Arc::new(VmRegistry::default());
        let supervisor = Supervisor::default();
        let endless = Course::Endless;
        let janitor = janitor::run(tools.clone(), vms.pace().clone());
        supervisor.spawn("the janitor".to_owned(), endless, janitor);
        for backend in backends {
            let keeper = Keeper::new(backend, vms.clone(), tools.clone(), supervisor.clone());
            let name = "the keeper of a hypervisor".to_owned();
            supervisor.spawn(name, endless, keeper.run());
        }
        Self {
            service: Arc::new(Service::new(tools, vms, supervisor.clone())),
            supervisor,
        }
    }

    /// Who hears of the end of its tasks.
    #[must_use]
    pub fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }

    /// Waits until a task is no more that hostd does not go on without.
    pub async fn failed(&self) -> TaskEnded {
        self.supervisor.first_end().await
    }

    /// Ends every task at once, as `kill -9` would: none does anything any more, and what they
    /// held is let go of. Nothing is lost: the next start continues from the journal and the world.
    pub fn stop(&self) {
        self.supervisor.stop();
        self.service.vms.clear();
    }
}

/// hostd's own namespace is where its taps are made.
async fn port_providers(
    config: &Config,
) -> Result<BTreeMap<NetworkName, Arc<dyn PortProvider>>, StartError> {
    let here = Netns::own().map_err(|cause| StartError::Network(Box::new(cause)))?;
    let mut providers: BTreeMap<NetworkName, Arc<dyn PortProvider>> = BTreeMap::new();
    for (name, kind) in &config.ports {
        let provider: Result<Arc<dyn PortProvider>, _> = match kind {
            PortKind::Bridge { bridge, device } => {
                BridgePorts::connect(&here, bridge.clone(), *device)
                    .await
                    .map(|ports| Arc::new(ports) as _)
            }
            PortKind::Tap => TapPorts::connect(&here)
                .await
                .map(|ports| Arc::new(ports) as _),
        };
        let provider = provider.map_err(|cause| StartError::Network(Box::new(cause)))?;
        providers.insert(name.clone(), provider);
    }
    Ok(providers)
}

fn backends(config: &Config) -> Result<Vec<Backend>, StartError> {
    let mut backends = Vec::new();
    if !config.qmp_vms.is_empty() {
        let vms = config.qmp_vms.iter().map(|vm| QmpVm {
            id: vm.id.clone(),
            socket: vm.qmp.clone(),
            channel: vm.channel.clone(),
        });
        backends.push(Backend {
            hypervisor: Arc::new(QmpHypervisor::new(vms.collect())),
            tap_access: TapAccess::Descriptors,
            others: match config.libvirt_uri {
                Some(_) => Others::NotMine,
                None => Others::MineExcept(BTreeSet::new()),
            },
        });
    }
    if let Some(uri) = &config.libvirt_uri {
        let qmp_vms = config.qmp_vms.iter().map(|vm| vm.id.clone()).collect();
        backends.push(libvirt_backend(uri, Others::MineExcept(qmp_vms))?);
    }
    Ok(backends)
}

#[cfg(feature = "libvirt")]
fn libvirt_backend(uri: &str, others: Others) -> Result<Backend, StartError> {
    use hypervisor_libvirt::{LibvirtHypervisor, Options};
    let hypervisor = LibvirtHypervisor::connect(uri, Options::default()).map_err(|cause| {
        StartError::Hypervisor {
            address: uri.to_owned(),
            cause: Box::new(cause),
        }
    })?;
    let hypervisor = Arc::new(hypervisor);
    Ok(Backend {
        hypervisor,
        tap_access: TapAccess::Name,
        others,
    })
}

#[cfg(not(feature = "libvirt"))]
fn libvirt_backend(_uri: &str, _others: Others) -> Result<Backend, StartError> {
    Err(StartError::NoLibvirt)
}

impl VmRegistry {
    /// Does something with one VM's handle, if there is one.
    pub fn with<T: Default>(&self, vm: &VmId, act: impl FnOnce(&VmHandle) -> T) -> T {
        self.lock().get(vm).map(act).unwrap_or_default()
    }

    /// Every VM under hostd's care, by name.
    #[must_use]
    pub fn ids(&self) -> Vec<VmId> {
        self.lock().keys().cloned().collect()
    }

    /// Takes a VM under care with what `start` starts for it, unless it is under care already.
    pub(crate) fn add<T>(&self, vm: &VmId, start: impl FnOnce() -> (VmHandle, T)) -> Option<T> {
        let mut vms = self.lock();
        if vms.contains_key(vm) {
            return None;
        }
        let (handle, started) = start();
        vms.insert(vm.clone(), handle);
        self.pace.set_vms(vms.len());
        Some(started)
    }

    pub(crate) fn remove(&self, vm: &VmId) {
        let mut vms = self.lock();
        let removed = vms.remove(vm);
        self.pace.set_vms(vms.len());
        drop(vms);
        drop(removed);
    }

    /// How often each of them is looked after while it is at rest.
    pub(crate) fn pace(&self) -> &Pace {
        &self.pace
    }

    pub(crate) fn all_may_have_changed(&self) {
        self.lock()
            .values()
            .for_each(|handle| handle.nudge.world_changed());
    }

    /// The agents' lines end with their last handles.
    fn clear(&self) {
        let handles = std::mem::take(&mut *self.lock());
        drop(handles);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<VmId, VmHandle>> {
        self.vms
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Records whose removal is under way, or was when hostd died.
pub(crate) fn half_deleted(store: &Store) -> Vec<nic_model::NicId> {
    store.read(|ledger| {
        let deleting = ledger
            .nics()
            .filter(|record| record.state == NicState::Deleting);
        deleting.map(|record| record.id.clone()).collect()
    })
}
