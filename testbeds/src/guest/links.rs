//! Reading a guest's links, namespace by namespace.

use std::fmt;

use anyhow::{Context, Result};
use nic_model::{IpNet, MacAddr};
use serde::Deserialize;

use super::Guest;

/// A network namespace of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Where {
    /// The guest's own.
    Guest,
    /// The one a process is in.
    Process(u32),
    /// The one of a name under `/run/netns`.
    Named(String),
}

impl fmt::Display for Where {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Guest => write!(f, "the guest's own namespace"),
            Self::Process(pid) => write!(f, "the namespace of process {pid}"),
            Self::Named(name) => write!(f, "the namespace {name}"),
        }
    }
}

impl Where {
    /// A script that runs `script` there.
    pub(super) fn wrap(&self, script: &str) -> String {
        let file = match self {
            Self::Guest => return script.to_owned(),
            Self::Process(pid) => format!("/proc/{pid}/ns/net"),
            Self::Named(name) => format!("/run/netns/{name}"),
        };
        let quoted = script.replace('\'', "'\\''");
        format!("nsenter --net={file} sh -c 'ip() {{ /sbin/ip \"$@\"; }}; {quoted}'")
    }
}

/// A link as `ip` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestLink {
    /// Its name.
    pub name: String,
    /// Its address; none for links that have no Ethernet header.
    pub mac: Option<MacAddr>,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub admin: Admin,
    /// Its addresses, link-local ones left out.
    pub addresses: Vec<IpNet>,
}

/// Whether a link is switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admin {
    /// It is.
    Up,
    /// It is not.
    Down,
}

/// One element of `ip -j address`.
#[derive(Debug, Deserialize)]
struct RawLink {
    ifname: String,
    mtu: u32,
    flags: Vec<String>,
    address: Option<String>,
    #[serde(default)]
    addr_info: Vec<RawAddress>,
}

#[derive(Debug, Deserialize)]
struct RawAddress {
    local: Option<String>,
    prefixlen: Option<u8>,
    scope: Option<String>,
}

impl Guest {
    /// Every link at `place` but the loopback, with its addresses.
    ///
    /// # Errors
    /// When the namespace does not exist or the guest does not answer.
    pub async fn links(&self, place: &Where) -> Result<Vec<GuestLink>> {
        let listing = self.succeed(&place.wrap("ip -j address")).await?;
        parse(&listing).with_context(|| format!("reading the links of {place}"))
    }

    /// Every name under `/run/netns`.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub async fn netns_names(&self) -> Result<Vec<String>> {
        let listing = self.succeed("ls /run/netns").await?;
        Ok(listing.split_whitespace().map(str::to_owned).collect())
    }

    /// Every PCI network device's link name by MAC, in all namespaces that have a name or a
    /// process: nothing plugged in can hide from it.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub async fn virtio_nics(&self) -> Result<Vec<String>> {
        let listing = self
            .succeed("for d in /sys/bus/virtio/drivers/virtio_net/virtio*; do readlink -f $d; done")
            .await?;
        Ok(listing
            .lines()
            .filter(|line| line.contains("/pci"))
            .map(str::to_owned)
            .collect())
    }
}

fn parse(listing: &str) -> Result<Vec<GuestLink>> {
    // `ip -j` prints nothing at all for an empty answer.
    let listing = if listing.trim().is_empty() {
        "[]"
    } else {
        listing
    };
    let raw: Vec<RawLink> = serde_json::from_str(listing)?;
    raw.into_iter()
        .filter(|link| link.ifname != "lo")
        .map(GuestLink::try_from)
        .collect()
}

impl TryFrom<RawLink> for GuestLink {
    type Error = anyhow::Error;

    fn try_from(raw: RawLink) -> Result<Self> {
        let mut addresses = Vec::new();
        for address in raw.addr_info {
            if address.scope.as_deref() != Some("link")
                && let (Some(local), Some(prefix)) = (address.local, address.prefixlen)
            {
                addresses.push(IpNet::new(local.parse()?, prefix)?);
            }
        }
        let up = raw.flags.iter().any(|flag| flag == "UP");
        Ok(Self {
            name: raw.ifname,
            mac: raw.address.and_then(|mac| mac.parse().ok()),
            mtu: raw.mtu,
            admin: if up { Admin::Up } else { Admin::Down },
            addresses,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_read_from_iproute2s_json() {
        let listing = r#"[{"ifname":"lo","mtu":65536,"flags":["UP"],"addr_info":[]},
            {"ifname":"eth0","mtu":1400,"flags":["BROADCAST","UP"],"address":"5a:00:00:00:00:01",
             "addr_info":[{"family":"inet","local":"10.77.0.5","prefixlen":24,"scope":"global"},
                          {"family":"inet6","local":"fe80::1","prefixlen":64,"scope":"link"}]}]"#;

        let links = parse(listing).unwrap();

        let expected = GuestLink {
            name: "eth0".to_owned(),
            mac: Some("5a:00:00:00:00:01".parse().unwrap()),
            mtu: 1400,
            admin: Admin::Up,
            addresses: vec!["10.77.0.5/24".parse().unwrap()],
        };
        assert_eq!(links, [expected]);
    }

    #[test]
    fn a_script_with_quotes_survives_being_wrapped() {
        let wrapped = Where::Process(7).wrap("echo 'a b'");

        assert!(
            wrapped.starts_with("nsenter --net=/proc/7/ns/net sh -c '"),
            "{wrapped}"
        );
        assert!(wrapped.ends_with("echo '\\''a b'\\'''"), "{wrapped}");
    }
}
