//! A whole hostd but for its API, over a hypervisor, ports, a journal and guests in memory.
//!
//! Time is paused in these tests: it moves on only when nothing else can happen, so that a
//! deadline costs no time and what is awaited either comes or is known never to come.

pub(crate) mod guest;
pub(crate) mod hostile;
pub(crate) mod hypervisor;
pub(crate) mod ports;
pub(crate) mod stage;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use host_api::{AttachNic, CreateNic, MoveNic};
use hostd::agent_link::{AgentHandle, AgentState, AgentView};
use hostd::board::{Board, BoardEvent, Happening, LiveNic};
use hostd::config::PatienceConfig;
use hostd::daemon::{Backend, Daemon, Others};
use hostd::ports::HostPorts;
use hostd::service::{Answer, Ask, Caller, Service, ServiceError};
use hostd::store::Store;
use hostd::supervisor::TaskEnded;
use hostd::surroundings::Surroundings;
use hostd::worker::Tools;
use nic_lifecycle::{HostQuota, Network, NicRecord, NicState, Site, VmClass};
use nic_model::{HotplugMode, Mtu, NetworkName, NicId, RateLimits, Target, VmId};
use port::{PortProvider, TapAccess};
use tempfile::TempDir;

use guest::Guest;
use hypervisor::{Events, ScriptedHypervisor};
use ports::{ScriptedJournal, ScriptedPorts};
use stage::Stage;

pub(crate) const PATIENCE: PatienceConfig = PatienceConfig {
    attach: Duration::from_secs(60),
    release: Duration::from_secs(15),
    quarantine: Duration::from_secs(120),
};
/// Longer than anything may take, in paused time.
const DEADLINE: Duration = Duration::from_secs(1800);

/// What a world is like.
pub(crate) struct Setup {
    pub(crate) vms: Vec<&'static str>,
    pub(crate) slots: u8,
    pub(crate) hotplug: HotplugMode,
    pub(crate) access: TapAccess,
    pub(crate) agents: Agents,
    /// The class that all VMs are of.
    pub(crate) class: VmClass,
}

/// Whether agents answer from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Agents {
    Everywhere,
    Nowhere,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            vms: vec!["vm1"],
            slots: 4,
            hotplug: HotplugMode::Acpi,
            access: TapAccess::Descriptors,
            agents: Agents::Everywhere,
            class: standard_class(),
        }
    }
}

/// A class that leaves every NIC unlimited.
pub(crate) fn standard_class() -> VmClass {
    VmClass {
        name: "standard".parse().unwrap(),
        max_nics: 64,
        max_addresses_per_nic: 4,
        max_queues: 2,
        rates: RateLimits::default(),
    }
}

/// hostd and everything around it.
pub(crate) struct World {
    pub(crate) stage: Arc<Stage>,
    pub(crate) hypervisor: Arc<ScriptedHypervisor>,
    pub(crate) ports: Arc<ScriptedPorts>,
    pub(crate) journal: Arc<ScriptedJournal>,
    pub(crate) guests: BTreeMap<VmId, Guest>,
    access: TapAccess,
    class: VmClass,
    directory: TempDir,
    daemon: Daemon,
}

impl Drop for World {
    fn drop(&mut self) {
        self.daemon.stop();
    }
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    pub(crate) async fn with(setup: Setup) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let stage = Arc::new(Stage::default());
        let hypervisor = ScriptedHypervisor::new(stage.clone()).with_access(setup.access);
        let hypervisor = Arc::new(hypervisor);
        for name in &setup.vms {
            let channel = directory.path().join(name);
            hypervisor.add_vm(&vm(name), setup.slots, setup.hotplug, channel);
        }
        let ports = Arc::new(ScriptedPorts::new(stage.clone(), hypervisor.clone()));
        let journal = Arc::new(ScriptedJournal::new(stage.clone()));
        let site = site(setup.class.clone());
        let daemon = daemon(site, &hypervisor, &ports, &journal, setup.access);
        let mut world = Self {
            stage,
            hypervisor,
            ports,
            journal,
            guests: BTreeMap::new(),
            access: setup.access,
            class: setup.class,
            directory,
            daemon,
        };
        if setup.agents == Agents::Everywhere {
            setup.vms.iter().for_each(|name| world.start_agent(name));
        }
        world.until_known(&setup.vms).await;
        world
    }

    /// As after `kill -9`: everything in memory is lost, the journal and the world outside stay as
    /// they are.
    pub(crate) async fn restart(&mut self) {
        self.daemon.stop();
        tokio::task::yield_now().await;
        self.stage.die_at(None);
        let site = site(self.class.clone());
        let (hypervisor, ports, journal) = (&self.hypervisor, &self.ports, &self.journal);
        self.daemon = daemon(site, hypervisor, ports, journal, self.access);
        let vms: Vec<_> = self.guests.keys().cloned().collect();
        let names: Vec<_> = vms.iter().map(VmId::as_str).collect();
        self.until_known(&names).await;
    }

    /// As [`Self::restart`], with another class in the configuration.
    pub(crate) async fn restart_with(&mut self, class: VmClass) {
        self.class = class;
        self.restart().await;
    }

    /// As after `kill -9`, and nobody starts it again.
    pub(crate) fn stop(&mut self) {
        self.daemon.stop();
    }

    pub(crate) fn start_agent(&mut self, name: &str) {
        let guest = Guest::start(vm(name), &self.channel(name), self.hypervisor.clone());
        self.guests.insert(vm(name), guest);
    }

    /// Undefines a VM: its guest ends with it.
    pub(crate) fn end_vm(&mut self, name: &str) {
        drop(self.guests.remove(&vm(name)));
        self.hypervisor.remove_vm(&vm(name), Events::Sent);
    }

    /// Defines and starts a VM with an agent in it.
    pub(crate) fn begin_vm(&mut self, name: &str) {
        let channel = self.channel(name);
        self.hypervisor
            .add_vm(&vm(name), 4, HotplugMode::Acpi, channel);
        self.start_agent(name);
        self.hypervisor.tell_of_the_list();
    }

    /// Waits until hostd has let go of a VM.
    pub(crate) async fn until_gone(&self, name: &str) {
        let mut events = self.service().board.subscribe(Some(0));
        let is_the_end = |event: &BoardEvent| {
            matches!(event.what, Happening::VmGone) && event.vm == Some(vm(name))
        };
        if events.past.iter().any(is_the_end) {
            return;
        }
        within("the end of a VM", async {
            while !is_the_end(&events.future.recv().await.unwrap()) {}
        })
        .await;
    }

    pub(crate) fn guest(&self, name: &str) -> &Guest {
        &self.guests[&vm(name)]
    }

    pub(crate) fn channel(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn service(&self) -> &Arc<Service> {
        &self.daemon.service
    }

    /// Why hostd has to end.
    pub(crate) async fn failed(&self) -> TaskEnded {
        within("the end of a task", self.daemon.failed()).await
    }

    pub(crate) fn record(&self, nic: &NicId) -> NicRecord {
        self.service().store.nic(nic).unwrap()
    }

    pub(crate) fn live(&self, nic: &NicId) -> LiveNic {
        self.service().board.nic(nic)
    }

    pub(crate) async fn create(&self) -> NicId {
        self.create_from(r#"{"network": "blue"}"#).await
    }

    pub(crate) async fn create_from(&self, json: &str) -> NicId {
        let request: CreateNic = serde_json::from_str(json).unwrap();
        let answer = self.service().create(&waiting(), request).await.unwrap();
        record_of(answer).id
    }

    /// Asks for an attach and does not wait for it.
    pub(crate) async fn begin_attach(&self, nic: &NicId, name: &str, target: &str) {
        let request = attach_request(name, target);
        let answer = self.service().attach(&at_once(), nic, request).await;
        answer.unwrap();
    }

    /// Attaches and waits for what comes of it.
    pub(crate) async fn attach(
        &self,
        nic: &NicId,
        name: &str,
        target: &str,
    ) -> Result<NicRecord, ServiceError> {
        let request = attach_request(name, target);
        let ask = waiting();
        let answer = self.service().attach(&ask, nic, request);
        within("an attach", answer).await.map(record_of)
    }

    /// A NIC in use, each in a container named after it.
    pub(crate) async fn attached(&self, name: &str) -> NicId {
        let nic = self.create().await;
        let record = self.attach(&nic, name, &format!("netns:{nic}")).await;
        assert_eq!(record.unwrap().state, NicState::InUse);
        nic
    }

    pub(crate) async fn begin_detach(&self, nic: &NicId) {
        self.service().detach(&at_once(), nic).await.unwrap();
    }

    pub(crate) async fn detach(&self, nic: &NicId) -> Result<NicRecord, ServiceError> {
        let ask = waiting();
        let answer = self.service().detach(&ask, nic);
        within("a detach", answer).await.map(record_of)
    }

    pub(crate) async fn relocate(
        &self,
        nic: &NicId,
        name: &str,
        target: &str,
    ) -> Result<NicRecord, ServiceError> {
        let request = MoveNic {
            vm: vm(name),
            target: target.parse().unwrap(),
            link_name: None,
        };
        let ask = waiting();
        let answer = self.service().relocate(&ask, nic, request);
        within("a move", answer).await.map(record_of)
    }

    /// Waits until a NIC's record and what is observed of it are as said.
    pub(crate) async fn until(
        &self,
        what: &str,
        nic: &NicId,
        holds: impl Fn(&NicRecord, &LiveNic) -> bool,
    ) {
        let mut live = self.service().board.follow(nic);
        within(what, async {
            loop {
                let seen = live.look(LiveNic::clone);
                let record = self.service().store.nic(nic);
                if record.is_some_and(|record| holds(&record, &seen)) {
                    return;
                }
                live.changed().await.unwrap();
            }
        })
        .await;
    }

    pub(crate) async fn until_state(&self, nic: &NicId, state: NicState) {
        let what = format!("{nic} to be {state:?}");
        self.until(&what, nic, |record, _| record.state == state)
            .await;
    }

    pub(crate) fn agent(&self, name: &str) -> AgentHandle {
        let handle = |handle: &hostd::daemon::VmHandle| Some(handle.agent.clone());
        let handle = self.service().vms.with(&vm(name), handle);
        handle.expect("every VM has a worker by now")
    }

    pub(crate) async fn until_agent_is_ready(&self, name: &str) {
        let ready = |state: &AgentState| matches!(state, AgentState::Ready { .. });
        self.until_agent(name, ready).await;
    }

    /// Waits until the agent's line is in a state.
    pub(crate) async fn until_agent(&self, name: &str, holds: impl Fn(&AgentState) -> bool) {
        self.until_view(name, |view| holds(&view.state)).await;
    }

    /// Waits until nobody can say which boot the guest is in.
    pub(crate) async fn until_boot_is_unknown(&self, name: &str) {
        self.until_view(name, |view| view.boot_id.is_none()).await;
    }

    async fn until_view(&self, name: &str, holds: impl Fn(&AgentView) -> bool) {
        let mut agent = self.agent(name);
        within("what is known of an agent", async {
            while !holds(&agent.view()) {
                agent.changed().await;
            }
        })
        .await;
    }

    /// Nothing of a NIC is left anywhere, once its port has been removed behind it, and no rule
    /// was broken on the way.
    pub(crate) async fn assert_gone(&self, nic: &NicId) {
        assert_ne!(self.ports.admin(nic), Some(port::AdminState::Up));
        self.until_no_port(nic).await;
        assert!(!self.hypervisor.uses(nic), "its device or backend is left");
        self.assert_no_breach();
    }

    /// Waits until a NIC's port is removed.
    pub(crate) async fn until_no_port(&self, nic: &NicId) {
        let gone = || self.ports.admin(nic).is_none();
        within("the removal of a port", self.stage.until(gone)).await;
    }

    /// A NIC has exactly one device, one backend and one port that passes frames.
    pub(crate) fn assert_plugged(&self, nic: &NicId, name: &str) {
        let hardware = self.hypervisor.hardware(&vm(name));
        let plugged: Vec<_> = hardware.nics.iter().filter(|one| one.nic == *nic).collect();
        let slot = self.record(nic).placement.map(|placement| placement.slot);
        assert_eq!(plugged.len(), 1);
        assert_eq!(plugged[0].slot, slot);
        assert_eq!(self.ports.admin(nic), Some(port::AdminState::Up));
        self.assert_no_breach();
    }

    pub(crate) fn assert_no_breach(&self) {
        assert_eq!(self.stage.breaches(), Vec::<String>::new());
    }

    pub(crate) async fn until_known(&self, names: &[&str]) {
        let mut events = self.service().board.subscribe(Some(0)).future;
        let known = || -> BTreeSet<_> {
            let store = &self.service().store;
            store.read(|ledger| ledger.vms().map(|(vm, _)| vm.clone()).collect())
        };
        within("the VMs to be looked at", async {
            while !names.iter().all(|name| known().contains(&vm(name))) {
                events.recv().await.unwrap();
            }
        })
        .await;
    }
}

fn daemon(
    site: Site,
    hypervisor: &Arc<ScriptedHypervisor>,
    ports: &Arc<ScriptedPorts>,
    journal: &Arc<ScriptedJournal>,
    tap_access: TapAccess,
) -> Daemon {
    let board = Arc::new(Board::default());
    let store = Store::open(site, journal.clone(), board.clone()).unwrap();
    let blue: NetworkName = "blue".parse().unwrap();
    let ports: Arc<dyn PortProvider> = ports.clone();
    let tools = Tools {
        store: Arc::new(store),
        board,
        ports: Arc::new(HostPorts::new([(blue, ports)].into())),
        patience: PATIENCE,
        surroundings: Surroundings::default(),
    };
    let backend = Backend {
        hypervisor: hypervisor.clone(),
        tap_access,
        others: Others::MineExcept(BTreeSet::new()),
    };
    Daemon::over(vec![backend], tools)
}

pub(crate) fn two_vms() -> Setup {
    Setup {
        vms: vec!["vm1", "vm2"],
        ..Setup::default()
    }
}

/// Two hypervisors under one hostd, with VM `one` and VM `two`.
pub(crate) fn two_hypervisors() -> (Daemon, [Arc<ScriptedHypervisor>; 2]) {
    let board = Arc::new(Board::default());
    let journal = Arc::new(ScriptedJournal::new(Arc::default()));
    let store = Store::open(site(standard_class()), journal, board.clone()).unwrap();
    let hypervisors = ["one", "two"].map(|name| {
        let hypervisor = ScriptedHypervisor::new(Arc::default());
        hypervisor.add_vm(&vm(name), 4, HotplugMode::Acpi, PathBuf::from("/nowhere"));
        Arc::new(hypervisor)
    });
    let backend = |at: usize, others| Backend {
        hypervisor: hypervisors[at].clone(),
        tap_access: TapAccess::Descriptors,
        others,
    };
    let not_one = Others::MineExcept(BTreeSet::from([vm("one")]));
    let backends = vec![backend(0, Others::NotMine), backend(1, not_one)];
    let tools = Tools {
        store: Arc::new(store),
        board,
        ports: Arc::new(HostPorts::new(BTreeMap::new())),
        patience: PATIENCE,
        surroundings: Surroundings::default(),
    };
    (Daemon::over(backends, tools), hypervisors)
}

fn site(class: VmClass) -> Site {
    let network = Network {
        name: "blue".parse().unwrap(),
        subnets: vec!["10.77.0.0/16".parse().unwrap()],
        mtu: Mtu::ETHERNET,
    };
    Site {
        networks: [(network.name.clone(), network)].into(),
        default_class: Some(class.name.clone()),
        classes: [(class.name.clone(), class)].into(),
        quota: HostQuota::default(),
        ..Site::default()
    }
}

pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what} did not come"),
    }
}

/// Paused time moves on only when nobody can go on without it: once it has, everybody waits.
pub(crate) async fn until_everybody_waits() {
    // tidy: sleep because paused time passes at once
    tokio::time::sleep(Duration::from_millis(1)).await;
}

pub(crate) fn vm(name: &str) -> VmId {
    name.parse().unwrap()
}

pub(crate) fn target(text: &str) -> Target {
    text.parse().unwrap()
}

pub(crate) fn attach_request(name: &str, target: &str) -> AttachNic {
    AttachNic {
        vm: vm(name),
        target: target.parse().unwrap(),
        link_name: None,
    }
}

/// A request that waits for what comes of it.
pub(crate) fn waiting() -> Ask {
    Ask {
        wait: DEADLINE,
        ..at_once()
    }
}

/// A request that is answered once it is admitted.
pub(crate) fn at_once() -> Ask {
    Ask {
        caller: Caller::Operator,
        token: None,
        wait: Duration::ZERO,
        received_at: tokio::time::Instant::now(),
    }
}

pub(crate) fn record_of(answer: Answer) -> NicRecord {
    match answer {
        Answer::Settled(record) | Answer::UnderWay(record) => record,
    }
}

/// The code of a failed operation.
pub(crate) fn failure_code(outcome: Result<NicRecord, ServiceError>) -> String {
    match outcome {
        Err(ServiceError::CameToNothing(record)) => record.last_failure.unwrap().code,
        other => panic!("came to something: {other:?}"),
    }
}
