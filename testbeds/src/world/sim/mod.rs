//! World `sim`: hostd, QEMUs and guests in memory, in virtual time, from one seed.
//!
//! ```text
//!   SimWorld ─┬─ Host    hostd's own core over a disk, links and monitors in memory
//!             ├─ SimVm   fake-qemu and fake-guest, which runs the real agent's loop
//!             └─ Wire    who reaches whom: frames are not sent, but asked about
//! ```
//!
//! It runs on one thread whose clock is paused, and is judged at every moment, not only at rest:
//! looking costs nothing and disturbs nobody.

mod agent;
mod guest;
mod host;
mod hostd;
mod wire;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ::hostd::config::Config;
use ::hostd::failpoint;
use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use fake_guest::kernel::{BootTimes, KernelSettings, Unplug};
use fake_qemu::{Hardware, MonitorId, Profile};
use misbehaviour::{CueOrder, PaceRule, Rule, Rulebook, World as RuleWorld};
use nic_model::{HotplugMode, NicId, VmId};
use oracle::{Moment, SystemView, Violation};
use serde_json::Value;
use simulator::sim::{Host as SimulatedHost, Keeping, MonitorDoor, SimVm, Stage, VmSettings, pair};

use self::guest::SimGuest;
use self::host::SimHost;
use self::hostd::SimHostd;
use self::wire::Wire;
use super::{DaemonRestart, Misbehaving, VMS, World, WorldKind, qmp_vms};
use crate::guest::Guest;
use crate::host::Host;
use crate::hostd::{Hostd, configuration};
use crate::inspection::QemuState;
use crate::qmp::Qmp;
use crate::vm::{AgentStart, VmOptions};

/// Environment variable with the seed of simulated worlds.
pub const SEED_VARIABLE: &str = "NICFERRY_SEED";
/// The seed where nobody asks for another.
const SEED: u64 = 1;

/// The monitor that is nobody's but the harness's.
const SABOTAGE: MonitorId = MonitorId(1);
/// Entries of the trace that a failure's report shows.
const TRACE_ENTRIES: usize = 200;
/// Later than any scenario: for an agent that is not started.
const NEVER: Duration = Duration::from_secs(1_000_000_000);

/// The `sim` world.
#[derive(Debug)]
pub struct SimWorld {
    stage: Stage,
    simulated: SimulatedHost,
    wire: Rc<Wire>,
    host: SimHost,
    sabotaged: Rc<Sabotaged>,
    /// How many entries the trace had at the last look at everything.
    looked_at: Cell<u64>,
}

/// Whether a scenario has put anything there that may not be: what is found from then on until
/// everything is at rest is what it has put there.
#[derive(Debug, Default)]
struct Sabotaged(Cell<bool>);

impl Sabotaged {
    fn begin(&self) {
        self.0.set(true);
    }

    fn end(&self) {
        self.0.set(false);
    }
}

/// Whether a command to a QEMU puts something into it or takes something out.
fn changes_devices(command: &str) -> bool {
    ["device_add", "device_del", "netdev_add", "netdev_del"].contains(&command)
}

/// The seed that worlds are made from.
///
/// # Errors
/// When what the environment says is none.
pub fn seed() -> Result<u64> {
    match std::env::var(SEED_VARIABLE) {
        Ok(seed) => seed
            .parse()
            .with_context(|| format!("{SEED_VARIABLE}={seed}")),
        Err(_) => Ok(SEED),
    }
}

impl SimWorld {
    /// Makes one, with every VM off and no hostd yet. It has to be made and used on a runtime of
    /// one thread whose clock is paused.
    ///
    /// # Errors
    /// When hostd does not take its configuration.
    pub fn make(seed: u64) -> Result<Self> {
        let stage = Stage::new(seed, Rulebook::of(RuleWorld::Sim, seed), Keeping::Log);
        let segment = wire::segment()?;
        let hardware = Hardware::with_root_ports(Profile::Qemu7_2, 10)?;
        let settings = VmSettings {
            hardware: Arc::new(hardware),
            kernel: KernelSettings::default(),
            segment: Some(segment.clone()),
        };
        let mut vms = BTreeMap::new();
        for name in VMS {
            let id: VmId = name.parse()?;
            vms.insert(id.clone(), SimVm::new(id, &stage, &settings));
        }
        let tables = qmp_vms(|vm, ending| PathBuf::from(format!("/{ending}/{vm}")));
        let text = configuration("", &tables);
        let config = Config::parse(&text, Path::new("hostd.toml"))?;
        let stand_in = Arc::new(std::fs::File::open("/dev/null")?);
        let simulated = SimulatedHost::new("host", &stage, config, vms, &stand_in);
        let wire = Rc::new(Wire::between(&simulated));
        let sabotaged = Rc::new(Sabotaged::default());
        let host = SimHost::new(&simulated, &wire, segment, &sabotaged);
        Ok(Self {
            stage,
            simulated,
            wire,
            host,
            sabotaged,
            looked_at: Cell::default(),
        })
    }

    fn vm(&self, vm: &VmId) -> Result<&SimVm> {
        let known = self.simulated.vms().get(vm);
        known.with_context(|| format!("there is no VM {vm}"))
    }

    /// Time, chance, rules and trace of this world.
    #[must_use]
    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// Its host.
    #[must_use]
    pub fn simulated_host(&self) -> &SimulatedHost {
        &self.simulated
    }

    /// Everything at once.
    ///
    /// # Errors
    /// While no hostd runs.
    pub fn look(&self) -> Result<SystemView> {
        let mut view = self.simulated.view().context("no hostd runs")?;
        view.host.disturbed = self.host.disturbed();
        view.vms.retain(|_, vm| vm.guest.is_some());
        Ok(view)
    }

    /// What is wrong at this very moment. Where nothing has crossed a boundary since the last look
    /// there is nothing new to see.
    #[must_use]
    pub fn breaches(&self) -> Vec<Violation> {
        let entries = self.stage.trace().entries();
        let is_new = self.looked_at.replace(entries) != entries;
        match is_new && !self.sabotaged.0.get() {
            true => self.simulated.violations(Moment::Any),
            false => Vec::new(),
        }
    }

    /// What was ever wrong, though nothing of it may be left to see: what a port did that it may
    /// never do, and a hostd that has ended by itself.
    #[must_use]
    pub fn noted(&self) -> Vec<Violation> {
        let mut noted = self.simulated.links().breaches();
        noted.extend(self.simulated.failures());
        noted
    }

    /// All is as it should be: whatever a scenario had put there has gone.
    pub fn is_right_again(&self) {
        self.sabotaged.end();
    }
}

/// As a Debian guest under emulation boots, only faster.
fn kernel(options: &VmOptions) -> KernelSettings {
    let usual = KernelSettings::default();
    KernelSettings {
        boot: BootTimes {
            firmware: Duration::from_millis(300),
            hotplug: Duration::from_millis(200) + options.boot_delay,
            agent: match options.agent {
                AgentStart::AtBoot => Duration::from_millis(100),
                AgentStart::After(delay) => delay,
                AgentStart::Never => NEVER,
            },
        },
        unplug: match options.hotplug {
            HotplugMode::Acpi => usual.unplug,
            HotplugMode::Native => Unplug::Native,
        },
        ..usual
    }
}

fn hardware(options: &VmOptions) -> Result<Hardware> {
    let ports = usize::from(options.root_ports);
    Ok(Hardware {
        hotplug: match options.hotplug {
            HotplugMode::Acpi => fake_qemu::HotplugMode::Acpi,
            HotplugMode::Native => fake_qemu::HotplugMode::Native,
        },
        ..Hardware::with_root_ports(Profile::Qemu7_2, ports)?
    })
}

#[async_trait(?Send)]
impl World for SimWorld {
    fn kind(&self) -> WorldKind {
        WorldKind::Sim
    }

    fn host(&self) -> &dyn Host {
        &self.host
    }

    fn configure_hostd(&self) -> Result<Box<dyn Hostd>> {
        let hostd = SimHostd::new(&self.simulated, &self.stage, &self.sabotaged).map_err(
            |_: failpoint::NoFailpoints| {
                anyhow::anyhow!("this program was built with a hostd that has no failpoints")
            },
        )?;
        Ok(Box::new(hostd))
    }

    async fn boot(&self, options: &VmOptions) -> Result<Box<dyn Guest>> {
        let vm = self.vm(&options.id)?;
        anyhow::ensure!(vm.guest().is_none(), "{} runs already", options.id);
        let hardware = Arc::new(hardware(options)?);
        vm.change(|settings| {
            settings.hardware = hardware;
            settings.kernel = kernel(options);
        });
        vm.power_on();
        let guest = SimGuest::new(vm.clone(), options.hotplug, &self.stage, &self.wire);
        Ok(Box::new(guest))
    }

    async fn console(&self, _vm: &VmId) -> String {
        String::new()
    }

    async fn kill(&self, vm: &VmId) -> Result<()> {
        anyhow::ensure!(self.vm(vm)?.kill(), "{vm} does not run");
        Ok(())
    }

    async fn monitor(&self, vm: &VmId, command: &str, arguments: Value) -> Result<Value> {
        if changes_devices(command) {
            self.sabotaged.begin();
        }
        let (ours, theirs) = pair();
        let served = self.vm(vm)?.with_qemu(|qemu| qemu.serve(SABOTAGE, theirs));
        let served = served.with_context(|| format!("{vm} is off"))?;
        let asking = async {
            let mut qmp = Qmp::over(ours).await?;
            qmp.execute(command, arguments).await
        };
        tokio::select! {
            biased;
            answer = asking => answer,
            _ = served => bail!("QEMU has ended"),
        }
    }

    async fn qemu(&self, vm: &VmId) -> Result<QemuState> {
        let vm = self.vm(vm)?;
        Ok(QemuState {
            devices: vm.devices().into_keys().collect(),
            netdevs: vm.netdevs(),
            defined: BTreeSet::new(),
        })
    }

    async fn hide_monitor(&self, vm: &VmId) -> Result<()> {
        self.vm(vm)?.set_monitor_door(MonitorDoor::Hidden);
        Ok(())
    }

    async fn reveal_monitor(&self, vm: &VmId) -> Result<()> {
        self.vm(vm)?.set_monitor_door(MonitorDoor::Open);
        Ok(())
    }

    async fn unplug_behind_hostd(&self, vm: &VmId, nic: &NicId) -> Result<()> {
        let arguments = serde_json::json!({ "id": nic.device_id() });
        self.monitor(vm, "device_del", arguments).await.map(drop)
    }

    async fn restart_daemon(&self) -> Result<DaemonRestart> {
        Ok(DaemonRestart::NoDaemon)
    }

    async fn definition(&self, _vm: &VmId) -> Result<BTreeSet<String>> {
        Ok(BTreeSet::new())
    }

    async fn log_tail(&self, _lines: usize) -> String {
        let trace = self.stage.trace();
        let all: Vec<String> = trace.log().map(ToString::to_string).collect();
        all[all.len().saturating_sub(TRACE_ENTRIES)..].join("\n")
    }

    fn simulated(&self) -> Option<&SimWorld> {
        Some(self)
    }

    fn misbehaving(&self) -> Option<&dyn Misbehaving> {
        Some(self)
    }
}

#[async_trait(?Send)]
impl Misbehaving for SimWorld {
    async fn misbehave(&self, rule: Rule) -> Result<()> {
        self.stage.rules().add(rule)?;
        Ok(())
    }

    async fn set_pace(&self, pace: &PaceRule) -> Result<()> {
        if let Some(vm) = &pace.vm {
            self.vm(vm)?;
        }
        let meant = |vm: &&SimVm| pace.vm.as_ref().is_none_or(|id| *id == **vm.id());
        for vm in self.simulated.vms().values().filter(meant) {
            vm.set_pace(pace.transition, pace.pace);
        }
        Ok(())
    }

    async fn give(&self, vm: &VmId, order: CueOrder) -> Result<()> {
        self.vm(vm)?.follow(order);
        Ok(())
    }

    async fn behave(&self, rule: &str) -> Result<u64> {
        let mut rules = self.stage.rules();
        let found = rules.rules().find(|(known, _)| known.name == rule);
        let done = found.map(|(_, done)| done);
        rules.remove(rule);
        done.with_context(|| format!("there is no rule {rule}"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_what_changes_devices_excuses_what_is_found_until_all_is_right_again() {
        let world = SimWorld::make(1).unwrap();
        let options = VmOptions::named("vm1").unwrap();
        let _guest = world.boot(&options).await.unwrap();

        let status = world.monitor(&options.id, "query-status", json!({})).await;
        assert!(status.is_ok() && !world.sabotaged.0.get(), "{status:?}");
        let removal = json!({ "id": "nobody" });
        let refused = world.monitor(&options.id, "device_del", removal).await;
        assert!(refused.is_err() && world.sabotaged.0.get(), "{refused:?}");

        world.is_right_again();

        assert!(!world.sabotaged.0.get());
    }
}
