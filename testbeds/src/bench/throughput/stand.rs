//! hostd and what is around it, each on threads of its own.
//!
//! ```text
//!   threads "hostd"           hostd's core, its in-memory ports, clients of its service
//!   thread  "journal-writer"  its journal; in turns with it the engine's own
//!   thread  "around"          fake QEMUs, fake guests with the real agent, clients of the API
//! ```

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use fake_guest::kernel::{BootTimes, KernelSettings, Unplug};
use host_api::client::{Mutation, Progress};
use host_api::{AttachNic, Wait};
use hostd::agent_link::AgentState;
use hostd::service::{Answer, Ask, Caller, Service};
use journal::{Journal, SqliteJournal};
use misbehaviour::Pace;
use nic_model::{LinkName, NicId, Target};
use simulator::sim::{Host, Keeping, NETWORK, Plan, Sim};
use tokio::runtime::Runtime;
use tokio::time::Instant;

use super::{Load, Program, Recorder, Way};

/// Names of threads.
pub(super) const HOSTD: &str = "hostd";
pub(super) const AROUND: &str = "around";
/// As `journal` calls its own.
pub(super) const JOURNAL: &str = "journal-writer";

/// The one container of each guest.
const CONTAINER: &str = "container";
/// How long one thing may take before the measurement is given up.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often agents that are starting are looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What is set up.
#[derive(Debug, Clone, Copy)]
pub struct StandPlan {
    /// VMs of the host.
    pub vms: usize,
    /// NICs that each of them gets.
    pub nics_per_vm: usize,
    /// Threads of hostd's runtime.
    pub hostd_threads: usize,
}

/// hostd with its journal, its VMs and NICs that are nowhere, and beside it the same engine with
/// the same rows.
pub struct Stand {
    // In this order: what hostd's tasks use is dropped after them.
    hostd: Runtime,
    around: Runtime,
    host: Host,
    service: Arc<Service>,
    recorder: Arc<Recorder>,
    engine: Arc<SqliteJournal>,
    places: Arc<[(NicId, AttachNic)]>,
    _sim: Sim,
}

impl Stand {
    /// Sets it up, with its journals in `directory`.
    ///
    /// # Errors
    /// When anything of it does not start.
    pub fn set(plan: &StandPlan, directory: &Path) -> Result<Self> {
        let hostd = runtime(HOSTD, plan.hostd_threads)?;
        let around = runtime(AROUND, 1)?;
        let sim = around.block_on(async { Sim::make_without_hostd(&world(plan)) })?;
        let host = sim.hosts.first().context("a world has a host")?.clone();
        for vm in host.vms().values() {
            let guest = vm.guest_handle().context("its VMs are on")?;
            guest
                .add_netns(&CONTAINER.parse()?)
                .map_err(|errno| anyhow::anyhow!("no container: {errno:?}"))?;
        }
        let recorder = Arc::new(Recorder::new(open(&directory.join("hostd.sqlite"))?));
        host.keep_records_in(Arc::clone(&recorder) as Arc<dyn Journal>);
        let service = hostd.block_on(async {
            host.boot()?;
            let service = host.service().context("hostd has just been started")?;
            agents_are_ready(&host, &service).await?;
            anyhow::Ok(service)
        })?;
        let mut stand = Self {
            hostd,
            around,
            host,
            service,
            recorder,
            engine: Arc::new(open(&directory.join("engine.sqlite"))?),
            places: [].into(),
            _sim: sim,
        };
        stand.places = stand.make_nics(plan)?;
        Ok(stand)
    }

    /// Makes every NIC, those of different VMs in turns, and lets the engine keep the same rows.
    fn make_nics(&self, plan: &StandPlan) -> Result<Arc<[(NicId, AttachNic)]>> {
        let mut places = Vec::new();
        for number in 0..plan.nics_per_vm {
            for vm in self.host.vms().keys() {
                let link_name: LinkName = format!("eth{number}").parse()?;
                let target: Target = format!("netns:{CONTAINER}").parse()?;
                let ask = ask();
                let created = self.service.create(&ask, create_request()?);
                let Answer::Settled(record) = self.hostd.block_on(created)? else {
                    bail!("a NIC of {vm} is not made at once");
                };
                let attach = AttachNic {
                    vm: vm.clone(),
                    target,
                    link_name: Some(link_name),
                };
                places.push((record.id, attach));
            }
        }
        self.replay(1, self.take_programs())?;
        Ok(places.into())
    }

    /// How many NICs there are.
    #[must_use]
    pub fn nics(&self) -> usize {
        self.places.len()
    }

    /// Attaches the first `count` NICs.
    ///
    /// # Errors
    /// When one is not in use in the end.
    pub fn attach(&self, way: Way, clients: usize, count: usize) -> Result<Load> {
        let places = Arc::clone(&self.places);
        match way {
            Way::Service => {
                let service = Arc::clone(&self.service);
                let load = Load::run(clients, count, move |number| {
                    let (service, places) = (Arc::clone(&service), Arc::clone(&places));
                    async move {
                        let (nic, attach) = &places[number];
                        settled(service.attach(&ask(), nic, attach.clone()).await?)
                    }
                });
                self.hostd.block_on(self.hostd.spawn(load))?
            }
            Way::Api => {
                let client = self.host.client();
                let mutation = until_settled()?;
                let load = Load::run(clients, count, move |number| {
                    let (client, places) = (client.clone(), Arc::clone(&places));
                    let mutation = mutation.clone();
                    async move {
                        let (nic, attach) = &places[number];
                        let answer = client.attach_nic(nic, attach, &mutation).await?;
                        ensure!(answer.progress == Progress::Settled, "{nic} is under way");
                        Ok(())
                    }
                });
                self.around.block_on(self.around.spawn(load))?
            }
        }
    }

    /// Detaches the first `count` NICs.
    ///
    /// # Errors
    /// When one is not nowhere in the end.
    pub fn detach(&self, clients: usize, count: usize) -> Result<Load> {
        let (service, places) = (Arc::clone(&self.service), Arc::clone(&self.places));
        let load = Load::run(clients, count, move |number| {
            let (service, places) = (Arc::clone(&service), Arc::clone(&places));
            async move { settled(service.detach(&ask(), &places[number].0).await?) }
        });
        self.hostd.block_on(self.hostd.spawn(load))?
    }

    /// What hostd has had committed since this was asked last, NIC by NIC.
    #[must_use]
    pub fn take_programs(&self) -> Vec<Program> {
        super::programs(self.recorder.take())
    }

    /// Has the engine commit the same, as fast as it can.
    ///
    /// # Errors
    /// When it does not.
    pub fn replay(&self, clients: usize, programs: Vec<Program>) -> Result<Load> {
        let (engine, programs) = (Arc::clone(&self.engine), Arc::new(programs));
        let load = Load::run(clients, programs.len(), move |number| {
            let (engine, programs) = (Arc::clone(&engine), Arc::clone(&programs));
            async move {
                for batch in &programs[number] {
                    engine.commit(batch.clone()).await?;
                }
                Ok(())
            }
        });
        self.hostd.block_on(self.hostd.spawn(load))?
    }

    /// Transactions of hostd's journal and of the engine so far, of which one works at a time.
    #[must_use]
    pub fn transactions(&self) -> u64 {
        self.recorder.statistics().transactions + self.engine.statistics().transactions
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        self.host.kill();
    }
}

fn runtime(name: &str, threads: usize) -> Result<Runtime> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.thread_name(name).worker_threads(threads);
    Ok(runtime.enable_time().build()?)
}

fn open(path: &Path) -> Result<SqliteJournal> {
    SqliteJournal::open(path).with_context(|| format!("opening {}", path.display()))
}

/// Guests that boot, probe and let go at once, and nobody who compares traces.
fn world(plan: &StandPlan) -> Plan {
    let nics = plan.vms * plan.nics_per_vm;
    Plan {
        vms_per_host: plan.vms,
        slots: plan.nics_per_vm,
        max_nics: plan.nics_per_vm as u64,
        kernel: KernelSettings {
            boot: BootTimes::NONE,
            probe: Pace::Instant,
            unplug: Unplug::LetsGo(Pace::Instant),
            rename_after: None,
            teardown: Duration::ZERO,
            ..KernelSettings::default()
        },
        more_configuration: format!(
            "[quota]\nmax_nics_per_host = {nics}\nmax_nics_per_tenant = {nics}"
        ),
        keeping: Keeping::Nothing,
        ..Plan::default()
    }
}

async fn agents_are_ready(host: &Host, service: &Service) -> Result<()> {
    let give_up_at = Instant::now() + PATIENCE;
    let mut absent: BTreeSet<_> = host.vms().keys().cloned().collect();
    while !absent.is_empty() {
        ensure!(Instant::now() < give_up_at, "no agents: {absent:?}");
        absent.retain(|vm| {
            let state = service.vms.with(vm, |vm| Some(vm.agent.view().state));
            !matches!(state, Some(AgentState::Ready { .. }))
        });
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

fn create_request() -> Result<host_api::CreateNic> {
    Ok(host_api::CreateNic {
        network: NETWORK.parse()?,
        ..crate::requests::nic_on_blue()
    })
}

fn ask() -> Ask {
    Ask {
        caller: Caller::Operator,
        token: None,
        wait: PATIENCE,
        received_at: Instant::now(),
    }
}

fn until_settled() -> Result<Mutation> {
    let wait: Wait = format!("{}s", PATIENCE.as_secs()).parse()?;
    Ok(Mutation {
        token: None,
        wait: Some(wait),
    })
}

fn settled(answer: Answer) -> Result<()> {
    match answer {
        Answer::Settled(_) => Ok(()),
        Answer::UnderWay(record) => bail!("{} is {:?}", record.id, record.state),
    }
}
