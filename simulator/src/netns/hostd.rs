//! The hostd of each host: the real program with a configuration made from the topology.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use host_api::{AgentState, Client};
use nic_model::{LinkName, NetworkName, TenantId, VmClassName, VmId};
use serde::Serialize;

use super::machine::GuestState;
use super::network::HostNetwork;
use super::plan::{Frames, Plan};
use super::process::{Process, Undertaker, log_to};
use super::site::Site;
use super::topology::{Class, HostName, Quota, Timeouts};
use super::trouble::{Doing, Trouble};

/// hostd answers within tens of milliseconds of its start.
const START_DEADLINE: Duration = Duration::from_secs(10);
const START_POLL: Duration = Duration::from_millis(2);

/// hostd's configuration file.
#[derive(Debug, Serialize)]
struct Configuration<'a> {
    socket: std::path::PathBuf,
    journal: std::path::PathBuf,
    class: &'a [Class],
    network: Vec<NetworkSection<'a>>,
    vm: Vec<VmSection<'a>>,
    quota: Quota,
    timeouts: Timeouts,
}

#[derive(Debug, Serialize)]
struct NetworkSection<'a> {
    name: &'a NetworkName,
    kind: &'static str,
    bridge: LinkName,
    device: Frames,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<nic_model::Mtu>,
    subnets: &'a [nic_model::IpNet],
}

#[derive(Debug, Serialize)]
struct VmSection<'a> {
    id: &'a VmId,
    qmp: std::path::PathBuf,
    channel: std::path::PathBuf,
    class: &'a VmClassName,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a TenantId>,
}

/// Writes the configuration of a host's hostd.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn configure(plan: &Plan, site: &Site, host: &HostName) -> Result<(), Trouble> {
    let doing = format!("configure the hostd of {host}");
    let network = |network: &'_ super::topology::Network| network.bridge();
    let topology = &plan.topology;
    let networks = topology.networks.iter().map(|each| NetworkSection {
        name: &each.name,
        kind: "bridge",
        bridge: network(each),
        device: plan.frames,
        mtu: each.mtu,
        subnets: &each.subnets,
    });
    let vms = topology.vms_of(host).map(|vm| VmSection {
        id: &vm.id,
        qmp: site.monitor(&vm.id),
        channel: site.channel(&vm.id),
        class: &vm.class,
        tenant: vm.tenant.as_ref(),
    });
    let configuration = Configuration {
        socket: site.api(host),
        journal: site.journal(host),
        class: &topology.classes,
        network: networks.collect(),
        vm: vms.collect(),
        quota: topology.quota,
        timeouts: topology.timeouts,
    };
    let text = toml::to_string(&configuration).doing(&doing)?;
    std::fs::write(site.configuration(host), text).doing(doing)
}

/// Starts it.
///
/// # Errors
/// When the program cannot be started.
pub(super) async fn start(
    plan: &Plan,
    site: &Site,
    host: &HostName,
    network: Option<&HostNetwork>,
    undertaker: &Undertaker,
) -> Result<Process, Trouble> {
    let mut command = Command::new(&plan.programs.hostd);
    command.arg("--config").arg(site.configuration(host));
    log_to(&mut command, &site.log(host.as_str()))?;
    let netns = network.map(|network| &network.netns);
    undertaker.spawn(command, netns).await
}

/// Removes what a host's hostd has written; nothing is fine.
///
/// # Errors
/// When it cannot be removed.
pub(super) fn forget(site: &Site, host: &HostName) -> Result<(), Trouble> {
    let doing = format!("forget what the hostd of {host} has promised");
    for file in journal_files(site, host) {
        match std::fs::remove_file(file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).doing(doing);
            }
            _ => {}
        }
    }
    Ok(())
}

/// The journal, and what SQLite keeps beside it.
pub(super) fn journal_files(site: &Site, host: &HostName) -> [std::path::PathBuf; 3] {
    let journal = site.journal(host);
    ["", "-wal", "-shm"].map(|suffix| {
        let mut path = journal.clone().into_os_string();
        path.push(suffix);
        path.into()
    })
}

/// Waits until it answers, and is in touch with the VMs that are awaited, and with the agents in
/// those whose guests are up.
///
/// # Errors
/// When that takes too long.
pub(super) async fn until_ready(
    site: &Site,
    host: &HostName,
    awaited: &BTreeMap<VmId, GuestState>,
) -> Result<(), Trouble> {
    let client = Client::unix(site.api(host));
    let ready = async {
        while !is_ready(&client, awaited).await {
            tokio::time::sleep(START_POLL).await;
        }
    };
    let waited = tokio::time::timeout(START_DEADLINE, ready).await;
    waited.doing(format_args!(
        "wait until the hostd of {host} is ready (its log: {})",
        site.log(host.as_str()).display()
    ))
}

async fn is_ready(client: &Client, awaited: &BTreeMap<VmId, GuestState>) -> bool {
    let Ok(list) = client.vms().await else {
        return false;
    };
    let in_touch = |(id, guest): (&VmId, &GuestState)| {
        let found = list.vms.iter().find(|vm| vm.id == *id);
        let agent_is = |vm: &host_api::Vm| vm.agent.state == AgentState::Ready;
        found.is_some_and(|vm| vm.power.is_some() && (*guest == GuestState::Down || agent_is(vm)))
    };
    awaited.iter().all(in_touch)
}
