//! What really is on the host, in QEMU and in the guests, read with nobody's help: no code of
//! hostd's, no record of its journal.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use nic_model::{NicId, VmId};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::guest::{Guest, Where};
use crate::site::Site;
use crate::world::World;

/// Links, bridge ports and queueing disciplines of a site's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostState {
    /// Each link by name, with the bridge it is a port of.
    pub links: BTreeMap<String, Option<String>>,
    /// Queueing disciplines by the link they are on.
    pub qdiscs: BTreeMap<String, BTreeSet<String>>,
}

#[derive(Debug, Deserialize)]
struct RawLink {
    ifname: String,
    master: Option<String>,
}

#[derive(Debug, Deserialize)]
struct RawQdisc {
    kind: String,
    dev: String,
    handle: String,
}

impl HostState {
    /// Reads it.
    ///
    /// # Errors
    /// When `ip` or `tc` fails.
    pub async fn of(site: &Site) -> Result<Self> {
        let links: Vec<RawLink> = serde_json::from_str(&site.netns.run("ip -j link").await?)?;
        let qdiscs = site.netns.run("tc -j qdisc").await?;
        let qdiscs: Vec<RawQdisc> = serde_json::from_str(if qdiscs.trim().is_empty() {
            "[]"
        } else {
            &qdiscs
        })?;
        let mut by_link: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for qdisc in qdiscs {
            let name = format!("{} {}", qdisc.kind, qdisc.handle);
            by_link.entry(qdisc.dev).or_default().insert(name);
        }
        Ok(Self {
            links: links
                .into_iter()
                .map(|link| (link.ifname, link.master))
                .collect(),
            qdiscs: by_link,
        })
    }
}

/// What a VM's QEMU has of network devices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QemuState {
    /// Ids of the devices.
    pub devices: BTreeSet<String>,
    /// Ids of the network backends.
    pub netdevs: BTreeSet<String>,
    /// Aliases in the hypervisor's own definition, where there is one.
    pub defined: BTreeSet<String>,
}

impl QemuState {
    /// Reads it over the world's own monitor.
    ///
    /// # Errors
    /// When QEMU does not answer.
    pub async fn of(world: &dyn World, vm: &VmId) -> Result<Self> {
        let peripheral = json!({ "path": "/machine/peripheral" });
        let listed = world.monitor(vm, "qom-list", peripheral).await?;
        let text = info_network(world, vm).await?;
        Ok(Self {
            devices: network_devices(&listed),
            netdevs: netdevs(&text),
            defined: world.definition(vm).await?,
        })
    }

    /// Whether QEMU has anything of `nic`.
    #[must_use]
    pub fn has(&self, nic: &NicId) -> bool {
        self.devices.contains(&nic.device_id()) || self.netdevs.contains(&nic.netdev_id())
    }
}

/// QEMU's own list of network devices and backends, for people.
///
/// # Errors
/// When QEMU does not answer.
pub async fn info_network(world: &dyn World, vm: &VmId) -> Result<String> {
    let command = json!({ "command-line": "info network" });
    let text = world.monitor(vm, "human-monitor-command", command).await?;
    text.as_str()
        .map(str::to_owned)
        .context("info network is a text")
}

/// Devices of `qom-list /machine/peripheral` whose type is a network card.
fn network_devices(listed: &Value) -> BTreeSet<String> {
    let entries = listed.as_array().into_iter().flatten();
    entries
        .filter(|entry| {
            entry["type"]
                .as_str()
                .is_some_and(|kind| kind.starts_with("child<virtio-net"))
        })
        .filter_map(|entry| entry["name"].as_str())
        .map(str::to_owned)
        .collect()
}

/// Backends in `info network`: a line of its own each, or indented below its device:
/// ` \ hostua-nic-…: index=0,type=tap,ifname=…`. Devices' lines say `type=nic`.
fn netdevs(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter(|line| line.contains("type=") && !line.contains("type=nic"))
        .filter_map(|line| line.trim_start_matches([' ', '\\']).split_once(':'))
        .map(|(id, _)| id.to_owned())
        .collect()
}

/// What a guest has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestState {
    /// Names of links in the guest's own namespace, the loopback left out.
    pub own_links: BTreeSet<String>,
    /// PCI paths of its virtio NICs, in whatever namespace.
    pub virtio_nics: BTreeSet<String>,
    /// Namespaces with a name, with the names of the links in each.
    pub named: BTreeMap<String, BTreeSet<String>>,
}

impl GuestState {
    /// Reads it through the guest's shell.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub async fn of(guest: &Guest) -> Result<Self> {
        let mut named = BTreeMap::new();
        for name in guest.netns_names().await? {
            let links = link_names(guest, &Where::Named(name.clone())).await?;
            named.insert(name, links);
        }
        Ok(Self {
            own_links: link_names(guest, &Where::Guest).await?,
            virtio_nics: guest.virtio_nics().await?.into_iter().collect(),
            named,
        })
    }
}

async fn link_names(guest: &Guest, place: &Where) -> Result<BTreeSet<String>> {
    let links = guest.links(place).await?;
    Ok(links.into_iter().map(|link| link.name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_are_told_apart_from_devices() {
        // QEMU 7.2, `info network`.
        let text = "ua-nic-abc0123xyz: index=0,type=nic,model=virtio-net-pci\r\n \
            \\ hostua-nic-abc0123xyz: index=0,type=tap,fd=12\r\n\
            orphan: index=0,type=tap,ifname=nf-x,script=no\r\n";

        let expected = ["hostua-nic-abc0123xyz", "orphan"].map(str::to_owned);
        assert_eq!(netdevs(text), expected.into());
    }

    #[test]
    fn only_network_cards_count_as_network_devices() {
        let listed = json!([
            { "name": "type", "type": "string" },
            { "name": "rp1", "type": "child<pcie-root-port>" },
            { "name": "ua-nic-abc0123xyz", "type": "child<virtio-net-pci>" }
        ]);

        assert_eq!(
            network_devices(&listed),
            ["ua-nic-abc0123xyz".to_owned()].into()
        );
    }
}
