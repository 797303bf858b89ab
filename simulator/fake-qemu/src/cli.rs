//! The command line: as much of QEMU's as makes sense here, in the same spelling where there is
//! one.

use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use fake_qemu::driver::unix::{KernelTaps, listen};
use fake_qemu::driver::{FakeQemu, LetsGo, PlainGuest, Settings};
use fake_qemu::{Hardware, HotplugMode, MonitorId, PortHotplug, Profile, Start};
use misbehaviour::{Rulebook, Script, Span, World};
use nic_model::VmId;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};

/// A QEMU that runs no guest and speaks QMP as the real one does
#[derive(Debug, clap::Parser)]
#[command(name = "fake-qemu", version)]
pub(crate) struct Arguments {
    /// Where a monitor listens: `unix:PATH`, with `,server=on,wait=off` or without. May be repeated
    #[arg(long, value_name = "SOCKET", required = true)]
    qmp: Vec<MonitorSocket>,
    /// Which QEMU to be: qemu-6.2, qemu-7.2, qemu-8.0 or qemu-8.1
    #[arg(long, default_value = "qemu-7.2")]
    profile: Profile,
    /// How many PCI Express root ports there are: rp1, rp2 and so on
    #[arg(long, default_value_t = 8)]
    root_ports: usize,
    /// A root port that takes no device. May be repeated
    #[arg(long, value_name = "ID")]
    fixed_port: Vec<String>,
    /// How the guest is asked to let go of a device
    #[arg(long, default_value = "acpi", value_parser = ["acpi", "native"])]
    hotplug: String,
    /// How long the guest takes to let go of a device; `never` for a machine without a guest
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = lets_go)]
    lets_go: LetsGo,
    /// What goes wrong: a file of rules
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// What the VM is called, by `query-name` and by rules
    #[arg(long)]
    name: Option<VmId>,
    /// Waits for `cont` before anything runs, as QEMU's `-S`
    #[arg(long)]
    stopped: bool,
}

/// `unix:PATH[,server=on][,wait=off]`, as QEMU spells it.
#[derive(Debug, Clone)]
struct MonitorSocket(PathBuf);

impl FromStr for MonitorSocket {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let path = parts.next().and_then(|first| first.strip_prefix("unix:"));
        let path = path.filter(|path| !path.is_empty());
        let path = path.ok_or_else(|| format!("{text:?} does not begin with unix:PATH"))?;
        let known = ["server", "server=on", "wait=off", "nowait"];
        match parts.find(|option| !known.contains(option)) {
            Some(option) => Err(format!("a monitor's socket knows no option {option:?}")),
            None => Ok(Self(PathBuf::from(path))),
        }
    }
}

/// A time, or `never`.
fn lets_go(text: &str) -> Result<LetsGo, misbehaviour::SpanError> {
    match text {
        "never" => Ok(LetsGo::Never),
        text => Ok(LetsGo::After(text.parse::<Span>()?.0)),
    }
}

/// Runs until the machine has ended.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let settings = settings(&arguments)?;
    let guest = PlainGuest {
        lets_go: arguments.lets_go,
        host: KernelTaps,
    };
    let qemu = FakeQemu::start(settings, guest);
    let mut monitors = Vec::new();
    for (number, MonitorSocket(path)) in (0..).zip(&arguments.qmp) {
        let listener = bind(path)?;
        let qemu = qemu.clone();
        monitors.push(tokio::spawn(async move {
            listen(&qemu, MonitorId(number), &listener).await
        }));
    }
    let mut ended = std::pin::pin!(qemu.run());
    tokio::select! {
        biased;
        () = &mut ended => {}
        told = told_to_end() => {
            told?;
            qemu.terminate();
            ended.await;
        }
    }
    // What has been said by then is still sent; clients that do not read are not waited for.
    let last_words = futures_of(monitors);
    drop(tokio::time::timeout(Duration::from_millis(100), last_words).await);
    for MonitorSocket(path) in &arguments.qmp {
        drop(std::fs::remove_file(path));
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits for one of the signals by which QEMU is asked to end (`os_setup_signal_handling` in its
/// `os-posix.c`).
async fn told_to_end() -> anyhow::Result<()> {
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        biased;
        _ = hang_up.recv() => {}
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

async fn futures_of(monitors: Vec<tokio::task::JoinHandle<std::io::Result<()>>>) {
    for monitor in monitors {
        drop(monitor.await);
    }
}

/// A socket that an earlier run has left is nobody's: QEMU removes it as well
/// (`unix_listen_saddr` in its `util/qemu-sockets.c`).
fn bind(path: &std::path::Path) -> anyhow::Result<UnixListener> {
    drop(std::fs::remove_file(path));
    UnixListener::bind(path).with_context(|| format!("listening on {}", path.display()))
}

fn settings(arguments: &Arguments) -> anyhow::Result<Settings> {
    let mut hardware = Hardware::with_root_ports(arguments.profile, arguments.root_ports)?;
    for id in &arguments.fixed_port {
        let port = hardware.root_ports.iter_mut().find(|port| port.id == *id);
        port.with_context(|| format!("there is no root port {id}"))?
            .hotplug = PortHotplug::Off;
    }
    if arguments.hotplug == "native" {
        hardware.hotplug = HotplugMode::Native;
    }
    if arguments.stopped {
        hardware.start = Start::Stopped;
    }
    hardware.name = arguments.name.as_ref().map(ToString::to_string);
    let script = match &arguments.rules {
        Some(file) => {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("reading {}", file.display()))?;
            toml::from_str(&text).with_context(|| format!("understanding {}", file.display()))?
        }
        None => Script::default(),
    };
    let knows = |vm: &VmId| arguments.name.as_ref() == Some(vm);
    script.check_in(World::Qemu, knows)?;
    let rules = Rulebook::from_script(World::Qemu, &script)?;
    Ok(Settings {
        hardware: Arc::new(hardware),
        vm: arguments.name.clone(),
        rules: Arc::new(Mutex::new(rules)),
        epoch: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?,
    })
}
