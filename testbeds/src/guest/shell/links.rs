//! Reading a guest's links and routes out of what iproute2 prints.

use std::net::IpAddr;

use anyhow::{Context, Result};
use nic_model::IpNet;
use serde::Deserialize;

use crate::guest::{Admin, GuestLink, GuestRoute, Where};

/// A script that runs `script` at `place`.
pub(super) fn wrap(place: &Where, script: &str) -> String {
    let file = match place {
        Where::Guest => return script.to_owned(),
        Where::Process(pid) => format!("/proc/{pid}/ns/net"),
        Where::Named(name) => format!("/run/netns/{name}"),
    };
    let quoted = script.replace('\'', "'\\''");
    format!("nsenter --net={file} sh -c 'ip() {{ /sbin/ip \"$@\"; }}; {quoted}'")
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

/// One element of `ip -j route`.
#[derive(Debug, Deserialize)]
struct RawRoute {
    gateway: Option<IpAddr>,
}

/// The links in what `ip -j address` has printed at `place`, without the loopback.
pub(super) fn parse(listing: &str, place: &Where) -> Result<Vec<GuestLink>> {
    let raw: Result<Vec<RawLink>> = listed(listing);
    let raw = raw.with_context(|| format!("reading the links of {place}"))?;
    raw.into_iter()
        .filter(|link| link.ifname != "lo")
        .map(GuestLink::try_from)
        .collect()
}

/// The routes in what `ip -j route` has printed.
pub(super) fn parse_routes(listing: &str) -> Result<Vec<GuestRoute>> {
    let raw: Vec<RawRoute> = listed(listing)?;
    let route = |RawRoute { gateway }| GuestRoute { gateway };
    Ok(raw.into_iter().map(route).collect())
}

/// `ip -j` prints nothing at all for an empty answer.
fn listed<'a, T: Deserialize<'a>>(listing: &'a str) -> Result<Vec<T>> {
    let listing = listing.trim();
    Ok(serde_json::from_str(if listing.is_empty() {
        "[]"
    } else {
        listing
    })?)
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

        let links = parse(listing, &Where::Guest).unwrap();

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
        let wrapped = wrap(&Where::Process(7), "echo 'a b'");

        assert!(
            wrapped.starts_with("nsenter --net=/proc/7/ns/net sh -c '"),
            "{wrapped}"
        );
        assert!(wrapped.ends_with("echo '\\''a b'\\'''"), "{wrapped}");
    }
}
