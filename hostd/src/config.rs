//! hostd's configuration file: raw as the file has it, then checked into what cannot be wrong.
//!
//! All mistakes are reported together, each with the key it concerns. Unknown keys are mistakes.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nic_lifecycle::{HostQuota, Network, Site, VmClass};
use nic_model::{
    BitRate, IpNet, LinkName, Mtu, NetworkName, PacketRate, RateLimit, RateLimits, TenantId,
    VmClassName, VmId,
};
use port::Device;
use serde::Deserialize;

/// Where the journal and the socket are unless the file says otherwise.
const DEFAULT_SOCKET: &str = "/run/nicferry/hostd.sock";
const DEFAULT_JOURNAL: &str = "/var/lib/nicferry/journal.sqlite";
/// Longer than anybody waits for a guest, and far from where an instant overflows.
const TIMEOUT_MAX_SECONDS: u64 = 7 * 24 * 60 * 60;

/// Everything hostd was configured to do, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// The API's socket.
    pub socket: PathBuf,
    /// Its file mode.
    pub socket_mode: u32,
    /// The journal's file.
    pub journal: PathBuf,
    /// Networks, classes, quotas.
    pub site: Site,
    /// How ports of each network are made.
    pub ports: BTreeMap<NetworkName, PortKind>,
    /// VMs reached over QMP.
    pub qmp_vms: Vec<QmpVmConfig>,
    /// libvirt, if VMs are discovered there.
    pub libvirt_uri: Option<String>,
    /// Users that act for one tenant; every other user allowed on the socket is an operator.
    pub tenants_by_uid: BTreeMap<u32, TenantId>,
    /// How long things may take.
    pub patience: PatienceConfig,
}

/// How ports of a network are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortKind {
    /// In a Linux bridge.
    Bridge {
        /// Its name.
        bridge: LinkName,
        /// What each port is to the kernel.
        device: Device,
    },
    /// A tap that the operator wires.
    Tap,
}

/// One VM reached over QMP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QmpVmConfig {
    /// Its name.
    pub id: VmId,
    /// QEMU's monitor socket.
    pub qmp: PathBuf,
    /// Host end of the agent's channel.
    pub channel: Option<PathBuf>,
}

/// How long hostd waits before it gives up or goes on without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PatienceConfig {
    /// An attach that has not succeeded by then is undone.
    pub attach: Duration,
    /// An agent that has not released a link by then is not waited for.
    pub release: Duration,
    /// Objects of ours without a record are removed after this long in quarantine.
    pub quarantine: Duration,
}

/// The file as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    #[serde(default)]
    socket: Option<PathBuf>,
    #[serde(default)]
    socket_mode: Option<String>,
    #[serde(default)]
    journal: Option<PathBuf>,
    #[serde(default)]
    default_class: Option<VmClassName>,
    #[serde(default)]
    class: Vec<RawClass>,
    #[serde(default)]
    network: Vec<RawNetwork>,
    #[serde(default)]
    vm: Vec<RawVm>,
    #[serde(default)]
    libvirt: Option<RawLibvirt>,
    #[serde(default)]
    quota: HostQuota,
    #[serde(default)]
    principal: Vec<RawPrincipal>,
    #[serde(default)]
    timeouts: RawTimeouts,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawClass {
    name: VmClassName,
    max_nics: u64,
    #[serde(default = "default_addresses")]
    max_addresses_per_nic: u64,
    #[serde(default = "default_queues")]
    max_queues: u16,
    #[serde(default)]
    bandwidth_in_bits: Option<BitRate>,
    #[serde(default)]
    bandwidth_out_bits: Option<BitRate>,
    #[serde(default)]
    packets_in: Option<PacketRate>,
    #[serde(default)]
    packets_out: Option<PacketRate>,
}

/// ECS gives its small instance types 10 private addresses a NIC; we stay below.
fn default_addresses() -> u64 {
    8
}

fn default_queues() -> u16 {
    1
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNetwork {
    name: NetworkName,
    kind: RawNetworkKind,
    #[serde(default)]
    bridge: Option<LinkName>,
    #[serde(default)]
    device: RawDevice,
    #[serde(default = "default_mtu")]
    mtu: Mtu,
    #[serde(default)]
    subnets: Vec<IpNet>,
}

fn default_mtu() -> Mtu {
    Mtu::ETHERNET
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RawNetworkKind {
    Bridge,
    Tap,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RawDevice {
    #[default]
    Tap,
    Veth,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawVm {
    id: VmId,
    #[serde(default)]
    qmp: Option<PathBuf>,
    #[serde(default)]
    channel: Option<PathBuf>,
    #[serde(default)]
    class: Option<VmClassName>,
    #[serde(default)]
    tenant: Option<TenantId>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLibvirt {
    uri: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPrincipal {
    uid: u32,
    tenant: TenantId,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawTimeouts {
    attach_seconds: u64,
    release_seconds: u64,
    quarantine_seconds: u64,
}

impl Default for RawTimeouts {
    /// A guest boots within a minute; an agent releases within milliseconds unless it is stuck.
    fn default() -> Self {
        Self {
            attach_seconds: 60,
            release_seconds: 2,
            quarantine_seconds: 30,
        }
    }
}

/// Why a configuration is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
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

/// Mistakes found together.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Mistakes(Vec<String>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// When it cannot be read, parsed or accepted.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|cause| ConfigError::Read {
            path: path.to_owned(),
            cause,
        })?;
        Self::parse(&text, path)
    }

    /// Checks the text of a file that errors are to name `path`.
    ///
    /// # Errors
    /// When it cannot be parsed or accepted.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let raw: RawConfig = toml::from_str(text).map_err(|cause| ConfigError::Syntax {
            path: path.to_owned(),
            cause: Box::new(cause),
        })?;
        check(raw).map_err(|mistakes| ConfigError::Mistakes {
            path: path.to_owned(),
            mistakes,
        })
    }
}

fn check(raw: RawConfig) -> Result<Config, Mistakes> {
    let mut mistakes = Mistakes::default();
    let socket_mode = check_mode(raw.socket_mode.as_deref(), &mut mistakes);
    let ports = check_networks(&raw.network, &mut mistakes);
    check_vms(&raw, &mut mistakes);
    check_timeouts(&raw.timeouts, &mut mistakes);
    if !mistakes.0.is_empty() {
        return Err(mistakes);
    }
    let site = site_of(&raw);
    let qmp_vms = raw.vm.into_iter().filter_map(|vm| {
        Some(QmpVmConfig {
            id: vm.id,
            qmp: vm.qmp?,
            channel: vm.channel,
        })
    });
    Ok(Config {
        socket: raw.socket.unwrap_or_else(|| DEFAULT_SOCKET.into()),
        socket_mode,
        journal: raw.journal.unwrap_or_else(|| DEFAULT_JOURNAL.into()),
        site,
        ports,
        qmp_vms: qmp_vms.collect(),
        libvirt_uri: raw.libvirt.map(|libvirt| libvirt.uri),
        tenants_by_uid: raw
            .principal
            .into_iter()
            .map(|user| (user.uid, user.tenant))
            .collect(),
        patience: PatienceConfig {
            attach: Duration::from_secs(raw.timeouts.attach_seconds),
            release: Duration::from_secs(raw.timeouts.release_seconds),
            quarantine: Duration::from_secs(raw.timeouts.quarantine_seconds),
        },
    })
}

fn check_mode(text: Option<&str>, mistakes: &mut Mistakes) -> u32 {
    match text.map(|text| u32::from_str_radix(text, 8)) {
        None => 0o600,
        Some(Ok(mode)) if mode <= 0o777 => mode,
        Some(_) => {
            mistakes
                .0
                .push("socket_mode must be an octal file mode such as \"0660\"".to_owned());
            0o600
        }
    }
}

fn check_timeouts(timeouts: &RawTimeouts, mistakes: &mut Mistakes) {
    let all = [
        ("attach_seconds", timeouts.attach_seconds),
        ("release_seconds", timeouts.release_seconds),
        ("quarantine_seconds", timeouts.quarantine_seconds),
    ];
    for (name, seconds) in all.into_iter().filter(|(_, it)| *it > TIMEOUT_MAX_SECONDS) {
        mistakes.0.push(format!(
            "timeouts.{name} is {seconds}, and may be {TIMEOUT_MAX_SECONDS} at most"
        ));
    }
}

fn check_networks(
    networks: &[RawNetwork],
    mistakes: &mut Mistakes,
) -> BTreeMap<NetworkName, PortKind> {
    let mut ports = BTreeMap::new();
    for network in networks {
        let name = &network.name;
        let kind = match (&network.kind, &network.bridge) {
            (RawNetworkKind::Bridge, Some(bridge)) => PortKind::Bridge {
                bridge: bridge.clone(),
                device: match network.device {
                    RawDevice::Tap => Device::Tap,
                    RawDevice::Veth => Device::Veth,
                },
            },
            (RawNetworkKind::Tap, None) => PortKind::Tap,
            (RawNetworkKind::Bridge, None) => {
                mistakes.0.push(format!(
                    "network {name}: kind \"bridge\" needs the key bridge"
                ));
                continue;
            }
            (RawNetworkKind::Tap, Some(_)) => {
                mistakes
                    .0
                    .push(format!("network {name}: kind \"tap\" has no key bridge"));
                continue;
            }
        };
        if kind == PortKind::Tap && network.device == RawDevice::Veth {
            mistakes.0.push(format!(
                "network {name}: kind \"tap\" has no device \"veth\""
            ));
        }
        for subnet in &network.subnets {
            if subnet.trunc() != *subnet {
                mistakes
                    .0
                    .push(format!("network {name}: subnet {subnet} has host bits set"));
            }
        }
        if ports.insert(name.clone(), kind).is_some() {
            mistakes.0.push(format!("network {name} is listed twice"));
        }
    }
    ports
}

fn check_vms(raw: &RawConfig, mistakes: &mut Mistakes) {
    if raw.libvirt.is_some() && !cfg!(feature = "libvirt") {
        let mistake = "[libvirt] has to go: this hostd was built without the feature libvirt";
        mistakes.0.push(mistake.to_owned());
    }
    let known = |class: &VmClassName| raw.class.iter().any(|known| known.name == *class);
    if let Some(class) = raw.default_class.as_ref().filter(|class| !known(class)) {
        mistakes
            .0
            .push(format!("default_class {class} is not among the classes"));
    }
    for vm in &raw.vm {
        match &vm.class {
            Some(class) if !known(class) => {
                mistakes.0.push(format!(
                    "vm {}: class {class} is not among the classes",
                    vm.id
                ));
            }
            None if raw.default_class.is_none() => {
                mistakes.0.push(format!(
                    "vm {}: has no class, and there is no default_class",
                    vm.id
                ));
            }
            _ => {}
        }
        if vm.qmp.is_none() && raw.libvirt.is_none() {
            mistakes.0.push(format!(
                "vm {}: needs the key qmp, since there is no [libvirt]",
                vm.id
            ));
        }
        if raw.vm.iter().filter(|other| other.id == vm.id).count() > 1 {
            mistakes.0.push(format!("vm {} is listed twice", vm.id));
        }
    }
}

fn site_of(raw: &RawConfig) -> Site {
    let network = |network: &RawNetwork| Network {
        name: network.name.clone(),
        subnets: network.subnets.clone(),
        mtu: network.mtu,
    };
    Site {
        networks: raw
            .network
            .iter()
            .map(|raw| (raw.name.clone(), network(raw)))
            .collect(),
        classes: raw
            .class
            .iter()
            .map(|raw| (raw.name.clone(), class_of(raw)))
            .collect(),
        class_of: raw
            .vm
            .iter()
            .filter_map(|vm| Some((vm.id.clone(), vm.class.clone()?)))
            .collect(),
        default_class: raw.default_class.clone(),
        tenant_of: raw
            .vm
            .iter()
            .filter_map(|vm| Some((vm.id.clone(), vm.tenant.clone()?)))
            .collect(),
        quota: raw.quota.clone(),
    }
}

fn class_of(raw: &RawClass) -> VmClass {
    VmClass {
        name: raw.name.clone(),
        max_nics: raw.max_nics,
        max_addresses_per_nic: raw.max_addresses_per_nic,
        max_queues: raw.max_queues,
        rates: RateLimits {
            inbound: RateLimit {
                bandwidth: raw.bandwidth_in_bits,
                packets: raw.packets_in,
            },
            outbound: RateLimit {
                bandwidth: raw.bandwidth_out_bits,
                packets: raw.packets_out,
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, Mistakes> {
        check(toml::from_str(text).unwrap())
    }

    const LIBVIRT: &str = "[libvirt]\nuri = \"qemu:///system\"";

    #[cfg(not(feature = "libvirt"))]
    #[test]
    fn libvirt_is_refused_where_it_was_left_out() {
        let mistakes = parse(LIBVIRT).unwrap_err().to_string();

        assert!(
            mistakes.contains("without the feature libvirt"),
            "{mistakes}"
        );
    }

    #[cfg(feature = "libvirt")]
    #[test]
    fn a_small_file_gets_the_documented_defaults() {
        let config = parse(LIBVIRT).unwrap();

        assert_eq!(config.socket_mode, 0o600);
        assert_eq!(config.socket, Path::new(DEFAULT_SOCKET));
    }

    #[test]
    fn a_time_of_more_than_a_week_is_refused_by_its_name() {
        for name in ["attach_seconds", "release_seconds", "quarantine_seconds"] {
            for (seconds, is_taken) in [(604_800, true), (604_801, false), (u64::MAX / 2, false)] {
                let taken = parse(&format!("[timeouts]\n{name} = {seconds}"));

                let mistakes = taken.err().map(|it| it.to_string()).unwrap_or_default();
                assert_eq!(
                    mistakes.contains(name),
                    !is_taken,
                    "{name} = {seconds}: {mistakes}"
                );
            }
        }
    }

    #[test]
    fn all_mistakes_are_reported_together() {
        let mistakes = parse(
            "default_class = \"big\"\n\
             [[network]]\nname = \"blue\"\nkind = \"bridge\"\nsubnets = [\"10.0.0.1/24\"]\n\
             [[network]]\nname = \"red\"\nkind = \"tap\"\nsubnets = [\"10.0.0.1/24\"]\n\
             [[network]]\nname = \"pair\"\nkind = \"tap\"\ndevice = \"veth\"\n\
             [[vm]]\nid = \"vm1\"\nclass = \"tiny\"\n",
        )
        .unwrap_err()
        .to_string();

        for part in [
            "default_class big",
            "needs the key bridge",
            "host bits",
            "no device \"veth\"",
            "class tiny",
            "key qmp",
        ] {
            assert!(mistakes.contains(part), "{part}: {mistakes}");
        }
    }

    #[test]
    fn an_unknown_key_is_a_mistake() {
        let error = toml::from_str::<RawConfig>("sokcet = \"/x\"").unwrap_err();

        assert!(error.to_string().contains("sokcet"), "{error}");
    }
}
