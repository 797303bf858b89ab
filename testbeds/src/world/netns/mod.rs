//! World `netns`: hostd as it is, QEMUs that run nothing, and guests that are namespaces with the
//! real agent in them.
//!
//! ```text
//!   site's namespace ─┬─ hostd
//!                     └─ simulator machine VM      QMP, and the links that guests find
//!                          └─ guest: own pid, mount and network namespace
//!                               └─ image/agent.sh ─► guest-agent
//! ```
//!
//! Frames are real. A guest has a shell, so that what scenarios ask of it are the scripts of a real
//! one; what a kernel's drivers would do the simulator does, and is told by rules to leave undone.

mod hardware;
mod shell;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use misbehaviour::{CueOrder, Effect, PaceRule, Rule, World as RuleWorld};
use nic_model::{NicId, VmId};
use serde_json::{Value, json};
use simulator::netns::{HostDisk, Plan, Site as CloudSite};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

use self::hardware::{ControlLine, NamespaceHardware};
use self::shell::TerminalShell;
use super::{DaemonRestart, Misbehaving, SimWorld, VMS, World, WorldKind, hidden, qmp_vms};
use crate::guest::shell::{AgentChannel, ScriptedAgent, Shell};
use crate::guest::{Guest, ShellGuest};
use crate::host::Host;
use crate::hostd::{Hostd, HostdProcess, JOURNAL, shorten_log};
use crate::inspection::QemuState;
use crate::qmp::Qmp;
use crate::site::{SimulatorPrograms, Site};
use crate::vm::VmOptions;

/// Keeps the agent running, as in a real guest.
const AGENT_KEEPER: &str = include_str!("../../image/agent.sh");
/// A killed process is gone in milliseconds.
const EXIT_DEADLINE: std::time::Duration = std::time::Duration::from_secs(20);

/// The `netns` world.
#[derive(Debug)]
pub struct NetnsWorld {
    // Before the site: processes end before their namespace does.
    running: Mutex<BTreeMap<VmId, Child>>,
    site: Arc<Site>,
    programs: SimulatorPrograms,
    /// How each VM was last to be made.
    options: Mutex<BTreeMap<VmId, VmOptions>>,
    /// Which VM each rule in force is about.
    ruled: Mutex<BTreeMap<String, VmId>>,
    /// The rules by which the host's disk is full.
    full: Mutex<BTreeSet<String>>,
}

impl NetnsWorld {
    /// On a piece of host.
    ///
    /// # Errors
    /// When the simulator cannot be built.
    pub async fn over(site: Arc<Site>) -> Result<Self> {
        let programs = site.foundation.simulator_programs().await?.clone();
        let mut options = BTreeMap::new();
        for vm in VMS {
            options.insert(vm.parse()?, VmOptions::named(vm)?);
        }
        let world = Self {
            running: Mutex::default(),
            site,
            programs,
            options: Mutex::new(options),
            ruled: Mutex::default(),
            full: Mutex::default(),
        };
        world.disk().mount().context("giving the host a disk")?;
        fs::write(world.keeper(), AGENT_KEEPER)?;
        fs::set_permissions(world.keeper(), Permissions::from_mode(0o755))?;
        Ok(world)
    }

    fn keeper(&self) -> PathBuf {
        self.site.directory().join("agent.sh")
    }

    /// What hostd keeps its journal on.
    fn disk(&self) -> HostDisk {
        HostDisk::at(self.site.netns.disk())
    }

    fn journal(&self) -> PathBuf {
        self.site.netns.disk().join(JOURNAL)
    }

    fn cloud(&self) -> CloudSite {
        CloudSite::at(self.site.directory().to_owned())
    }

    fn log(&self, vm: &VmId) -> PathBuf {
        self.cloud().log(vm.as_str())
    }

    /// What the machine and its guest are told when they start.
    fn plan(&self, options: &BTreeMap<VmId, VmOptions>) -> Result<Plan> {
        let vm = |options: &VmOptions| {
            json!({ "id": options.id, "host": "host", "class": "standard",
                "profile": "qemu-7.2", "root_ports": options.root_ports, "containers": [] })
        };
        let booting = options.values().filter(|vm| !vm.boot_delay.is_zero());
        let booting = booting.map(|vm| {
            let delay = format!("{}ms", vm.boot_delay.as_millis());
            json!({ "name": format!("{} boots slowly", vm.id), "operation": "guest.boot",
                "vm": vm.id, "effect": { "delay": delay } })
        });
        let plan = json!({
            "topology": { "hosts": ["host"], "networks": [], "classes": [], "quota": {},
                "timeouts": {}, "vms": options.values().map(vm).collect::<Vec<_>>() },
            "frames": "tap",
            "script": { "rule": booting.collect::<Vec<_>>() },
            "programs": { "simulator": self.programs.simulator, "hostd": "/nowhere",
                "guest_agent": self.keeper() },
        });
        serde_json::from_value(plan).context("the plan of the simulator has another shape")
    }

    fn start_machine(&self, options: &VmOptions) -> Result<Child> {
        let simulator = self.programs.simulator.to_str();
        let mut command: Command = self
            .site
            .netns
            .command(simulator.context("a path in UTF-8")?);
        command
            .args(["machine", "--directory"])
            .arg(self.site.directory())
            .arg(options.id.as_str())
            .env("NICFERRY_AGENT_START", options.agent.for_the_guest())
            .env("NICFERRY_AGENT_PROGRAM", &self.programs.guest_agent)
            .env("NICFERRY_AGENT_PORT", "");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log(&options.id))?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("starting the simulator")
    }

    fn control(&self, vm: &VmId) -> ControlLine {
        ControlLine::to(self.cloud().hardware(vm))
    }
}

#[async_trait(?Send)]
impl World for NetnsWorld {
    fn kind(&self) -> WorldKind {
        WorldKind::Netns
    }

    fn host(&self) -> &dyn Host {
        self.site.as_ref()
    }

    fn configure_hostd(&self) -> Result<Box<dyn Hostd>> {
        let site = Arc::clone(&self.site);
        let vms = qmp_vms(|vm, ending| site.directory().join(format!("{vm}.{ending}")));
        let hostd = HostdProcess::configure(Arc::clone(&site), self.journal(), &vms)?;
        Ok(Box::new(hostd))
    }

    async fn boot(&self, options: &VmOptions) -> Result<Box<dyn Guest>> {
        let mut running = self.running.lock().await;
        let vm = &options.id;
        ensure!(!running.contains_key(vm), "{vm} runs already");
        let mut all = self.options.lock().await;
        all.insert(vm.clone(), options.clone());
        let cloud = self.cloud();
        self.plan(&all)?.write(&cloud)?;
        running.insert(vm.clone(), self.start_machine(options)?);
        let shell: Arc<dyn Shell> = Arc::new(TerminalShell::at(cloud.guest(vm)));
        let channel = AgentChannel::Socket(cloud.channel(vm));
        let agent = ScriptedAgent::in_guest(Arc::clone(&shell), channel);
        let hardware = NamespaceHardware::over(vm.clone(), self.control(vm));
        let guest = ShellGuest::over(shell, Box::new(agent), Box::new(hardware));
        Ok(Box::new(guest))
    }

    async fn console(&self, vm: &VmId) -> String {
        fs::read_to_string(self.log(vm)).unwrap_or_default()
    }

    async fn kill(&self, vm: &VmId) -> Result<()> {
        let child = self.running.lock().await.remove(vm);
        let mut child = child.with_context(|| format!("{vm} does not run"))?;
        child.start_kill()?;
        let gone = tokio::time::timeout(EXIT_DEADLINE, child.wait()).await;
        gone.context("the simulator does not die")??;
        Ok(())
    }

    async fn monitor(&self, vm: &VmId, command: &str, arguments: Value) -> Result<Value> {
        let mut qmp = Qmp::connect(&self.cloud().spare_monitor(vm)).await?;
        qmp.execute(command, arguments).await
    }

    async fn qemu(&self, vm: &VmId) -> Result<QemuState> {
        QemuState::by_monitor(self, vm).await
    }

    async fn hide_monitor(&self, vm: &VmId) -> Result<()> {
        let socket = self.cloud().monitor(vm);
        Ok(fs::rename(&socket, hidden(&socket))?)
    }

    async fn reveal_monitor(&self, vm: &VmId) -> Result<()> {
        let socket = self.cloud().monitor(vm);
        Ok(fs::rename(hidden(&socket), &socket)?)
    }

    async fn unplug_behind_hostd(&self, vm: &VmId, nic: &NicId) -> Result<()> {
        let arguments = json!({ "id": nic.device_id() });
        self.monitor(vm, "device_del", arguments).await.map(drop)
    }

    async fn restart_daemon(&self) -> Result<DaemonRestart> {
        Ok(DaemonRestart::NoDaemon)
    }

    async fn definition(&self, _vm: &VmId) -> Result<BTreeSet<String>> {
        Ok(BTreeSet::new())
    }

    async fn log_tail(&self, lines: usize) -> String {
        let mut logs = String::new();
        for vm in self.running.lock().await.keys() {
            let log = fs::read_to_string(self.log(vm)).unwrap_or_default();
            let all: Vec<&str> = log.lines().collect();
            let tail = all[all.len().saturating_sub(lines)..].join("\n");
            logs = format!("{logs}{vm}: {tail}\n");
        }
        logs
    }

    fn simulated(&self) -> Option<&SimWorld> {
        None
    }

    fn misbehaving(&self) -> Option<&dyn Misbehaving> {
        Some(self)
    }
}

#[async_trait(?Send)]
impl Misbehaving for NetnsWorld {
    async fn misbehave(&self, rule: Rule) -> Result<()> {
        rule.check_in(RuleWorld::Netns)?;
        if rule.effect == Effect::DiskFull {
            shorten_log(&self.journal())?;
            self.disk().fill()?;
            self.full.lock().await.insert(rule.name);
            return Ok(());
        }
        let vm = rule.vm.clone().context("a rule names its VM here")?;
        self.control(&vm)
            .order(&json!({ "add_rule": rule }))
            .await?;
        self.ruled.lock().await.insert(rule.name, vm);
        Ok(())
    }

    async fn behave(&self, rule: &str) -> Result<u64> {
        if self.full.lock().await.remove(rule) {
            self.disk().free()?;
            return Ok(1);
        }
        let vm = self.ruled.lock().await.remove(rule);
        let vm = vm.with_context(|| format!("there is no rule {rule}"))?;
        let answer = self.control(&vm).order(&json!("status")).await?;
        let rules = answer["status"]["rules"].as_array();
        let mut rules = rules.context("a status has rules")?.iter();
        let status = rules.find(|status| status["rule"]["name"] == rule);
        let done = status.and_then(|status| status["done"].as_u64());
        self.control(&vm)
            .order(&json!({ "remove_rule": rule }))
            .await?;
        done.with_context(|| format!("the hardware has no rule {rule}"))
    }

    async fn set_pace(&self, pace: &PaceRule) -> Result<()> {
        let on: Vec<VmId> = self.running.lock().await.keys().cloned().collect();
        if let Some(vm) = &pace.vm {
            ensure!(on.contains(vm), "{vm} does not run");
        }
        for vm in on {
            self.control(&vm)
                .order(&json!({ "set_pace": pace }))
                .await?;
        }
        Ok(())
    }

    async fn give(&self, vm: &VmId, order: CueOrder) -> Result<()> {
        let order = match order {
            CueOrder::Clock(order) => json!({ "clock": order }),
            CueOrder::Step => json!("step"),
        };
        self.control(vm).order(&order).await.map(drop)
    }
}
