//! A host of the machine's own kernel, read and changed with iproute2.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use async_trait::async_trait;
use nic_model::{IpNet, MacAddr};
use serde::Deserialize;
use tokio::process::Command;

use super::dhcp::Dnsmasq;
use super::{DhcpServer, Host, HostState, Planted};
use crate::command;
use crate::site::{BRIDGE, Site};

/// Longest time for one command; a report must come to an end on a broken machine too.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(15);

/// One element of `ip -j link`.
#[derive(Debug, Deserialize)]
struct RawLink {
    ifname: String,
    master: Option<String>,
}

/// One element of `tc -j qdisc`.
#[derive(Debug, Deserialize)]
struct RawQdisc {
    kind: String,
    dev: String,
    handle: String,
}

/// One element of `bridge -j fdb show`.
#[derive(Debug, Deserialize)]
struct RawNeighbour {
    mac: String,
}

#[async_trait(?Send)]
impl Host for Site {
    async fn state(&self) -> Result<HostState> {
        let links: Vec<RawLink> = listed(&self.netns.run("ip -j link").await?)?;
        let qdiscs: Vec<RawQdisc> = listed(&self.netns.run("tc -j qdisc").await?)?;
        let mut by_link: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for qdisc in qdiscs {
            let name = format!("{} {}", qdisc.kind, qdisc.handle);
            by_link.entry(qdisc.dev).or_default().insert(name);
        }
        let links = links.into_iter().map(|link| (link.ifname, link.master));
        Ok(HostState {
            links: links.collect(),
            qdiscs: by_link,
        })
    }

    async fn ipv6_addresses(&self, link: &str) -> Result<Vec<IpNet>> {
        let show = format!("-6 -brief address show dev {link}");
        let listing = self.netns.ip(&show).await?;
        // Name and state come first.
        let addresses = listing.split_whitespace().skip(2);
        Ok(addresses.map(str::parse).collect::<Result<_, _>>()?)
    }

    async fn learned(&self, port: &str) -> Result<BTreeSet<MacAddr>> {
        let listing = format!("bridge -j fdb show br {BRIDGE} dev {port}");
        let listing: Vec<RawNeighbour> = listed(&self.netns.run(&listing).await?)?;
        // Groups have entries too, which are no addresses of anybody.
        let macs = listing.iter().filter_map(|entry| entry.mac.parse().ok());
        Ok(macs.collect())
    }

    async fn plant(&self, name: &str, link: Planted) -> Result<()> {
        let make = match link {
            Planted::Bridge => format!("link add {name} type bridge"),
            Planted::LooseTap | Planted::TapInNetwork => format!("tuntap add {name} mode tap"),
        };
        self.netns.ip(&make).await?;
        if link == Planted::TapInNetwork {
            let into_network = format!("link set {name} master {BRIDGE} up");
            self.netns.ip(&into_network).await?;
        }
        Ok(())
    }

    async fn remove_planted(&self, name: &str) -> Result<()> {
        self.netns.ip(&format!("link del {name}")).await.map(drop)
    }

    async fn disturb_bridge(&self) -> Result<()> {
        let add = format!("tc qdisc add dev {BRIDGE} root pfifo");
        self.netns.run(&add).await.map(drop)
    }

    async fn restore_bridge(&self) -> Result<()> {
        let delete = format!("tc qdisc del dev {BRIDGE} root");
        self.netns.run(&delete).await.map(drop)
    }

    async fn take_out_of_bridge(&self, port: &str) -> Result<()> {
        let take_out = format!("link set {port} nomaster");
        self.netns.ip(&take_out).await.map(drop)
    }

    async fn start_dhcp_server(&self) -> Result<Box<dyn DhcpServer>> {
        Ok(Box::new(Dnsmasq::start(self)?))
    }

    async fn details(&self) -> Vec<(String, Result<String>)> {
        let mut details = Vec::new();
        for line in ["ip -d link", "tc -s qdisc", "bridge link"] {
            details.push((line.to_owned(), self.netns.run(line).await));
        }
        details.push(("processes".to_owned(), processes().await));
        details
    }

    fn site(&self) -> Result<&Site> {
        Ok(self)
    }
}

async fn processes() -> Result<String> {
    let mut ps = Command::new("ps");
    ps.args(["-eo", "pid,ppid,stat,etime,args", "--sort", "pid"]);
    let all = command::succeed(&mut ps, DEADLINE).await?;
    let ours = |line: &&str| {
        [
            "qemu",
            "hostd",
            "libvirtd",
            "dnsmasq",
            "simulator",
            "guest-agent",
        ]
        .iter()
        .any(|p| line.contains(p))
    };
    let cut = |line: &str| line.chars().take(160).collect::<String>();
    Ok(all
        .lines()
        .filter(ours)
        .map(cut)
        .collect::<Vec<_>>()
        .join("\n"))
}

/// iproute2 prints nothing at all for an empty answer.
fn listed<'a, T: Deserialize<'a>>(listing: &'a str) -> Result<Vec<T>> {
    let listing = listing.trim();
    Ok(serde_json::from_str(if listing.is_empty() {
        "[]"
    } else {
        listing
    })?)
}
