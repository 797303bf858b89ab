//! `simulator up` and `simulator restore`: a cloud that runs until it is told to stop.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use misbehaviour::{Script, World};
use nic_model::VmId;
use simulator::netns::{
    ControlClient, Frames, Launched, Plan, Programs, Site, Snapshot, Topology, launch,
};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::signal::unix::{SignalKind, signal};

use super::{Which, console, script, tcp};

/// What a cloud is to be like.
#[derive(Debug, clap::Args)]
pub(crate) struct Up {
    #[command(flatten)]
    running: Running,
    /// What there is to be: hosts, VMs, containers, networks, limits (TOML)
    topology: Option<PathBuf>,
    /// How many VMs there are, where no topology says it
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=100))]
    vms: u8,
    /// What goes wrong from the start: rules and paces (TOML)
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
}

/// A cloud from a snapshot.
#[derive(Debug, clap::Args)]
pub(crate) struct Restore {
    #[command(flatten)]
    running: Running,
    /// What `simulator snapshot` has written
    file: PathBuf,
}

/// How a cloud runs, whatever is in it.
#[derive(Debug, clap::Args)]
struct Running {
    #[command(flatten)]
    which: Which,
    /// How frames get from the host into a guest: a tap's descriptor is passed, as with a real
    /// QEMU, or pairs of virtual links carry them, for which nobody needs `/dev/net/tun`
    #[arg(long, value_enum, default_value = "auto")]
    frames: FramesChoice,
    /// Take orders over HTTP here too, on the loopback alone
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = tcp::loopback)]
    listen: Option<SocketAddr>,
    /// Say in one line of JSON what runs, once it is ready
    #[arg(long)]
    json: bool,
    /// End with whoever started this: when standard input, a pipe, is closed
    #[arg(long)]
    tied: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum FramesChoice {
    Auto,
    Tap,
    Veth,
}

impl Up {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let topology = match &self.topology {
            Some(file) => Topology::load(file)?,
            None => Topology::of_vms(self.vms),
        };
        let script = self.script(&topology)?;
        let plan = Plan {
            topology,
            frames: self.running.frames()?,
            script,
            programs: Programs::beside_this_one()?,
        };
        let listener = self.running.listen()?;
        let launched = launch(&plan, &self.running.which.site(), |_| Ok(()))?;
        self.running.keep(launched, listener, &plan.topology, None)
    }

    fn script(&self, topology: &Topology) -> anyhow::Result<Script> {
        let knows = |vm: &VmId| topology.vms.iter().any(|known| known.id == *vm);
        match &self.rules {
            Some(file) => script::read(file, |script| script.check_in(World::Netns, knows)),
            None => Ok(Script::default()),
        }
    }
}

impl Restore {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let snapshot = Snapshot::read(&self.file)?;
        let plan = Plan {
            frames: self.running.frames()?,
            programs: Programs::beside_this_one()?,
            // What went wrong then could keep NICs from getting where they were.
            script: Script {
                seed: snapshot.plan.script.seed,
                ..Script::default()
            },
            topology: snapshot.plan.topology.clone(),
        };
        let put_back = |site: &_| snapshot.write_journals(site);
        let listener = self.running.listen()?;
        let launched = launch(&plan, &self.running.which.site(), put_back)?;
        self.running
            .keep(launched, listener, &plan.topology, Some(&snapshot))
    }
}

impl Running {
    fn frames(&self) -> anyhow::Result<Frames> {
        let possible = Frames::possible_here();
        match self.frames {
            FramesChoice::Auto => Ok(possible),
            FramesChoice::Veth => Ok(Frames::Veth),
            FramesChoice::Tap => {
                let can = possible == Frames::Tap;
                anyhow::ensure!(can, "--frames tap: this user cannot open /dev/net/tun");
                Ok(Frames::Tap)
            }
        }
    }

    /// Before anything is started, so that nothing is in vain when the address cannot be had.
    fn listen(&self) -> anyhow::Result<Option<TcpListener>> {
        let Some(address) = self.listen else {
            return Ok(None);
        };
        let listener = TcpListener::bind(address);
        let listener = listener.with_context(|| format!("--listen {address}"))?;
        listener.set_nonblocking(true)?;
        Ok(Some(listener))
    }

    /// Keeps the cloud until it ends or is told to.
    fn keep(
        &self,
        mut launched: Launched,
        listener: Option<TcpListener>,
        topology: &Topology,
        restored: Option<&Snapshot>,
    ) -> anyhow::Result<ExitCode> {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build()?;
        let ended = runtime.block_on(self.serve(&mut launched, listener, topology, restored));
        // What listens goes before the claim does: the next cloud may want the same address.
        drop(runtime);
        drop(launched);
        ended
    }

    async fn serve(
        &self,
        launched: &mut Launched,
        listener: Option<TcpListener>,
        topology: &Topology,
        restored: Option<&Snapshot>,
    ) -> anyhow::Result<ExitCode> {
        if let Some(snapshot) = restored {
            let control = ControlClient::new(launched.state.control.clone());
            control.post("/v1/restore", snapshot).await?;
        }
        if let Some(listener) = listener {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            launched.state.url = Some(format!("http://{}/", listener.local_addr()?));
            // Who this user is to itself has changed by now, and with that the way to `which`.
            let site = Site::at(launched.state.directory.clone());
            tokio::spawn(tcp::pass_on(listener, site.control_over_tcp()));
        }
        match self.json {
            true => console::say(serde_json::to_string(&launched.state)?),
            false => console::introduce(&launched.state, &self.which.name, topology),
        }
        let tie = match self.tied {
            true => Some(Receiver::from_owned_fd(
                std::io::stdin().as_fd().try_clone_to_owned()?,
            )),
            false => None,
        };
        until_told(launched, tie.transpose().context("--tied")?).await
    }
}

/// Waits for the end of what is tied to; for ever without.
async fn untied(tie: Option<Receiver>) {
    let Some(mut tie) = tie else {
        return std::future::pending().await;
    };
    // Nothing is ever said; an error is an end too.
    while tie.read(&mut [0]).await.is_ok_and(|length| length > 0) {}
}

/// Waits for a signal, or for the cloud's own end.
async fn until_told(launched: &mut Launched, tie: Option<Receiver>) -> anyhow::Result<ExitCode> {
    let mut child = signal(SignalKind::child())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let untied = untied(tie);
    let mut untied = std::pin::pin!(untied);
    loop {
        if let Some(status) = launched.ended()? {
            // It was told to, over its socket.
            anyhow::ensure!(status.success(), "the cloud has ended: {status}");
            return Ok(ExitCode::SUCCESS);
        }
        tokio::select! {
            biased;
            _ = child.recv() => {}
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            _ = hang_up.recv() => break,
            () = &mut untied => break,
        }
    }
    Ok(ExitCode::SUCCESS)
}
