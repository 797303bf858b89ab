//! What really is in QEMU and in the guests, read with nobody's help: no code of
//! hostd's, no record of its journal.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use nic_model::{NicId, PciPath, VmId};
use serde_json::{Value, json};

use crate::guest::{Guest, GuestLink, Where};
use crate::world::World;

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
    pub(crate) async fn by_monitor(world: &dyn World, vm: &VmId) -> Result<Self> {
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
    /// Links in the guest's own namespace, the loopback left out.
    pub own_links: Vec<GuestLink>,
    /// Where it has virtio NICs, in whatever namespace; absent where links have no devices.
    pub virtio_nics: Option<BTreeSet<PciPath>>,
    /// Namespaces with a name, with the links in each.
    pub named: BTreeMap<String, Vec<GuestLink>>,
}

impl GuestState {
    /// Reads it.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub async fn of(guest: &dyn Guest) -> Result<Self> {
        let mut named = BTreeMap::new();
        for name in guest.netns_names().await? {
            let links = guest.links(&Where::Named(name.clone())).await?;
            named.insert(name, links);
        }
        Ok(Self {
            own_links: guest.links(&Where::Guest).await?,
            virtio_nics: guest.virtio_nics().await?,
            named,
        })
    }
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
