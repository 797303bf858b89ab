//! A guest with a shell: verbs are scripts.
//!
//! ```text
//!   ShellGuest ── scripts ──► Shell     over virtio-serial into a real guest (image/shell.sh),
//!        │                              or of a terminal into one that is a namespace
//!        ├── its agent ─────► AgentControl
//!        └── its devices ───► Hardware
//! ```

mod agent;
mod container;
mod hardware;
mod links;
mod serial;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use async_trait::async_trait;
use futures::future::LocalBoxFuture;
use nic_model::{HotplugMode, IpNet, PciPath};

use super::{AgentControl, Container, Guest, GuestLink, GuestRoute, Where};

use hardware::PciHardware;

pub use agent::{AgentChannel, ScriptedAgent};
pub use serial::SerialShell;

pub(crate) use serial::connected;

/// A guest script forks a few programs; each takes tens of milliseconds under emulation, more on a
/// loaded machine.
const SCRIPT_DEADLINE: Duration = Duration::from_secs(20);
/// What starting and ending `ping` may take beyond what it waits for.
const PING_MARGIN: Duration = Duration::from_secs(5);

/// What a script left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Exit status; 128 and more for a signal.
    pub status: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

/// A shell into one guest.
#[async_trait(?Send)]
pub trait Shell: fmt::Debug {
    /// Waits until the guest has booted as far as its shell.
    async fn ready(&self, deadline: Duration) -> Result<()>;

    /// Does what resets the guest, and waits until it has booted again.
    async fn over_reset(
        &self,
        reset: LocalBoxFuture<'_, Result<()>>,
        deadline: Duration,
    ) -> Result<()>;

    /// Runs a script, whatever its exit status, for at most `deadline`.
    async fn run(&self, script: &str, deadline: Duration) -> Result<Output>;
}

/// Devices of one guest, and what answers when the host asks for one.
#[async_trait(?Send)]
pub trait Hardware: fmt::Debug {
    /// See [`Guest::virtio_nics`].
    async fn virtio_nics(&self) -> Result<Option<BTreeSet<PciPath>>>;

    /// See [`Guest::hotplug_mode`].
    async fn hotplug_mode(&self) -> Result<HotplugMode>;

    /// See [`Guest::ignore_hotplug`].
    async fn ignore_hotplug(&self, mode: HotplugMode) -> Result<()>;

    /// See [`Guest::heed_hotplug`].
    async fn heed_hotplug(&self, mode: HotplugMode) -> Result<()>;
}

/// Runs a script that has to succeed and gives what it printed.
///
/// # Errors
/// When it fails, then with its complaint, or the guest does not answer.
pub async fn succeed(shell: &dyn Shell, script: &str) -> Result<String> {
    let output = shell.run(script, SCRIPT_DEADLINE).await?;
    if output.status != 0 {
        bail!(
            "in the guest, {script:?} ended with {}: {}{}",
            output.status,
            output.stderr.trim_end(),
            output.stdout.trim_end()
        );
    }
    Ok(output.stdout)
}

/// One guest with a shell.
#[derive(Debug)]
pub struct ShellGuest {
    shell: Arc<dyn Shell>,
    agent: Box<dyn AgentControl>,
    hardware: Box<dyn Hardware>,
}

impl ShellGuest {
    /// A real guest, by its shell port; it need not be up yet.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect(socket: &Path) -> Result<Self> {
        let shell: Arc<dyn Shell> = Arc::new(SerialShell::connect(socket).await?);
        let agent = Box::new(ScriptedAgent::in_guest(
            Arc::clone(&shell),
            AgentChannel::Port,
        ));
        let hardware = Box::new(PciHardware::of(Arc::clone(&shell)));
        Ok(Self::over(shell, agent, hardware))
    }

    /// A guest by its parts.
    #[must_use]
    pub fn over(
        shell: Arc<dyn Shell>,
        agent: Box<dyn AgentControl>,
        hardware: Box<dyn Hardware>,
    ) -> Self {
        Self {
            shell,
            agent,
            hardware,
        }
    }

    /// Runs a script that has to succeed and gives what it printed.
    ///
    /// # Errors
    /// When it fails, then with its complaint, or the guest does not answer.
    pub async fn succeed(&self, script: &str) -> Result<String> {
        succeed(self.shell.as_ref(), script).await
    }

    /// Runs a script for at most `deadline`, whatever its exit status.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub async fn run_for(&self, script: &str, deadline: Duration) -> Result<Output> {
        self.shell.run(script, deadline).await
    }

    /// Runs a script in the namespace of `place`.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub async fn run_in(&self, place: &Where, script: &str) -> Result<Output> {
        self.run_in_for(place, script, SCRIPT_DEADLINE).await
    }

    /// Runs a script in the namespace of `place` for at most `deadline`.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub async fn run_in_for(
        &self,
        place: &Where,
        script: &str,
        deadline: Duration,
    ) -> Result<Output> {
        self.run_for(&links::wrap(place, script), deadline).await
    }

    async fn succeed_in(&self, place: &Where, script: &str) -> Result<String> {
        self.succeed(&links::wrap(place, script)).await
    }
}

#[async_trait(?Send)]
impl Guest for ShellGuest {
    async fn ready(&self, deadline: Duration) -> Result<()> {
        self.shell.ready(deadline).await
    }

    async fn over_reset(
        &self,
        reset: LocalBoxFuture<'_, Result<()>>,
        deadline: Duration,
    ) -> Result<()> {
        self.shell.over_reset(reset, deadline).await
    }

    async fn links(&self, place: &Where) -> Result<Vec<GuestLink>> {
        let listing = self.succeed_in(place, "ip -j address").await?;
        links::parse(&listing, place)
    }

    async fn routes(&self, place: &Where, destination: IpNet) -> Result<Vec<GuestRoute>> {
        let family = if destination.addr().is_ipv4() { 4 } else { 6 };
        let listing = format!("ip -j -{family} route show {destination}");
        links::parse_routes(&self.succeed_in(place, &listing).await?)
    }

    async fn netns_names(&self) -> Result<Vec<String>> {
        let listing = self.succeed("mkdir -p /run/netns; ls /run/netns").await?;
        Ok(listing.split_whitespace().map(str::to_owned).collect())
    }

    async fn virtio_nics(&self) -> Result<Option<BTreeSet<PciPath>>> {
        self.hardware.virtio_nics().await
    }

    async fn ping(&self, place: &Where, to: IpAddr, deadline: Duration) -> Result<()> {
        let seconds = deadline.as_secs().max(1);
        let script = format!(
            "end=$(($(date +%s) + {seconds})); \
             until ping -c 1 -W 1 {to}; do [ $(date +%s) -lt $end ] || exit 1; done"
        );
        let output = self.run_in_for(place, &script, deadline + PING_MARGIN);
        let output = output.await?;
        ensure!(
            output.status == 0,
            "no answer from {to} within {deadline:?}: {}{}",
            output.stdout.trim_end(),
            output.stderr.trim_end()
        );
        Ok(())
    }

    async fn ping_over(&self, place: &Where, link: &str, to: IpAddr) -> Result<()> {
        let ping = format!("ping -c 1 -W 5 -I {link} {to}");
        let output = self.run_in(place, &ping).await?;
        ensure!(
            output.status == 0,
            "no answer from {to} over {link}: {}",
            output.stdout
        );
        Ok(())
    }

    async fn make_container(&self) -> Result<Container> {
        let unnamed = "unshare -n sh -c 'ip link set lo up; exec sleep 1000000'";
        container::start(self, unnamed).await
    }

    async fn make_container_with_pid(&self, pid: u32) -> Result<Container> {
        container::start_with_pid(self, pid).await
    }

    async fn make_named_container(&self, name: &str) -> Result<Container> {
        self.add_netns_name(name).await?;
        let up = format!("ip -n {name} link set lo up");
        self.succeed(&up).await?;
        let inside = format!("nsenter --net=/run/netns/{name} sleep 1000000");
        container::start(self, &inside).await
    }

    async fn kill_container(&self, container: &Container) -> Result<()> {
        let pid = container.pid;
        let kill = format!("kill -9 {pid}; while [ -e /proc/{pid}/ns/net ]; do usleep 2000; done");
        self.succeed(&kill).await.map(drop)
    }

    async fn add_netns_name(&self, name: &str) -> Result<()> {
        self.succeed(&format!("ip netns add {name}"))
            .await
            .map(drop)
    }

    async fn remove_netns_name(&self, name: &str) -> Result<()> {
        self.succeed(&format!("ip netns del {name}"))
            .await
            .map(drop)
    }

    async fn make_link(&self, place: &Where, name: &str) -> Result<()> {
        let make = format!("ip link add {name} type veth peer name peer0");
        self.succeed_in(place, &make).await.map(drop)
    }

    async fn hotplug_mode(&self) -> Result<HotplugMode> {
        self.hardware.hotplug_mode().await
    }

    async fn ignore_hotplug(&self, mode: HotplugMode) -> Result<()> {
        self.hardware.ignore_hotplug(mode).await
    }

    async fn heed_hotplug(&self, mode: HotplugMode) -> Result<()> {
        self.hardware.heed_hotplug(mode).await
    }

    fn agent(&self) -> &dyn AgentControl {
        self.agent.as_ref()
    }

    async fn details(&self) -> Result<String> {
        // One script, because a guest that does not answer costs a deadline each time.
        let links = "echo 'own namespace:'; ip -d address; for name in $(ls /run/netns); do \
             echo \"namespace $name:\"; ip -n $name -d address; done; \
             for net in /proc/[0-9]*/ns/net; do readlink $net; done | sort | uniq -c; \
             dmesg | tail -n 20";
        Ok(self.run_for(links, SCRIPT_DEADLINE).await?.stdout)
    }

    fn shell(&self) -> Result<&ShellGuest> {
        Ok(self)
    }
}
