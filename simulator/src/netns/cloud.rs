//! A cloud that runs, as the sandbox sees it.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nic_model::VmId;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::guest::READY;
use super::hostd;
use super::network::{self, HostNetwork};
use super::plan::Plan;
use super::process::{Undertaker, described, log_to};
use super::site::Site;
use super::topology::HostName;
use super::trouble::{Doing, Trouble, in_full};

/// As systemd's `RestartSec` has it.
const RESTART_PAUSE: Duration = Duration::from_millis(100);
/// A VM whose guest is not up by then is none.
const VM_DEADLINE: Duration = Duration::from_secs(10);

/// Everything of one cloud.
pub(super) struct Cloud {
    inner: Arc<Inner>,
}

struct Inner {
    plan: Plan,
    site: Site,
    hosts: BTreeMap<HostName, HostNetwork>,
    undertaker: Undertaker,
}

/// A VM process that said something else than that it is ready.
#[derive(Debug, thiserror::Error)]
#[error("it ended before it was ready; its log is {log}")]
struct NotReady {
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
        let networks = network::make(&plan.topology).await?;
        let hosts = plan.topology.hosts.iter().cloned().zip(networks).collect();
        let inner = Arc::new(Inner {
            plan,
            site: site.clone(),
            hosts,
            undertaker,
        });
        let vms = inner
            .plan
            .topology
            .vms
            .iter()
            .map(|vm| inner.clone().start_vm(vm.id.clone()));
        futures::future::try_join_all(vms).await?;
        for host in inner.hosts.keys() {
            hostd::configure(&inner.plan, site, host)?;
            tokio::spawn(inner.clone().keep_hostd(host.clone()));
        }
        for host in inner.hosts.keys() {
            let vms = inner.plan.topology.vms_of(host).count();
            hostd::until_ready(site, host, vms).await?;
        }
        Ok(Self { inner })
    }

    pub(super) fn plan(&self) -> &Plan {
        &self.inner.plan
    }

    /// Serves orders for ever.
    pub(super) async fn serve(self) -> Result<(), Trouble> {
        std::future::pending().await
    }
}

impl Inner {
    /// Starts a VM and waits until its guest is up.
    async fn start_vm(self: Arc<Self>, id: VmId) -> Result<(), Trouble> {
        let doing = format!("start VM {id}");
        let host = self.plan.topology.vms.iter().find(|vm| vm.id == id);
        let host = host.and_then(|vm| self.hosts.get(&vm.host));
        let mut command = Command::new(&self.plan.programs.simulator);
        command
            .arg("machine")
            .arg("--directory")
            .arg(self.site.directory());
        command.arg(id.as_str());
        log_to(&mut command, &self.site.log(id.as_str()))?;
        let (reader, writer) = std::io::pipe().doing(&doing)?;
        command.stdout(Stdio::from(writer));
        let netns = host.map(|host| &host.netns);
        let mut process = self.undertaker.spawn(command, netns).await?;
        let reader = tokio::net::unix::pipe::Receiver::from_owned_fd(reader.into());
        let mut line = String::new();
        let mut reader = BufReader::new(reader.doing(&doing)?);
        let said = tokio::time::timeout(VM_DEADLINE, reader.read_line(&mut line)).await;
        said.doing(&doing)?.doing(&doing)?;
        if line != READY {
            let log = self.site.log(id.as_str()).display().to_string();
            return Err(NotReady { log }).doing(doing);
        }
        tokio::spawn(async move {
            let status = described(process.ended().await);
            tracing::warn!(vm = %id, status, "a VM has ended");
        });
        Ok(())
    }

    /// Starts a host's hostd again whenever it ends, as a service manager would.
    async fn keep_hostd(self: Arc<Self>, host: HostName) {
        let Some(network) = self.hosts.get(&host) else {
            return;
        };
        loop {
            match hostd::start(&self.plan, &self.site, &host, network, &self.undertaker).await {
                Ok(mut process) => {
                    let status = described(process.ended().await);
                    tracing::warn!(%host, status, "hostd has ended");
                }
                Err(error) => tracing::warn!(%host, error = in_full(&error), "no hostd"),
            }
            tokio::time::sleep(RESTART_PAUSE).await;
        }
    }
}
