//! The world itself: hosts and VMs made from a plan, time, and what is looked at from outside.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fake_guest::kernel::KernelSettings;
use fake_qemu::{Hardware, HardwareError, Profile};
use hostd::config::{Config, ConfigError};
use hostd::store::OpenStoreError;
use misbehaviour::{Rulebook, World};
use nic_model::{InvalidId, VmId};
use oracle::{Moment, Violation};
use tokio::time::Instant;

use super::host::Host;
use super::reach::{channel_address, monitor_address};
use super::stage::Stage;
use super::trace::Keeping;
use super::vm::{SimVm, VmSettings};

/// Bridge of a host's one network.
pub const BRIDGE: &str = "br-blue";
/// Name of that network.
pub const NETWORK: &str = "blue";

/// How soon a world that is to come to rest is looked at again, first and at most: to look at
/// everything costs a lot, and what is not at rest soon is so for seconds.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));

/// What a world is made of.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What all chance is drawn from.
    pub seed: u64,
    /// Number of the first host.
    pub first_host: usize,
    /// How many hosts there are.
    pub hosts: usize,
    /// How many VMs each of them has.
    pub vms_per_host: usize,
    /// Root ports of each VM.
    pub slots: usize,
    /// NICs that each VM may have.
    pub max_nics: u64,
    /// Which QEMU runs the VMs.
    pub profile: Profile,
    /// How the guests' kernels behave; the seed is each one's own.
    pub kernel: KernelSettings,
    /// How long hostd waits, in whole seconds: attach, release, quarantine.
    pub patience: [u64; 3],
    /// More of hostd's configuration, such as quotas.
    pub more_configuration: String,
    /// Whether the trace is kept for people.
    pub keeping: Keeping,
}

impl Default for Plan {
    /// One host with two VMs.
    fn default() -> Self {
        Self {
            seed: 1,
            first_host: 0,
            hosts: 1,
            vms_per_host: 2,
            slots: 8,
            max_nics: 8,
            profile: Profile::Qemu7_2,
            kernel: KernelSettings::default(),
            patience: [60, 2, 30],
            more_configuration: String::new(),
            keeping: Keeping::Log,
        }
    }
}

/// Why a world could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The plan asks for a machine that cannot be.
    #[error("failed to plan the VMs")]
    Hardware(#[from] HardwareError),
    /// A VM would have a name that is none.
    #[error("failed to name a VM")]
    Name(#[from] InvalidId),
    /// hostd does not accept what the plan makes of its configuration.
    #[error("failed to configure hostd")]
    Config(#[from] ConfigError),
    /// hostd does not start.
    #[error("failed to start hostd")]
    Start(#[from] OpenStoreError),
    /// The system has nothing to make it of.
    #[error("failed to start a runtime, or to open /dev/null")]
    System(#[from] std::io::Error),
}

/// See the module.
#[derive(Debug)]
pub struct Sim {
    /// Time, chance, rules and trace.
    pub stage: Stage,
    /// The hosts, by number.
    pub hosts: Vec<Host>,
}

impl Sim {
    /// Makes the world of `plan` with every VM switched on and a hostd on every host. Within a
    /// runtime of one thread whose clock is paused.
    ///
    /// # Errors
    /// When the plan cannot be carried out.
    pub fn make(plan: &Plan) -> Result<Self, MakeError> {
        let sim = Self::make_without_hostd(plan)?;
        for host in &sim.hosts {
            host.boot()?;
        }
        Ok(sim)
    }

    /// The same with hostd yet to be started.
    ///
    /// # Errors
    /// When the plan cannot be carried out.
    pub fn make_without_hostd(plan: &Plan) -> Result<Self, MakeError> {
        let stage = Stage::new(plan.seed, Rulebook::of(World::Sim, plan.seed), plan.keeping);
        let hardware = Arc::new(Hardware::with_root_ports(plan.profile, plan.slots)?);
        let stand_in = Arc::new(std::fs::File::open("/dev/null")?);
        let mut hosts = Vec::new();
        for number in (plan.first_host..).take(plan.hosts) {
            let name = format!("host{number}");
            let settings = VmSettings {
                hardware: hardware.clone(),
                kernel: plan.kernel.clone(),
                segment: None,
            };
            let vms = vms(number, plan.vms_per_host, &stage, &settings)?;
            let config = Config::parse(&configuration(plan, &vms), Path::new(&name))?;
            hosts.push(Host::new(&name, &stage, config, vms, &stand_in));
        }
        Ok(Self { stage, hosts })
    }

    /// Every VM, with its host.
    pub fn vms(&self) -> impl Iterator<Item = (&Host, &SimVm)> {
        let of = |host| move |vm| (host, vm);
        self.hosts
            .iter()
            .flat_map(move |host| host.vms().values().map(of(host)))
    }

    /// Everything that is wrong now, on any host.
    #[must_use]
    pub fn violations(&self, moment: Moment) -> Vec<Violation> {
        let found = self.hosts.iter().flat_map(|host| host.told(moment));
        found.collect()
    }

    /// Runs a story in the world of `plan` to its end, on a runtime of its own: one thread, and a
    /// clock that moves on only when nobody can go on without it.
    ///
    /// # Errors
    /// When the world cannot be made.
    ///
    /// # Panics
    /// Within another runtime.
    pub fn run<T, F: Future<Output = T>>(
        plan: &Plan,
        story: impl FnOnce(Self) -> F,
    ) -> Result<T, MakeError> {
        runtime()?.block_on(async { Ok(story(Self::make(plan)?).await) })
    }

    /// The same with hostd yet to be started on every host.
    ///
    /// # Errors
    /// When the world cannot be made.
    ///
    /// # Panics
    /// Within another runtime.
    pub fn run_without_hostd<T, F: Future<Output = T>>(
        plan: &Plan,
        story: impl FnOnce(Self) -> F,
    ) -> Result<T, MakeError> {
        runtime()?.block_on(async { Ok(story(Self::make_without_hostd(plan)?).await) })
    }

    /// Waits until every NIC of every host has come to rest and nothing is left to be put away,
    /// for so long at most; what is wrong then.
    pub async fn come_to_rest(&self, patience: Duration) -> Vec<Violation> {
        let until = Instant::now() + patience;
        let mut restless: Vec<&Host> = self.hosts.iter().collect();
        let mut pause = LOOK_AGAIN.0;
        loop {
            // To ask for that costs little, to look at everything a lot.
            let is_restless =
                |host: &&Host| !host.is_at_rest() || !host.violations(Moment::AtRest).is_empty();
            restless.retain(is_restless);
            if restless.is_empty() || Instant::now() >= until {
                let wrong = restless.iter().flat_map(|host| host.told(Moment::AtRest));
                return wrong.collect();
            }
            self.pass(pause).await;
            pause = (pause * 2).min(LOOK_AGAIN.1);
        }
    }

    /// Lets time pass.
    pub async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
}

fn vms(
    host: usize,
    count: usize,
    stage: &Stage,
    settings: &VmSettings,
) -> Result<BTreeMap<VmId, SimVm>, MakeError> {
    let mut vms = BTreeMap::new();
    for number in 0..count {
        let id: VmId = format!("vm{host}-{number}").parse()?;
        let vm = SimVm::new(id.clone(), stage, settings);
        vm.power_on();
        vms.insert(id, vm);
    }
    Ok(vms)
}

fn configuration(plan: &Plan, vms: &BTreeMap<VmId, SimVm>) -> String {
    let [attach, release, quarantine] = plan.patience;
    let mut text = format!(
        "default_class = \"standard\"\n\
         [[class]]\nname = \"standard\"\nmax_nics = {}\nmax_queues = 4\n\
         [[network]]\nname = \"{NETWORK}\"\nkind = \"bridge\"\nbridge = \"{BRIDGE}\"\n\
         subnets = [\"10.0.0.0/8\"]\n\
         [timeouts]\nattach_seconds = {attach}\nrelease_seconds = {release}\n\
         quarantine_seconds = {quarantine}\n{}\n",
        plan.max_nics, plan.more_configuration
    );
    for vm in vms.keys() {
        let (monitor, channel) = (monitor_address(vm), channel_address(vm));
        let written = writeln!(
            text,
            "[[vm]]\nid = \"{vm}\"\nqmp = \"{monitor}\"\nchannel = \"{channel}\""
        );
        written.expect("a string takes whatever is written");
    }
    text
}
