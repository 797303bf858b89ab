//! A host for one hostd: namespace, bridges, VMs, and hostd itself, started and killed.

use std::fmt::Write;
use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use host_api::{AttachNic, Client, CreateNic, Nic, NicState};
use nic_model::{NetworkName, VmId};
use serde::Serialize;
use tokio::process::Child;
use tokio::task::JoinSet;

use super::{Idle, Memory, Peers};
use crate::bench::Efforts;
use crate::netns::HostNetns;
use crate::requests::{in_state, nic_on_blue, settled};

/// NICs of one network. A Linux bridge has 1023 ports (`BR_MAX_PORTS` in net/bridge/br_private.h).
const NICS_PER_NETWORK: usize = 1000;
/// The one container of each guest.
const CONTAINER: &str = "container";
/// Clients that attach at a time.
const CLIENTS: usize = 16;
/// How long hostd may take to answer after its start, and its VMs and NICs to be as they should.
const START_DEADLINE: Duration = Duration::from_secs(120);
/// How often that is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// What host ends of NICs are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PortKind {
    /// Taps in Linux bridges, with their filters.
    Bridge,
    /// Taps and nothing else.
    Tap,
}

/// What is set up.
#[derive(Debug, Clone, Copy)]
pub struct StandPlan {
    /// VMs of the host.
    pub vms: usize,
    /// NICs that each of them gets.
    pub nics_per_vm: usize,
    /// What their host ends are.
    pub ports: PortKind,
}

/// Whether hostd knows of the VMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vms {
    All,
    None,
}

/// See the module.
#[derive(Debug)]
pub struct Stand {
    plan: StandPlan,
    program: PathBuf,
    hostd: Option<Child>,
    peers: Peers,
    netns: HostNetns,
}

impl Stand {
    /// Sets it up for the hostd at `program`; nothing of that runs yet.
    ///
    /// # Errors
    /// When the caller may not, or sockets or bridges cannot be made.
    pub async fn set(plan: StandPlan, program: PathBuf) -> Result<Self> {
        let netns = HostNetns::make().await?;
        let sockets = netns.directory().join("vms");
        std::fs::create_dir(&sockets)?;
        let stand = Self {
            peers: Peers::start(plan.vms, plan.nics_per_vm, CONTAINER, &sockets)?,
            plan,
            program,
            hostd: None,
            netns,
        };
        if plan.ports == PortKind::Bridge {
            for number in 0..stand.networks() {
                let bridge = bridge(number);
                stand
                    .netns
                    .ip(&format!("link add {bridge} type bridge"))
                    .await?;
                stand.netns.ip(&format!("link set {bridge} up")).await?;
            }
        }
        Ok(stand)
    }

    /// How many NICs there are when all are attached.
    #[must_use]
    pub fn nics(&self) -> usize {
        self.plan.vms * self.plan.nics_per_vm
    }

    fn networks(&self) -> usize {
        self.nics().div_ceil(NICS_PER_NETWORK)
    }

    /// Starts a hostd without any VM.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn start_empty(&mut self) -> Result<()> {
        self.start(Vms::None).await
    }

    /// Starts a hostd over every VM, and waits until it is ready with each of them.
    ///
    /// # Errors
    /// When it does not get there.
    pub async fn start_full(&mut self) -> Result<()> {
        self.start(Vms::All).await?;
        let give_up_at = Instant::now() + START_DEADLINE;
        loop {
            let vms = self.client().vms().await?.vms;
            let ready = vms
                .iter()
                .filter(|vm| vm.agent.state == host_api::AgentState::Ready);
            let ready = ready.count();
            if ready == self.plan.vms {
                return Ok(());
            }
            let patient = Instant::now() < give_up_at;
            ensure!(patient, "{ready} agents are ready: {}", self.log());
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn start(&mut self, vms: Vms) -> Result<()> {
        ensure!(self.hostd.is_none(), "hostd runs already");
        let file = |name: &str| self.netns.directory().join(name);
        std::fs::write(file("hostd.toml"), self.configuration(vms))?;
        let mut command = self.netns.command(&self.program.to_string_lossy());
        command.arg("--config").arg(file("hostd.toml"));
        let log = File::create(file("hostd.log"))?;
        command.env("RUST_LOG", "warn").stdin(Stdio::null());
        command
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true);
        self.hostd = Some(command.spawn().context("starting hostd")?);
        let give_up_at = Instant::now() + START_DEADLINE;
        while self.client().health().await.is_err() {
            let patient = Instant::now() < give_up_at;
            ensure!(patient, "hostd does not answer: {}", self.log());
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// Kills hostd, the only way it is ever stopped.
    ///
    /// # Errors
    /// When none runs.
    pub async fn kill(&mut self) -> Result<()> {
        let mut hostd = self.hostd.take().context("no hostd runs")?;
        Ok(hostd.kill().await?)
    }

    /// Attaches every NIC, each made by the same request; `progress` hears of how many there are.
    ///
    /// # Errors
    /// When one is not in use in the end.
    pub async fn attach_all(&self, progress: impl Fn(usize) + Send + Sync + 'static) -> Result<()> {
        let vms: Arc<[VmId]> = self.peers.names().cloned().collect();
        let (next, nics) = (Arc::new(AtomicUsize::new(0)), self.nics());
        let progress = Arc::new(progress);
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let (client, vms, next) = (self.client(), Arc::clone(&vms), Arc::clone(&next));
            let progress = Arc::clone(&progress);
            clients.spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= nics {
                        return anyhow::Ok(());
                    }
                    attach(&client, &vms, number).await?;
                    progress(number);
                }
            });
        }
        while let Some(done) = clients.join_next().await {
            done??;
        }
        let devices = self.peers.devices();
        ensure!(devices == nics, "of {nics} devices there are {devices}");
        Ok(())
    }

    /// Whether hostd calls every NIC in use and nothing amiss with it, as it does soon after its
    /// start.
    ///
    /// # Errors
    /// When it does not.
    pub async fn all_are_in_use(&self) -> Result<()> {
        let nics = self.client().nics().await?.nics;
        let well = |nic: &&Nic| nic.state == NicState::InUse && nic.degraded.is_none();
        let well = nics.iter().filter(well).count();
        match well == self.nics() {
            true => Ok(()),
            false => bail!("{well} of {} NICs are in use and well", self.nics()),
        }
    }

    /// Leaves hostd alone for so long, after a while in which it may settle, and tells what that
    /// has cost.
    ///
    /// # Errors
    /// When hostd is gone.
    pub async fn idle(&self, settle: Duration, idle: Duration) -> Result<Idle> {
        let pid = self.hostd.as_ref().and_then(Child::id);
        let pid = pid.context("no hostd runs")?;
        tokio::time::sleep(settle).await;
        let (before, began) = (Efforts::of_process(pid)?, Instant::now());
        tokio::time::sleep(idle).await;
        let spent = Efforts::of_process(pid)?.since(&before).total();
        Ok(Idle {
            memory: Memory::of_process(pid)?,
            seconds: began.elapsed().as_secs_f64(),
            spent,
        })
    }

    fn client(&self) -> Client {
        Client::unix(self.netns.directory().join("hostd.sock"))
    }

    fn log(&self) -> String {
        let log = std::fs::read(self.netns.directory().join("hostd.log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let from = log.len().saturating_sub(2000);
        log.get(from..).unwrap_or_default().to_owned()
    }

    fn configuration(&self, vms: Vms) -> String {
        let file = |name: &str| self.netns.directory().join(name);
        let nics = self.nics();
        let mut text = format!(
            "socket = {:?}\njournal = {:?}\n\
             default_class = \"standard\"\n[[class]]\nname = \"standard\"\nmax_nics = {}\n\
             [quota]\nmax_nics_per_host = {nics}\nmax_nics_per_tenant = {nics}\n",
            file("hostd.sock"),
            file("journal.sqlite"),
            self.plan.nics_per_vm
        );
        for number in 0..self.networks() {
            let kind = match self.plan.ports {
                PortKind::Bridge => format!("kind = \"bridge\"\nbridge = {:?}", bridge(number)),
                PortKind::Tap => "kind = \"tap\"".to_owned(),
            };
            let (name, subnet) = (network(number), format!("10.{number}.0.0/16"));
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "[[network]]\nname = {name:?}\n{kind}\nsubnets = [{subnet:?}]"
            );
        }
        if vms == Vms::All {
            for vm in self.peers.names() {
                let (monitor, channel) = (self.peers.monitor(vm), self.peers.channel(vm));
                let _ = writeln!(
                    text,
                    "[[vm]]\nid = \"{vm}\"\nqmp = {monitor:?}\nchannel = {channel:?}"
                );
            }
        }
        text
    }
}

fn bridge(number: usize) -> String {
    format!("br{number}")
}

fn network(number: usize) -> String {
    format!("net{number}")
}

/// NICs that follow one another are in different VMs.
async fn attach(client: &Client, vms: &[VmId], number: usize) -> Result<()> {
    let network: NetworkName = network(number / NICS_PER_NETWORK).parse()?;
    let request = CreateNic {
        network,
        attach: Some(AttachNic {
            vm: vms[number % vms.len()].clone(),
            target: format!("netns:{CONTAINER}").parse()?,
            link_name: Some(format!("eth{}", number / vms.len()).parse()?),
        }),
        ..nic_on_blue()
    };
    let answer = client.create_nic(&request, &settled()).await?;
    in_state(answer, NicState::InUse).map(drop)
}
