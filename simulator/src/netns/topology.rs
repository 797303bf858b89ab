//! What there is to be in a simulated cloud: hosts, VMs, containers, networks, limits.
//!
//! ```text
//!   file ──► Raw… (mirrors the file) ──► check, all mistakes together ──► Topology
//! ```
//!
//! Limits are written as hostd's own configuration has them and handed on to it.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use nic_model::{
    BitRate, IpNet, LinkName, Mtu, NetnsName, NetworkName, PacketRate, TenantId, VmClassName, VmId,
};
use serde::{Deserialize, Serialize};

/// Most VMs of one cloud: each is two processes of some MiB and half a dozen descriptors.
const MAX_VMS: usize = 200;
/// The stems of the sockets at which a cloud takes orders itself, which are where its hosts' are.
const OWN_SOCKETS: [&str; 2] = ["control", "control-tcp"];
/// Most hosts of one cloud: their wires have one digit in their names.
const MAX_HOSTS: usize = 8;
/// Most containers of one VM.
const MAX_CONTAINERS: usize = 100;
/// Most root ports of one VM: one root bus has 32 places, some of them taken (QEMU's q35).
const MAX_ROOT_PORTS: u8 = 24;
/// Prefix of a network's bridge.
const BRIDGE_PREFIX: &str = "br-";

/// A cloud, checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// Its hosts, one or more.
    pub hosts: Vec<HostName>,
    /// Its networks; each reaches every host.
    pub networks: Vec<Network>,
    /// What VMs may have.
    pub classes: Vec<Class>,
    /// What hosts and tenants may have.
    pub quota: Quota,
    /// How long each hostd waits.
    pub timeouts: Timeouts,
    /// Its VMs.
    pub vms: Vec<Vm>,
}

/// The name of a host.
pub type HostName = VmId;

/// A network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Its name.
    pub name: NetworkName,
    /// What addresses come from; the host has the first of each.
    #[serde(default)]
    pub subnets: Vec<IpNet>,
    /// Largest packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<Mtu>,
}

/// A class of VMs, as hostd's configuration has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Class {
    /// Its name.
    pub name: VmClassName,
    /// NICs at once.
    pub max_nics: u64,
    /// Static addresses of one NIC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_addresses_per_nic: Option<u64>,
    /// Queues of one NIC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_queues: Option<u16>,
    /// Most that one NIC may receive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_in_bits: Option<BitRate>,
    /// Most that one NIC may send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_out_bits: Option<BitRate>,
    /// Most packets a second that one NIC may receive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets_in: Option<PacketRate>,
    /// Most packets a second that one NIC may send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets_out: Option<PacketRate>,
}

/// Quotas, as hostd's configuration has them; absent is unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// NICs of one host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_nics_per_host: Option<u64>,
    /// NICs of one tenant on one host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_nics_per_tenant: Option<u64>,
    /// Addresses of one tenant on one host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_addresses_per_tenant: Option<u64>,
}

/// How long hostd waits, in seconds, as its configuration has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// For an attach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attach_seconds: Option<u64>,
    /// For an agent to release a link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release_seconds: Option<u64>,
    /// With objects that nobody owns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine_seconds: Option<u64>,
}

/// A VM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vm {
    /// Its name.
    pub id: VmId,
    /// The host it runs on.
    pub host: HostName,
    /// What it may have.
    pub class: VmClassName,
    /// Whose it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// Which QEMU it is run by.
    pub profile: String,
    /// How many places for NICs it has.
    pub root_ports: u8,
    /// Containers that are there from the start.
    pub containers: Vec<NetnsName>,
}

/// The file as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTopology {
    #[serde(default)]
    host: Vec<RawHost>,
    #[serde(default)]
    network: Vec<Network>,
    #[serde(default)]
    class: Vec<Class>,
    #[serde(default)]
    quota: Quota,
    #[serde(default)]
    timeouts: Timeouts,
    #[serde(default)]
    vm: Vec<RawVm>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHost {
    name: HostName,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawVm {
    id: VmId,
    #[serde(default)]
    host: Option<HostName>,
    #[serde(default)]
    class: Option<VmClassName>,
    #[serde(default)]
    tenant: Option<TenantId>,
    #[serde(default = "default_profile")]
    profile: String,
    #[serde(default = "default_root_ports")]
    root_ports: u8,
    #[serde(default)]
    container: Vec<NetnsName>,
}

fn default_profile() -> String {
    "qemu-7.2".to_owned()
}

fn default_root_ports() -> u8 {
    8
}

/// Why a topology is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// The file cannot be read.
    #[error("failed to read {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// It is not the TOML that is expected; the cause shows line and key.
    #[error("failed to understand {path}")]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: Box<toml::de::Error>,
    },
    /// It contradicts itself.
    #[error("{path} has mistakes: {mistakes}")]
    Mistakes {
        /// Which file.
        path: PathBuf,
        /// All of them.
        mistakes: Mistakes,
    },
}

/// Mistakes found together, each with the field it is in.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Mistakes(Vec<String>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl Topology {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// When it cannot be read, parsed or accepted.
    pub fn load(path: &Path) -> Result<Self, TopologyError> {
        let text = std::fs::read_to_string(path).map_err(|cause| TopologyError::Read {
            path: path.to_owned(),
            cause,
        })?;
        let raw: RawTopology = toml::from_str(&text).map_err(|cause| TopologyError::Syntax {
            path: path.to_owned(),
            cause: Box::new(cause),
        })?;
        check(raw).map_err(|mistakes| TopologyError::Mistakes {
            path: path.to_owned(),
            mistakes,
        })
    }

    /// One host with VMs `vm1`, `vm2` and so on, each with a container `web` and one `db`, and the
    /// network `blue`.
    ///
    /// # Panics
    /// Never: there is nothing in it to mistake.
    #[must_use]
    pub fn of_vms(count: u8) -> Self {
        let container = |name: &str| name.parse().expect("a short word is a name");
        let vm = |number| RawVm {
            id: format!("vm{number}").parse().expect("it is a name"),
            host: None,
            class: None,
            tenant: None,
            profile: default_profile(),
            root_ports: default_root_ports(),
            container: vec![container("web"), container("db")],
        };
        let raw = RawTopology {
            vm: (1..=count.max(1)).map(vm).collect(),
            ..RawTopology::default()
        };
        check(raw).expect("there is nothing in it to mistake")
    }

    /// VMs of one host.
    pub fn vms_of<'a>(&'a self, host: &'a HostName) -> impl Iterator<Item = &'a Vm> {
        self.vms.iter().filter(move |vm| vm.host == *host)
    }
}

impl Network {
    /// The bridge that it is on each host.
    ///
    /// # Panics
    /// Never for one of a topology that was accepted: its name is short enough.
    #[must_use]
    pub fn bridge(&self) -> LinkName {
        let name = format!("{BRIDGE_PREFIX}{}", self.name);
        name.parse().expect("checked with the topology")
    }
}

fn check(mut raw: RawTopology) -> Result<Topology, Mistakes> {
    add_defaults(&mut raw);
    let mut mistakes = Mistakes::default();
    check_names(&raw, &mut mistakes);
    check_networks(&raw.network, &mut mistakes);
    let (host, class) = (raw.host[0].name.clone(), raw.class[0].name.clone());
    for vm in &raw.vm {
        check_vm(vm, &raw, &mut mistakes);
    }
    if !mistakes.0.is_empty() {
        return Err(mistakes);
    }
    let vm = |vm: RawVm| Vm {
        id: vm.id,
        host: vm.host.unwrap_or_else(|| host.clone()),
        class: vm.class.unwrap_or_else(|| class.clone()),
        tenant: vm.tenant,
        profile: vm.profile,
        root_ports: vm.root_ports,
        containers: vm.container,
    };
    Ok(Topology {
        hosts: raw.host.into_iter().map(|host| host.name).collect(),
        networks: raw.network,
        classes: raw.class,
        quota: raw.quota,
        timeouts: raw.timeouts,
        vms: raw.vm.into_iter().map(vm).collect(),
    })
}

/// What a file that says nothing of it gets.
fn add_defaults(raw: &mut RawTopology) {
    if raw.host.is_empty() {
        let name = "host1".parse().expect("it is a name");
        raw.host.push(RawHost { name });
    }
    if raw.network.is_empty() {
        let subnets = ["10.77.0.0/24", "fd77::/64"];
        raw.network.push(Network {
            name: "blue".parse().expect("it is a name"),
            subnets: subnets
                .map(|subnet| subnet.parse().expect("it is a subnet"))
                .into(),
            mtu: None,
        });
    }
    if raw.class.is_empty() {
        raw.class.push(Class {
            name: "standard".parse().expect("it is a name"),
            max_nics: 8,
            max_addresses_per_nic: None,
            max_queues: None,
            bandwidth_in_bits: None,
            bandwidth_out_bits: None,
            packets_in: None,
            packets_out: None,
        });
    }
}

fn check_names(raw: &RawTopology, mistakes: &mut Mistakes) {
    let mut note_twice = |field: &str, names: Vec<String>| {
        let mut seen = BTreeSet::new();
        for name in names {
            if !seen.insert(name.clone()) {
                mistakes.0.push(format!("{field}: {name} is listed twice"));
            }
        }
    };
    let hosts = raw.host.iter().map(|host| host.name.to_string());
    note_twice("host.name", hosts.collect());
    let networks = raw.network.iter().map(|network| network.name.to_string());
    note_twice("network.name", networks.collect());
    let classes = raw.class.iter().map(|class| class.name.to_string());
    note_twice("class.name", classes.collect());
    // Hosts and VMs keep their files side by side.
    let vms = raw.vm.iter().map(|vm| vm.id.to_string());
    let hosts = raw.host.iter().map(|host| host.name.to_string());
    note_twice("vm.id", vms.chain(hosts).collect());
    for vm in &raw.vm {
        let containers = vm.container.iter().map(ToString::to_string).collect();
        note_twice(&format!("vm {}: container", vm.id), containers);
    }
    for host in &raw.host {
        if OWN_SOCKETS.contains(&host.name.as_str()) {
            let name = &host.name;
            mistakes.0.push(format!(
                "host.name: {name} is what the cloud calls a socket of its own"
            ));
        }
    }
    for (field, count, most) in [
        ("vm", raw.vm.len(), MAX_VMS),
        ("host", raw.host.len(), MAX_HOSTS),
    ] {
        if count > most {
            mistakes
                .0
                .push(format!("{field}: {count} of them, at most {most} go"));
        }
    }
}

fn check_networks(networks: &[Network], mistakes: &mut Mistakes) {
    for network in networks {
        let name = &network.name;
        let longest = LinkName::MAX_LEN - BRIDGE_PREFIX.len();
        if name.as_str().len() > longest {
            mistakes.0.push(format!(
                "network {name}: name: longer than {longest}, which the kernel has for its bridge"
            ));
        }
        for subnet in &network.subnets {
            if subnet.trunc() != *subnet {
                mistakes.0.push(format!(
                    "network {name}: subnets: {subnet} has host bits set"
                ));
            }
        }
    }
}

fn check_vm(vm: &RawVm, raw: &RawTopology, mistakes: &mut Mistakes) {
    let id = &vm.id;
    let mut note = |mistake: String| mistakes.0.push(format!("vm {id}: {mistake}"));
    if let Some(host) = &vm.host
        && !raw.host.iter().any(|known| known.name == *host)
    {
        note(format!("host: {host} is not among the hosts"));
    }
    if let Some(class) = &vm.class
        && !raw.class.iter().any(|known| known.name == *class)
    {
        note(format!("class: {class} is not among the classes"));
    }
    if let Err(error) = vm.profile.parse::<fake_qemu::Profile>() {
        note(format!("profile: {error}"));
    }
    if !(1..=MAX_ROOT_PORTS).contains(&vm.root_ports) {
        note(format!(
            "root_ports: {} is not 1 to {MAX_ROOT_PORTS}",
            vm.root_ports
        ));
    }
    if vm.container.len() > MAX_CONTAINERS {
        let count = vm.container.len();
        note(format!(
            "container: {count} of them, at most {MAX_CONTAINERS} go"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::site::Site;

    fn parse(text: &str) -> Result<Topology, Mistakes> {
        check(toml::from_str(text).unwrap())
    }

    #[test]
    fn an_empty_file_is_a_host_and_a_network() {
        let topology = parse("").unwrap();

        assert_eq!(topology.hosts.len(), 1);
        assert_eq!(topology.networks[0].bridge().as_str(), "br-blue");
        assert!(topology.vms.is_empty());
    }

    #[test]
    fn all_mistakes_are_reported_together_with_their_fields() {
        let mistakes = parse(
            "[[network]]\nname = \"a-network-of-note\"\nsubnets = [\"10.0.0.1/24\"]\n\
             [[vm]]\nid = \"a\"\nhost = \"nowhere\"\nclass = \"gold\"\nroot_ports = 0\n\
             [[vm]]\nid = \"a\"\ncontainer = [\"web\", \"web\"]\n",
        )
        .unwrap_err()
        .to_string();

        for part in [
            "network a-network-of-note: name: longer than 12",
            "subnets: 10.0.0.1/24 has host bits set",
            "vm a: host: nowhere is not among the hosts",
            "vm a: class: gold is not among the classes",
            "vm a: root_ports: 0 is not 1 to 24",
            "vm.id: a is listed twice",
            "vm a: container: web is listed twice",
        ] {
            assert!(mistakes.contains(part), "{part}: {mistakes}");
        }
    }

    #[test]
    fn a_host_is_not_called_as_what_is_the_cloud_s_own() {
        for name in OWN_SOCKETS {
            let host = format!("[[host]]\nname = \"{name}\"\n");
            let vm = format!("[[vm]]\nid = \"{name}\"\n");

            let mistakes = parse(&host).unwrap_err().to_string();

            let expected = format!("host.name: {name} is what");
            assert!(mistakes.starts_with(&expected), "{mistakes}");
            let site = Site::at("/tmp".into());
            let socket = site.api(&name.parse().unwrap());
            assert!([site.control(), site.control_over_tcp()].contains(&socket));
            // Those of a VM end with something else.
            assert!(parse(&vm).is_ok(), "{name}");
        }
    }

    #[test]
    fn an_unknown_or_mistyped_key_is_named() {
        for (text, key) in [
            ("[[vm]]\nid = \"a\"\ncontainers = []", "containers"),
            ("hosts = 3", "hosts"),
            ("[[vm]]\nid = 7", "id"),
            ("[[vm]]\nid = \"a\"\nroot_ports = 300", "root_ports"),
        ] {
            let error = toml::from_str::<RawTopology>(text).unwrap_err().to_string();

            assert!(error.contains(key), "{key}: {error}");
        }
    }
}
