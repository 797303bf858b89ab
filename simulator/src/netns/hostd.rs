//! The hostd of each host: the real program with a configuration made from the topology.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use host_api::{AgentState, Client, Vm};
use nic_model::{LinkName, NetworkName, TenantId, VmClassName, VmId};
use serde::Serialize;

use super::machine::GuestState;
use super::network::HostNetwork;
use super::plan::{Frames, Plan};
use super::process::{Process, Undertaker, end_of, log_to};
use super::site::Site;
use super::topology::{Class, HostName, Quota, Timeouts};
use super::trouble::{Doing, Trouble, in_full};

/// hostd answers within tens of milliseconds of its start.
const START_DEADLINE: Duration = Duration::from_secs(10);
const START_POLL: Duration = Duration::from_millis(2);

/// A hostd that does not become ready, and what the logs that go with the cloud say of it.
#[derive(Debug, thiserror::Error)]
#[error("{what}; {logs}")]
struct NotReady {
    what: String,
    logs: String,
}

/// What a hostd still lacks.
#[derive(Debug, PartialEq, Eq)]
struct Missing {
    what: String,
    /// Whose agent it is about.
    agent_in: Option<VmId>,
}

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
    let mut missing = None;
    let ready = async {
        while let Some(what) = look_for_missing(&client, awaited).await {
            missing = Some(what);
            tokio::time::sleep(START_POLL).await;
        }
    };
    let waited = tokio::time::timeout(START_DEADLINE, ready).await;
    waited.map_err(|elapsed| {
        let doing = format_args!("start the hostd of {host}");
        match missing {
            Some(missing) => Trouble::new(doing, not_ready(missing, site, host)),
            None => Trouble::new(doing, elapsed),
        }
    })
}

fn not_ready(missing: Missing, site: &Site, host: &HostName) -> NotReady {
    let mut logs = end_of(&site.log(host.as_str()));
    if let Some(vm) = missing.agent_in {
        logs = format!("{logs}\n{}", end_of(&site.agent_log(&vm)));
    }
    let what = missing.what;
    NotReady { what, logs }
}

/// What the hostd of a host that has only just been started still lacks.
async fn look_for_missing(
    client: &Client,
    awaited: &BTreeMap<VmId, GuestState>,
) -> Option<Missing> {
    match client.vms().await {
        Ok(list) => awaited
            .iter()
            .find_map(|(id, guest)| missing_of(id, *guest, &list.vms)),
        Err(error) => Some(Missing {
            what: in_full(&error),
            agent_in: None,
        }),
    }
}

fn missing_of(id: &VmId, guest: GuestState, vms: &[Vm]) -> Option<Missing> {
    let found = vms.iter().find(|vm| vm.id == *id);
    let Some(vm) = found.filter(|vm| vm.power.is_some()) else {
        return Some(Missing {
            what: format!("it cannot reach the hypervisor of {id}"),
            agent_in: None,
        });
    };
    if guest == GuestState::Down || vm.agent.state == AgentState::Ready {
        return None;
    }
    let what = match vm.agent.state {
        AgentState::Incompatible => {
            format!("the agent of {id} is incompatible: it is of another build than hostd")
        }
        state @ (AgentState::Absent
        | AgentState::Connecting
        | AgentState::Ready
        | AgentState::Misbehaving) => format!("the agent of {id} is {state}"),
    };
    let agent_in = Some(id.clone());
    Some(Missing { what, agent_in })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(power: Option<&str>, agent: &str) -> Vm {
        let vm = serde_json::json!({
            "id": "vm1", "power": power, "class": "small",
            "agent": {"state": agent, "since_ms": 0},
            "slots": {"total": 8, "free": 8, "reserved": 0},
            "limits": {
                "max_nics": 8, "max_addresses_per_nic": 4, "max_queues": 1,
                "rates": {"in": {}, "out": {}},
            },
            "usage": {"nics": 0, "addresses": 0}, "nics": [],
        });
        serde_json::from_value(vm).expect("it is one")
    }

    #[test]
    fn what_is_still_missing_is_told_by_its_name() {
        let id: VmId = "vm1".parse().expect("it is an id");
        let missing = |guest, vms: &[Vm]| {
            let missing = missing_of(&id, guest, vms);
            missing.map_or(String::new(), |missing| missing.what)
        };
        let up = GuestState::Up;

        assert_eq!(missing(up, &[vm(Some("running"), "ready")]), "");
        assert_eq!(
            missing(GuestState::Down, &[vm(Some("running"), "connecting")]),
            ""
        );
        assert_eq!(
            missing(up, &[vm(Some("running"), "connecting")]),
            "the agent of vm1 is connecting"
        );
        assert_eq!(
            missing(up, &[vm(Some("running"), "incompatible")]),
            "the agent of vm1 is incompatible: it is of another build than hostd"
        );
        for unseen in [vec![], vec![vm(None, "ready")]] {
            assert_eq!(
                missing(up, &unseen),
                "it cannot reach the hypervisor of vm1"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_logs_say_of_a_failure_outlives_them() {
        let base = tempfile::tempdir().expect("there is room");
        let site = Site::at(base.path().to_owned());
        let host: HostName = "host1".parse().expect("it is a name");
        std::fs::write(site.log("host1"), "no good\n").expect("there is room");

        let waited = until_ready(&site, &host, &BTreeMap::new()).await;

        let said = in_full(&waited.expect_err("nobody answers there"));
        assert!(
            said.starts_with("failed to start the hostd of host1: "),
            "{said}"
        );
        assert!(said.ends_with("host1.log ends with:\n  no good"), "{said}");
    }

    #[test]
    fn of_an_agent_that_is_missing_its_own_log_tells_too() {
        let base = tempfile::tempdir().expect("there is room");
        let site = Site::at(base.path().to_owned());
        let (id, host) = ("vm1".parse().expect("it is an id"), "host1".parse());
        std::fs::write(site.agent_log(&id), "not mine\n").expect("there is room");
        let missing = missing_of(&id, GuestState::Up, &[vm(Some("running"), "incompatible")]);
        let missing = missing.expect("its agent is");

        let said = not_ready(missing, &site, &host.expect("it is a name")).to_string();

        assert!(
            said.starts_with("the agent of vm1 is incompatible: "),
            "{said}"
        );
        assert!(
            said.ends_with("vm1-agent.log ends with:\n  not mine"),
            "{said}"
        );
    }
}
