//! One host: a hostd that lives and dies, over a disk, links and VMs that outlive it.
//!
//! ```text
//!   off ── boot ──► Running: Life, Daemon, API ──┬── stop, kill, power loss ──► off
//!                                                └── dies at an effect ────────► off
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};

use async_trait::async_trait;
use host_api::Client;
use host_api::client::{ApiStream, Dialer};
use hostd::board::Board;
use hostd::config::{Config, PortKind};
use hostd::daemon::{Backend, Daemon, Others};
use hostd::http;
use hostd::ports::HostPorts;
use hostd::service::Service;
use hostd::store::{OpenStoreError, Store};
use hostd::supervisor::Supervisor;
use hostd::surroundings::Surroundings;
use hostd::worker::Tools;
use hypervisor_qmp::{QmpHypervisor, QmpVm, Settings, Vhost};
use journal::Journal;
use misbehaviour::Chance;
use nic_model::{NetworkName, VmId};
use port::{PortProvider, TapAccess};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::boundary::ApiEnd;
use super::disk::Disk;
use super::life::Life;
use super::ports::{HostLinks, SimPorts};
use super::reach::{ChannelDoors, MonitorDoors};
use super::stage::{Stage, lock};
use super::stream::{StreamEnd, pair};
use super::surroundings::{SeededEntropy, WorldClock};
use super::vm::SimVm;

/// Connections that wait for the API to take them.
const BACKLOG: usize = 1024;
/// User id of whoever asks.
const OPERATOR: u32 = 0;

/// One host. Clones are of the same.
#[derive(Clone)]
pub struct Host(Arc<Inner>);

struct Inner {
    name: String,
    stage: Stage,
    config: Config,
    disk: Disk,
    links: HostLinks,
    vms: BTreeMap<VmId, SimVm>,
    stand_in: Arc<std::fs::File>,
    /// Where records are kept, if not on the simulated disk.
    journal: Mutex<Option<Arc<dyn Journal>>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    lives: u64,
    running: Option<Running>,
    /// Why hostd ended by itself, each time it did.
    failures: Vec<String>,
}

struct Running {
    life: Life,
    daemon: Daemon,
    connections: mpsc::Sender<(StreamEnd, u32)>,
    api: AbortHandle,
    watch: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.api.abort();
        self.watch.abort();
        self.daemon.stop();
    }
}

impl Host {
    /// A host on which no hostd runs yet, with the VMs of `config`.
    #[must_use]
    pub fn new(
        name: &str,
        stage: &Stage,
        config: Config,
        vms: BTreeMap<VmId, SimVm>,
        stand_in: &Arc<std::fs::File>,
    ) -> Self {
        Self(Arc::new(Inner {
            name: name.to_owned(),
            stage: stage.clone(),
            config,
            disk: Disk::new(stage.chance(&format!("{name}/disk"))),
            links: HostLinks::default(),
            vms,
            stand_in: Arc::clone(stand_in),
            journal: Mutex::default(),
            state: Mutex::default(),
        }))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its journal's disk.
    #[must_use]
    pub fn disk(&self) -> &Disk {
        &self.0.disk
    }

    /// Has every hostd that is started from now on keep its records in a journal of the caller's,
    /// such as a real one, instead of on the simulated disk.
    pub fn keep_records_in(&self, journal: Arc<dyn Journal>) {
        *lock(&self.0.journal) = Some(journal);
    }

    /// Its links.
    #[must_use]
    pub fn links(&self) -> &HostLinks {
        &self.0.links
    }

    /// Its VMs.
    #[must_use]
    pub fn vms(&self) -> &BTreeMap<VmId, SimVm> {
        &self.0.vms
    }

    /// Starts a hostd, unless one runs. It finds the journal and the world as they are.
    ///
    /// # Errors
    /// When it does not start over this journal.
    pub fn boot(&self) -> Result<Life, OpenStoreError> {
        if let Some(life) = self.life() {
            return Ok(life);
        }
        let mut state = lock(&self.0.state);
        state.running = None;
        state.lives += 1;
        let life = Life::begin(&self.0.name, &self.0.stage);
        let number = state.lives.to_string();
        self.0.stage.note(&self.0.name, "boot", number.as_bytes());
        state.running = Some(self.start(&life, state.lives)?);
        Ok(life)
    }

    fn start(&self, life: &Life, number: u64) -> Result<Running, OpenStoreError> {
        let Inner { name, stage, .. } = &*self.0;
        let chance = stage.chance(&format!("{name}/hostd/{number}"));
        let surroundings = Surroundings {
            clock: Arc::new(WorldClock(stage.clone())),
            entropy: Arc::new(SeededEntropy(Mutex::new(chance.fork("entropy")))),
            channels: Arc::new(ChannelDoors::new(&self.0.vms, stage, life)),
        };
        let daemon = Daemon::over(
            vec![self.backend(life, &chance)],
            self.tools(life, surroundings)?,
        );
        let (connections, accepted) = mpsc::channel(BACKLOG);
        let tenants = self.0.config.tenants_by_uid.clone();
        let connecting = Accepted {
            connections: accepted,
            life: life.clone(),
        };
        let served = http::serve_over(connecting, tenants, daemon.service.clone());
        let supervisor = daemon.supervisor().clone();
        let watching = watch(Arc::downgrade(&self.0), life.clone(), supervisor);
        Ok(Running {
            life: life.clone(),
            daemon,
            connections,
            api: tokio::spawn(served).abort_handle(),
            watch: tokio::spawn(watching).abort_handle(),
        })
    }

    fn backend(&self, life: &Life, chance: &Chance) -> Backend {
        let vms = self.0.config.qmp_vms.iter().map(|vm| QmpVm {
            id: vm.id.clone(),
            socket: vm.qmp.clone(),
            channel: vm.channel.clone(),
        });
        let jitter = Mutex::new(chance.fork("jitter"));
        let settings = Settings {
            vhost: Vhost::Never,
            dialer: Arc::new(MonitorDoors::new(&self.0.vms, &self.0.stage, life)),
            jitter: Arc::new(move |range| {
                let width = u64::try_from((*range.end() - *range.start()).as_nanos());
                let drawn = lock(&jitter).below(width.unwrap_or(u64::MAX));
                *range.start() + std::time::Duration::from_nanos(drawn)
            }),
        };
        Backend {
            hypervisor: Arc::new(QmpHypervisor::with(vms.collect(), &settings)),
            tap_access: TapAccess::Descriptors,
            others: Others::MineExcept([].into()),
        }
    }

    fn tools(&self, life: &Life, surroundings: Surroundings) -> Result<Tools, OpenStoreError> {
        let Inner { name, stage, .. } = &*self.0;
        let board = Arc::new(Board::new(surroundings.clock.clone()));
        let journal = lock(&self.0.journal).clone();
        let journal = journal.unwrap_or_else(|| Arc::new(self.0.disk.journal(stage, life, name)));
        let site = self.0.config.site.clone();
        let dying = life.clone();
        let store = Store::open(site, journal, board.clone())?
            .aborting_by(Arc::new(move || dying.end("hostd aborts")));
        Ok(Tools {
            store: Arc::new(store),
            board,
            ports: Arc::new(HostPorts::new(self.providers(life))),
            patience: self.0.config.patience,
            surroundings,
        })
    }

    fn providers(&self, life: &Life) -> BTreeMap<NetworkName, Arc<dyn PortProvider>> {
        let Inner { name, stage, .. } = &*self.0;
        let bridges = self
            .0
            .config
            .ports
            .iter()
            .filter_map(|(network, kind)| match kind {
                PortKind::Bridge { bridge, .. } => Some((network.clone(), bridge.clone())),
                PortKind::Tap => None,
            });
        bridges
            .map(|(network, bridge)| {
                let stand_in = &self.0.stand_in;
                let ports = SimPorts::new(&self.0.links, bridge, stage, life, name, stand_in);
                let ports: Arc<dyn PortProvider> = Arc::new(ports);
                (network, ports)
            })
            .collect()
    }

    /// Ends hostd as `kill -9` does; `false` when none runs.
    pub fn kill(&self) -> bool {
        self.end("killed")
    }

    /// The host loses its power: hostd, what its disk had not synced, every link and every VM.
    pub fn lose_power(&self) {
        self.end("power lost");
        self.0.disk.lose_power();
        for vm in self.0.vms.values() {
            vm.kill();
        }
        self.0.links.forget_all();
    }

    fn end(&self, why: &str) -> bool {
        let Some(life) = self.life() else {
            return false;
        };
        life.end(why);
        self.put_away(&life);
        true
    }

    /// Ends every task of a life that is over, unless another has begun.
    fn put_away(&self, life: &Life) {
        let mut state = lock(&self.0.state);
        let gone = state.running.take_if(|running| running.life.is(life));
        // Tasks end without the lock that they may want.
        drop(state);
        drop(gone);
    }

    /// The life of the hostd that runs, if one does.
    #[must_use]
    pub fn life(&self) -> Option<Life> {
        let state = lock(&self.0.state);
        let running = state.running.as_ref();
        running
            .map(|running| running.life.clone())
            .filter(|life| !life.is_over())
    }

    /// What the hostd that runs does for its clients, past its API.
    #[must_use]
    pub fn service(&self) -> Option<Arc<Service>> {
        let state = lock(&self.0.state);
        let running = state.running.as_ref().filter(|it| !it.life.is_over())?;
        Some(running.daemon.service.clone())
    }

    /// A client of its API, which outlives its hostds.
    #[must_use]
    pub fn client(&self) -> Client {
        let door = ApiDoor(self.clone());
        Client::over(Arc::new(door), Path::new(&self.0.name))
    }

    /// Why hostd ended by itself, each time it did.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        lock(&self.0.state).failures.clone()
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Host").field(&self.0.name).finish()
    }
}

/// Puts away what is left of a life that has ended by itself: at an effect, or since one of its
/// tasks has.
async fn watch(host: Weak<Inner>, life: Life, supervisor: Supervisor) {
    let failure = tokio::select! {
        biased;
        () = life.ended() => None,
        failure = supervisor.first_end() => Some(failure.to_string()),
    };
    life.end("ended by itself");
    if let Some(host) = host.upgrade().map(Host) {
        lock(&host.0.state).failures.extend(failure);
        host.put_away(&life);
    }
}

/// Connections to the API, as they come.
struct Accepted {
    connections: mpsc::Receiver<(StreamEnd, u32)>,
    life: Life,
}

impl http::Connections for Accepted {
    type Stream = ApiEnd;

    async fn accept(&mut self) -> std::io::Result<(ApiEnd, u32)> {
        match self.connections.recv().await {
            Some((end, uid)) => {
                let life = self.life.clone();
                Ok((ApiEnd { end, life }, uid))
            }
            None => std::future::pending().await,
        }
    }
}

#[derive(Debug)]
struct ApiDoor(Host);

#[async_trait]
impl Dialer for ApiDoor {
    async fn dial(&self, _address: &Path) -> std::io::Result<Box<dyn ApiStream>> {
        let connections = {
            let state = lock(&self.0.0.state);
            let running = state
                .running
                .as_ref()
                .filter(|running| !running.life.is_over());
            running.map(|running| running.connections.clone())
        };
        let connections = connections.ok_or(std::io::ErrorKind::ConnectionRefused)?;
        let (ours, theirs) = pair();
        let sent = connections.send((theirs, OPERATOR)).await;
        sent.map_err(|_gone| std::io::ErrorKind::ConnectionRefused)?;
        Ok(Box::new(ours))
    }
}
