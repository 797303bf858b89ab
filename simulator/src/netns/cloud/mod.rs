//! A cloud that runs, as the sandbox sees it: its hosts, its VMs, and what has become of them.
//!
//! ```text
//!   start ──► VMs, each until its guest is up ──► hostds ──► ready
//!                │ ends: stays off until it is started again    │ ends: started again
//! ```

mod force;
#[cfg(test)]
mod tests;
mod turn;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use misbehaviour::ScriptError;
use nic_model::VmId;
use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinHandle;

use super::event_log::EventLog;
use super::hostd;
use super::machine::{BOOT_MAX, GuestState, Order, Status, give, let_go_for};
use super::network::{self, HostNetwork};
use super::plan::Plan;
use super::process::{Undertaker, described, end_of, log_to};
use super::ready;
use super::site::Site;
use super::topology::{HostName, Vm};
use super::trouble::{Doing, Trouble, in_full};

pub(super) use force::is_of_the_host;
pub(super) use turn::Turn;

use turn::{Busy, Turns};

/// As systemd's `RestartSec` has it.
const RESTART_PAUSE: Duration = Duration::from_millis(100);
/// A VM whose guest is not up by then is none. It has had the time to say itself why not.
const VM_DEADLINE: Duration = BOOT_MAX.saturating_add(Duration::from_secs(2));

/// Everything of one cloud. Clones are the same cloud.
#[derive(Debug, Clone)]
pub(super) struct Cloud {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    site: Site,
    undertaker: Undertaker,
    events: EventLog,
    /// One thing is done to it at a time.
    turns: Turns,
    running: Mutex<Running>,
}

#[derive(Debug)]
struct Running {
    /// With the rules and paces that are in force by now.
    plan: Plan,
    /// What the times of a script are counted from.
    began: Instant,
    hosts: BTreeMap<HostName, RunningHost>,
    vms: BTreeMap<VmId, Pid>,
    /// Who sees each VM to its end, and lets go of what it has held.
    watchers: BTreeMap<VmId, JoinHandle<()>>,
}

#[derive(Debug)]
struct RunningHost {
    network: HostNetwork,
    keeper: Option<JoinHandle<()>>,
    hostd: Option<Pid>,
}

/// What an order is about does not exist, or not in this state.
#[derive(Debug, thiserror::Error)]
pub(super) enum OrderError {
    /// No such host.
    #[error("there is no host {0}")]
    NoHost(HostName),
    /// No such VM.
    #[error("there is no VM {0}")]
    NoVm(VmId),
    /// No such rule.
    #[error("there is no rule {0:?}")]
    NoRule(String),
    /// It is off.
    #[error("VM {0} is off")]
    Off(VmId),
    /// It is on.
    #[error("VM {0} runs already")]
    On(VmId),
    /// Something in it would do nothing here.
    #[error(transparent)]
    Script(#[from] ScriptError),
    /// There is a rule of that name.
    #[error("rule {0:?}: there is one of that name already")]
    RuleTaken(String),
    /// Another order is under way.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// Something failed.
    #[error(transparent)]
    Trouble(#[from] Trouble),
}

/// A VM process that has not said in time that it is ready.
#[derive(Debug, thiserror::Error)]
#[error("{}; {log}", in_full(.why))]
struct NotReady {
    why: ready::NotReady,
    /// What it ends with.
    log: String,
}

impl Cloud {
    /// Starts everything and waits until it is ready.
    ///
    /// # Errors
    /// When a part cannot be started.
    pub(super) async fn start(plan: Plan, site: &Site) -> Result<Self, Trouble> {
        let undertaker = Undertaker::default();
        tokio::spawn(undertaker.clone().run());
        let running = Running {
            plan,
            began: Instant::now(),
            hosts: BTreeMap::new(),
            vms: BTreeMap::new(),
            watchers: BTreeMap::new(),
        };
        let cloud = Self {
            inner: Arc::new(Inner {
                site: site.clone(),
                undertaker,
                events: EventLog::default(),
                turns: Turns::default(),
                running: Mutex::new(running),
            }),
        };
        cloud.start_all().await?;
        Ok(cloud)
    }

    pub(super) fn plan(&self) -> Plan {
        self.lock().plan.clone()
    }

    pub(super) fn site(&self) -> &Site {
        &self.inner.site
    }

    pub(super) fn events(&self) -> &EventLog {
        &self.inner.events
    }

    /// The VMs, and the process of each that is on.
    pub(super) fn vms(&self) -> Vec<(VmId, Option<u32>)> {
        let running = self.lock();
        let number = |pid: &Pid| pid.as_raw_nonzero().get().unsigned_abs();
        let vms = running.plan.topology.vms.iter();
        vms.map(|vm| (vm.id.clone(), running.vms.get(&vm.id).map(number)))
            .collect()
    }

    async fn start_all(&self) -> Result<(), Trouble> {
        let topology = self.plan().topology;
        for (host, network) in topology.hosts.iter().zip(network::make(&topology).await?) {
            let host_running = RunningHost {
                network,
                keeper: None,
                hostd: None,
            };
            self.lock().hosts.insert(host.clone(), host_running);
        }
        self.lock().began = Instant::now();
        // They are there from the beginning, however long each takes.
        let vms = topology.vms.iter().map(|vm| self.boot(vm, Duration::ZERO));
        // Each to its end, so that none is on and nobody's.
        let booted = futures::future::join_all(vms).await;
        booted.into_iter().collect::<Result<(), _>>()?;
        for host in &topology.hosts {
            self.set_disk(host)?;
            hostd::configure(&self.plan(), &self.inner.site, host)?;
            self.keep_hostd(host);
        }
        for host in &topology.hosts {
            self.until_ready(host).await?;
        }
        self.inner.events.note("the cloud is ready");
        Ok(())
    }

    /// Makes it as it was at first, rules and paces included.
    ///
    /// # Errors
    /// When a part cannot be started again.
    pub(super) async fn reset(&self) -> Result<(), OrderError> {
        let _turn = self.inner.turns.take("reset").await?;
        self.stop_all().await;
        let plan = Plan::read(&self.inner.site)?;
        for host in &plan.topology.hosts {
            hostd::forget(&self.inner.site, host)?;
        }
        self.lock().plan = plan;
        self.inner.events.note("reset");
        Ok(self.start_all().await?)
    }

    async fn stop_all(&self) {
        let (hosts, vms) = {
            let mut running = self.lock();
            let hosts = std::mem::take(&mut running.hosts);
            (hosts, std::mem::take(&mut running.vms))
        };
        for host in hosts.values() {
            if let Some(keeper) = &host.keeper {
                keeper.abort();
            }
        }
        let hostds = hosts.values().filter_map(|host| host.hostd);
        for pid in hostds.chain(vms.into_values()) {
            self.inner.undertaker.kill_and_wait(pid).await;
        }
    }

    /// Starts a VM that is off.
    ///
    /// # Errors
    /// When it is on, or does not start.
    pub(super) async fn start_vm(&self, id: &VmId) -> Result<(), OrderError> {
        let _turn = self.inner.turns.take(format!("start VM {id}")).await?;
        let vm = self.vm(id)?;
        if self.lock().vms.contains_key(id) {
            return Err(OrderError::On(id.clone()));
        }
        let age = self.lock().began.elapsed();
        self.boot(&vm, age).await?;
        // It has those of the first plan, and some may have come and gone since.
        let script = self.lock().plan.script.clone();
        self.give_script(id, &script).await
    }

    /// Ends a VM as a power failure would.
    ///
    /// # Errors
    /// When it is off.
    pub(super) fn kill_vm(&self, id: &VmId) -> Result<(), OrderError> {
        self.vm(id)?;
        let pid = self.lock().vms.remove(id);
        let pid = pid.ok_or_else(|| OrderError::Off(id.clone()))?;
        kill_process(pid, Signal::KILL).unwrap_or_default();
        Ok(())
    }

    /// Ends a host's hostd as `kill -9` does; it is started again.
    ///
    /// # Errors
    /// When there is no such host.
    pub(super) fn kill_hostd(&self, host: &HostName) -> Result<(), OrderError> {
        let running = self.lock();
        let found = running.hosts.get(host);
        let found = found.ok_or_else(|| OrderError::NoHost(host.clone()))?;
        if let Some(pid) = found.hostd {
            kill_process(pid, Signal::KILL).unwrap_or_default();
        }
        Ok(())
    }

    /// Has the cloud to oneself for `order`, which is made of more than one thing.
    ///
    /// # Errors
    /// When another order takes too long.
    pub(super) async fn turn(&self, order: &str) -> Result<Turn<'_>, OrderError> {
        Ok(self.inner.turns.take(order).await?)
    }

    /// Does something while a host's hostd does not run.
    ///
    /// # Errors
    /// When there is no such host, it is not done, or hostd does not come back.
    pub(super) async fn without_hostd<T>(
        &self,
        _turn: &Turn<'_>,
        host: &HostName,
        act: impl FnOnce() -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        let (keeper, hostd) = {
            let mut running = self.lock();
            let found = running.hosts.get_mut(host);
            found.map_or((None, None), |host| (host.keeper.take(), host.hostd.take()))
        };
        if let Some(keeper) = keeper {
            keeper.abort();
        }
        if let Some(pid) = hostd {
            self.inner.undertaker.kill_and_wait(pid).await;
        }
        let done = act();
        self.keep_hostd(host);
        self.until_ready(host).await?;
        done
    }

    /// Waits until a host's hostd is in touch with each of its VMs that is on, and with the agent
    /// in each whose guest is up: what a pace or a rule holds up may take for ever.
    async fn until_ready(&self, host: &HostName) -> Result<(), Trouble> {
        let mut awaited = BTreeMap::new();
        for vm in self.plan().topology.vms_of(host) {
            if !self.lock().vms.contains_key(&vm.id) {
                continue;
            }
            let status = give(&self.inner.site.hardware(&vm.id), &Order::Status).await?;
            let guest = status.map_or(GuestState::Up, |status| status.guest);
            awaited.insert(vm.id.clone(), guest);
        }
        hostd::until_ready(&self.inner.site, host, &awaited).await
    }

    /// The names of the links of a host: its bridges and the ends of its NICs, not the loopback.
    ///
    /// # Errors
    /// When there is no such host, or its kernel does not answer.
    pub(super) async fn host_links(&self, host: &HostName) -> Result<Vec<String>, OrderError> {
        let network = self.lock().hosts.get(host).map(|host| host.network.clone());
        let network = network.ok_or_else(|| OrderError::NoHost(host.clone()))?;
        let links = network
            .netlink
            .links()
            .await
            .doing("list the links of a host")?;
        let names = links.into_iter().map(|link| link.name);
        Ok(names.filter(|name| name != "lo").collect())
    }

    /// Gives an order to one VM.
    ///
    /// # Errors
    /// When it is off, refuses or does not answer.
    pub(super) async fn give(
        &self,
        vm: &VmId,
        order: &Order,
    ) -> Result<Option<Status>, OrderError> {
        self.vm(vm)?;
        if !self.lock().vms.contains_key(vm) {
            return Err(OrderError::Off(vm.clone()));
        }
        let given = give(&self.inner.site.hardware(vm), order).await;
        Ok(given.doing(format_args!("give an order to VM {vm}"))?)
    }

    fn vm(&self, id: &VmId) -> Result<Vm, OrderError> {
        let running = self.lock();
        let found = running.plan.topology.vms.iter().find(|vm| vm.id == *id);
        found.cloned().ok_or_else(|| OrderError::NoVm(id.clone()))
    }

    /// Starts a VM, in a cloud of this age, and waits until its guest is up.
    async fn boot(&self, vm: &Vm, cloud_age: Duration) -> Result<(), Trouble> {
        let doing = format!("start VM {}", vm.id);
        self.until_gone(&vm.id).await.doing(&doing)?;
        let site = &self.inner.site;
        let (netns, program) = {
            let running = self.lock();
            let host = running.hosts.get(&vm.host);
            let program = running.plan.programs.simulator.clone();
            (host.map(|host| host.network.netns.clone()), program)
        };
        let mut command = Command::new(program);
        command
            .arg("machine")
            .arg("--directory")
            .arg(site.directory());
        command.arg("--cloud-age-ms");
        command.arg(cloud_age.as_millis().to_string());
        command.arg(vm.id.as_str());
        log_to(&mut command, &site.log(vm.id.as_str()))?;
        let (reader, writer) = std::io::pipe().doing(&doing)?;
        command.stdout(Stdio::from(writer));
        let process = self.inner.undertaker.spawn(command, netns.as_ref()).await?;
        let ready = said_ready(reader, &site.log(vm.id.as_str())).await;
        match &ready {
            Ok(()) => {
                self.lock().vms.insert(vm.id.clone(), process.pid);
                self.inner.events.note(format_args!("VM {} is on", vm.id));
            }
            Err(_) => process.kill(),
        }
        let watcher = tokio::spawn(self.clone().watch_vm(vm.id.clone(), process));
        self.lock().watchers.insert(vm.id.clone(), watcher);
        ready.doing(doing)
    }

    /// Waits until nothing is left of an earlier life of a VM that is off: what it has held is let
    /// go of by the VM's name, which the next life has as well.
    async fn until_gone(&self, id: &VmId) -> Result<(), tokio::time::error::Elapsed> {
        let watcher = self.lock().watchers.remove(id);
        match watcher {
            // That it has panicked is an end too.
            Some(watcher) => tokio::time::timeout(VM_DEADLINE, watcher).await.map(drop),
            None => Ok(()),
        }
    }

    async fn watch_vm(self, id: VmId, mut process: super::process::Process) {
        let status = described(process.ended().await);
        self.note_off(&id, process.pid);
        self.inner
            .events
            .note(format_args!("VM {id} is off: {status}"));
        if let Err(error) = self.let_go_for(&id).await {
            tracing::warn!(vm = %id, error = in_full(&error), "links stay held");
        }
    }

    /// Another life of the VM may have begun already.
    fn note_off(&self, id: &VmId, pid: Pid) {
        let mut running = self.lock();
        if running.vms.get(id) == Some(&pid) {
            running.vms.remove(id);
        }
    }

    /// What a process holds, the kernel takes away with it. Links that a VM held stay switched on.
    async fn let_go_for(&self, id: &VmId) -> Result<(), Trouble> {
        let network = {
            let running = self.lock();
            let vm = running.plan.topology.vms.iter().find(|vm| vm.id == *id);
            let host = vm.and_then(|vm| running.hosts.get(&vm.host));
            host.map(|host| host.network.clone())
        };
        match network {
            Some(network) => let_go_for(&network.netlink, id).await,
            None => Ok(()),
        }
    }

    /// Starts a host's hostd, and starts it again whenever it ends, as a service manager would.
    fn keep_hostd(&self, host: &HostName) {
        let keeper = tokio::spawn(self.clone().hostd_lives(host.clone()));
        if let Some(running) = self.lock().hosts.get_mut(host) {
            running.keeper = Some(keeper);
        }
    }

    async fn hostd_lives(self, host: HostName) {
        loop {
            let end = match self.hostd_life(&host).await {
                Ok(end) => end,
                Err(error) => in_full(&error),
            };
            self.inner
                .events
                .note(format_args!("hostd of {host} has ended: {end}"));
            tokio::time::sleep(RESTART_PAUSE).await;
        }
    }

    async fn hostd_life(&self, host: &HostName) -> Result<String, Trouble> {
        let plan = self.plan();
        let network = self.lock().hosts.get(host).map(|host| host.network.clone());
        let site = &self.inner.site;
        let started = hostd::start(&plan, site, host, network.as_ref(), &self.inner.undertaker);
        let mut process = started.await?;
        self.note_hostd(host, Some(process.pid));
        let end = described(process.ended().await);
        self.note_hostd(host, None);
        Ok(end)
    }

    fn note_hostd(&self, host: &HostName, pid: Option<Pid>) {
        if let Some(running) = self.lock().hosts.get_mut(host) {
            running.hostd = pid;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        self.inner
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until a VM says that it is ready.
async fn said_ready(said: std::io::PipeReader, log: &Path) -> Result<(), NotReady> {
    let said = ready::said_ready(said, VM_DEADLINE).await;
    said.map_err(|why| NotReady {
        why,
        log: end_of(log),
    })
}
