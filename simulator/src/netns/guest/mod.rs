//! A simulated guest: the first process of a machine that is nothing but namespaces.
//!
//! ```text
//!   vm process ──► guest: own pid, mount and network namespace, own /proc and /run
//!                    ├─ guest-agent       started again when it ends
//!                    ├─ container … a process and a network namespace each
//!                    └─ VM.guest          a terminal for people and tests
//! ```
//!
//! It ends with the VM process that started it, and everything in it with it, as a machine does
//! whose power is cut.

mod agent;
mod client;
mod containers;
mod ping;
mod protocol;

use std::process::{Command, Stdio};
use std::time::Duration;

use linux_network::{NamespaceKind, Netlink, leave_namespaces};
use nic_model::VmId;
use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::io::AsyncReadExt;

use self::agent::Agent;
use self::containers::Containers;
use self::protocol::{GuestLink, LINE_MAX, OUTPUT_MAX, Output, Reply, Request};
use super::network::HostNetwork;
use super::plan::Plan;
use super::process::Undertaker;
use super::ready::say_ready;
use super::site::Site;
use super::trouble::{Doing, Trouble, in_full};
use super::{lines, mounts, runtime};

pub use client::GuestClient;
pub use protocol::Output as ProgramOutput;
pub use protocol::{AgentWanted, ContainerView, GuestLink as Link, Naming, Place};

/// Is the guest of `vm`, until it is killed. To be called first thing by a process that is the
/// first one of a pid namespace.
///
/// # Errors
/// When the guest cannot be set up.
pub fn run(site: &Site, vm: &VmId, boot_id: &str) -> Result<(), Trouble> {
    set_parent_process_death_signal(Some(Signal::KILL)).doing("end with the VM")?;
    leave_namespaces(&[NamespaceKind::Mount, NamespaceKind::Network]).doing("be a machine")?;
    mounts::make_own_view(site.directory())?;
    mounts::set_boot_id(boot_id)?;
    let plan = Plan::read(site)?;
    runtime()?.block_on(serve(site, vm, &plan))
}

async fn serve(site: &Site, vm: &VmId, plan: &Plan) -> Result<(), Trouble> {
    let undertaker = Undertaker::default();
    tokio::spawn(undertaker.clone().run());
    let own = linux_network::Netns::own().doing("open the own namespace")?;
    HostNetwork::over(own).await?;
    let programs = plan.programs.clone();
    let agent = Agent::start(vm, site, &programs, &undertaker);
    let containers = Containers::new(vm.clone(), site.clone(), programs, undertaker);
    let wanted = plan.topology.vms.iter().find(|known| known.id == *vm);
    for name in wanted.into_iter().flat_map(|vm| &vm.containers) {
        containers.make(name, Naming::Named).await?;
    }
    let listener = lines::listen(&site.guest(vm))?;
    agent.started().await;
    say_ready().doing("tell the VM that it is up")?;
    let terminal = Terminal { containers, agent };
    lines::serve(listener, LINE_MAX, move |request| {
        let terminal = terminal.clone();
        async move { terminal.answer(request).await }
    })
    .await;
    Ok(())
}

/// What requests are answered with.
#[derive(Debug, Clone)]
struct Terminal {
    containers: Containers,
    agent: Agent,
}

impl Terminal {
    async fn answer(&self, request: Request) -> Reply {
        let answered = self.try_answer(request).await;
        answered.unwrap_or_else(|trouble| Reply::Failed(in_full(&trouble)))
    }

    async fn try_answer(&self, request: Request) -> Result<Reply, Trouble> {
        match request {
            Request::MakeContainer { name, naming } => self
                .containers
                .make(&name, naming)
                .await
                .map(Reply::Container),
            Request::KillContainer { name } => {
                self.containers.kill(&name).await.map(|()| Reply::Done)
            }
            Request::Containers => Ok(Reply::Containers(self.containers.list().await)),
            Request::Links { place } => self.links(&place).await.map(Reply::Links),
            Request::Ping {
                place,
                to,
                count,
                patience_ms,
            } => {
                let netns = self.containers.netns(&place).await?;
                let patience = Duration::from_millis(patience_ms);
                let pinged = netns
                    .run("ping", move || ping::ping(to, count, patience))
                    .await;
                let times = pinged.doing("ping")?.doing("ping")?;
                let times = times.iter().map(|time| time.as_secs_f64() * 1000.0);
                Ok(Reply::Echoes(times.collect()))
            }
            Request::Run {
                place,
                command,
                deadline_ms,
            } => self
                .run(&place, command, deadline_ms)
                .await
                .map(Reply::Output),
            Request::Agent { wanted } => {
                self.agent.set(wanted);
                Ok(Reply::Done)
            }
        }
    }

    async fn links(&self, place: &Place) -> Result<Vec<GuestLink>, Trouble> {
        let doing = "look at links";
        let netns = self.containers.netns(place).await?;
        let netlink = Netlink::connect(&netns).await.doing(doing)?;
        let mut found = Vec::new();
        let links = netlink.links().await.doing(doing)?;
        for link in links.into_iter().filter(|link| link.mac.is_some()) {
            let addresses = netlink.addresses(link.index).await.doing(doing)?;
            let global = addresses.into_iter().filter(|view| !view.link_local);
            found.push(GuestLink {
                name: link.name,
                mac: link.mac,
                mtu: link.mtu,
                up: link.admin == linux_network::AdminState::Up,
                carrier: link.carrier == linux_network::Carrier::Present,
                addresses: global.map(|view| view.address).collect(),
            });
        }
        Ok(found)
    }

    async fn run(
        &self,
        place: &Place,
        words: Vec<String>,
        deadline_ms: u64,
    ) -> Result<Output, Trouble> {
        let program = words.first().cloned().unwrap_or_default();
        let doing = format!("run {program:?}");
        let netns = self.containers.netns(place).await?;
        let mut command = Command::new(program);
        command.args(words.iter().skip(1));
        run_program(
            &self.containers,
            netns,
            command,
            Duration::from_millis(deadline_ms),
        )
        .await
        .doing(doing)
    }
}

/// Runs a program to its end, or to the deadline, at which it is killed.
async fn run_program(
    containers: &Containers,
    netns: linux_network::Netns,
    mut command: Command,
    deadline: Duration,
) -> Result<Output, Trouble> {
    let doing = "read what it prints";
    let (stdout, stdout_end) = std::io::pipe().doing(doing)?;
    let (stderr, stderr_end) = std::io::pipe().doing(doing)?;
    command
        .stdin(Stdio::null())
        .stdout(stdout_end)
        .stderr(stderr_end);
    let mut process = containers.undertaker().spawn(command, Some(&netns)).await?;
    let reading = async { tokio::join!(read_some(stdout), read_some(stderr), process.ended()) };
    match tokio::time::timeout(deadline, reading).await {
        Ok((stdout, stderr, status)) => Ok(Output {
            status: status.and_then(|status| status.exit_status()),
            stdout: stdout.doing(doing)?,
            stderr: stderr.doing(doing)?,
        }),
        Err(elapsed) => {
            process.kill();
            Err(elapsed).doing("wait for its end")
        }
    }
}

/// The beginning of what comes; the rest is read too, so that its writer is not held up.
async fn read_some(pipe: std::io::PipeReader) -> std::io::Result<String> {
    let mut pipe = tokio::net::unix::pipe::Receiver::from_owned_fd(pipe.into())?;
    let (mut kept, mut buffer) = (Vec::new(), vec![0; 4096]);
    loop {
        let length = pipe.read(&mut buffer).await?;
        if length == 0 {
            return Ok(String::from_utf8_lossy(&kept).into_owned());
        }
        let room = OUTPUT_MAX - kept.len();
        kept.extend(&buffer[..length.min(room)]);
    }
}
