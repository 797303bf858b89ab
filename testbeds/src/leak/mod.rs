//! The leak check: everything that exists must have an owner that hostd's API knows, and every NIC
//! that is in use must really be there.
//!
//! ```text
//!   hostd's API ─► NICs ─┬─► links, bridge ports, qdiscs of the host
//!                        ├─► rows and claims of hostd's journal, read from its file
//!                        ├─► devices, backends, libvirt's XML of each VM
//!                        └─► virtio NICs, links in its own and in named namespaces of each guest
//! ```
//!
//! An operation is answered when what it is about is done, and puts things away for a moment after
//! that; so [`at_rest`] looks until nothing is found, for a while that is shorter than hostd's
//! quarantine: what only the quarantine takes away has leaked.

mod journal;
mod records;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use host_api::{Nic, NicState};
use nic_model::NicId;

use crate::bed::{Bed, Vm};
use crate::inspection::{GuestState, HostState, QemuState};
use crate::site::BRIDGE;

pub use journal::{JournalClaim, JournalRow, JournalState};

/// How long hostd may go on putting things away. Half of [`crate::hostd::QUARANTINE`].
const DEADLINE: Duration = Duration::from_secs(10);
/// Between two looks; each takes longer than that itself.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Prefix of the agent's own named namespaces in the guest.
const AGENT_NETNS_PREFIX: &str = "nicferry";

/// One thing that should not be, or is missing: a sentence.
pub type Finding = String;

/// Everything that is wrong with a bed and stays so.
///
/// # Errors
/// When something cannot be looked at.
pub async fn at_rest(bed: &Bed) -> Result<Vec<Finding>> {
    let give_up_at = tokio::time::Instant::now() + DEADLINE;
    loop {
        let findings = findings(bed).await?;
        if findings.is_empty() || tokio::time::Instant::now() >= give_up_at {
            return Ok(findings);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Everything that is wrong with a bed now.
///
/// # Errors
/// When something cannot be looked at.
pub async fn findings(bed: &Bed) -> Result<Vec<Finding>> {
    let client = bed.client();
    let nics = client.nics().await?.nics;
    let nics: BTreeMap<NicId, Nic> = nics.into_iter().map(|nic| (nic.id.clone(), nic)).collect();
    let host = HostState::of(bed.site()).await?;
    let mut findings = on_host(&nics, &host, bed.bare_host());
    let limits = client.limits().await?.limits;
    let told = records::Told {
        nics: &nics,
        limits: &limits,
    };
    let journal = JournalState::of(bed.hostd().journal()).await?;
    findings.extend(records::in_journal(told, &journal));
    for vm in bed.running_vms().await {
        findings.extend(in_vm(&nics, bed, &vm).await?);
    }
    Ok(findings)
}

fn on_host(nics: &BTreeMap<NicId, Nic>, host: &HostState, bare: &HostState) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (link, master) in &host.links {
        if bare.links.contains_key(link) {
            let expected = bare.qdiscs.get(link);
            if host.qdiscs.get(link) != expected {
                findings.push(format!("host: the qdiscs of {link} are not what they were"));
            }
            continue;
        }
        let owner = NicId::from_link_name(link).and_then(|nic| nics.get(&nic));
        match owner {
            Some(nic) if nic.placement.is_some() => {}
            Some(nic) => findings.push(format!("host: {link} is there, {} is nowhere", nic.id)),
            None => findings.push(format!("host: {link} (in {master:?}) has no owner")),
        }
    }
    let in_use = nics.values().filter(|nic| nic.state == NicState::InUse);
    for nic in in_use {
        if host.links.get(&nic.id.tap_name()) != Some(&Some(BRIDGE.to_owned())) {
            findings.push(format!(
                "host: {} is in use without a port in {BRIDGE}",
                nic.id
            ));
        }
    }
    findings
}

async fn in_vm(nics: &BTreeMap<NicId, Nic>, bed: &Bed, vm: &Vm) -> Result<Vec<Finding>> {
    let placed: BTreeMap<&NicId, &Nic> = nics
        .iter()
        .filter(|(_, nic)| {
            nic.placement
                .as_ref()
                .is_some_and(|place| place.vm == vm.id)
        })
        .collect();
    let qemu = QemuState::of(bed.world(), &vm.id).await?;
    let guest = GuestState::of(&vm.guest).await?;
    let mut findings = in_qemu(&placed, &qemu);
    findings.extend(in_guest(&placed, &guest));
    let at = |finding: Finding| format!("{}: {finding}", vm.id);
    Ok(findings.into_iter().map(at).collect())
}

fn in_qemu(placed: &BTreeMap<&NicId, &Nic>, qemu: &QemuState) -> Vec<Finding> {
    let mut findings = Vec::new();
    let owned = |id: &Option<NicId>| id.as_ref().is_some_and(|nic| placed.contains_key(nic));
    for device in qemu.devices.union(&qemu.defined) {
        if !owned(&NicId::from_device_id(device)) {
            findings.push(format!("the device {device} has no owner"));
        }
    }
    for netdev in &qemu.netdevs {
        if !owned(&NicId::from_netdev_id(netdev)) {
            findings.push(format!("the backend {netdev} has no owner"));
        }
    }
    for (nic, record) in placed {
        if record.state == NicState::InUse && !qemu.has(nic) {
            findings.push(format!("{nic} is in use, but QEMU does not have it"));
        }
    }
    findings
}

fn in_guest(placed: &BTreeMap<&NicId, &Nic>, guest: &GuestState) -> Vec<Finding> {
    let mut findings = Vec::new();
    // sysfs: …/pci0000:00/0000:00:10.0/0000:01:00.0/virtio4. The path without bus numbers is what
    // hostd calls the PCI path.
    let paths: BTreeSet<String> = placed
        .values()
        .filter_map(|nic| nic.placement.as_ref())
        .map(|place| place.pci_path.to_string())
        .collect();
    for nic in &guest.virtio_nics {
        if !pci_path(nic).is_some_and(|path| paths.contains(&path)) {
            findings.push(format!("the guest's device {nic} has no owner"));
        }
    }
    if !guest.own_links.is_empty() {
        findings.push(format!(
            "links in the guest's own namespace: {:?}",
            guest.own_links
        ));
    }
    for (name, links) in &guest.named {
        if !name.starts_with(AGENT_NETNS_PREFIX) {
            findings.push(format!(
                "the namespace {name} is left, with links {links:?}"
            ));
        } else if placed.is_empty() && !links.is_empty() {
            findings.push(format!("links nobody owns in {name}: {links:?}"));
        }
    }
    findings
}

/// `0000:00:10.0/0000:01:00.0` in a sysfs path is `10.0/00.0`.
fn pci_path(sysfs: &str) -> Option<String> {
    let (_, below_root) = sysfs.split_once("/pci0000:00/")?;
    let slots = below_root
        .split('/')
        .filter(|part| part.len() == "0000:00:10.0".len());
    let paths: Vec<&str> = slots.filter_map(|slot| slot.rsplit(':').next()).collect();
    Some(paths.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_without_a_record_is_a_leak() {
        let bare = HostState {
            links: [("lo".to_owned(), None)].into(),
            qdiscs: BTreeMap::new(),
        };
        let mut host = bare.clone();
        host.links.insert("nf-abc0123xyz".to_owned(), None);

        let findings = on_host(&BTreeMap::new(), &host, &bare);

        assert_eq!(findings, ["host: nf-abc0123xyz (in None) has no owner"]);
    }

    #[test]
    fn a_qdisc_that_appeared_on_a_link_of_the_hosts_is_a_leak() {
        let bare = HostState {
            links: [("br-blue".to_owned(), None)].into(),
            qdiscs: BTreeMap::new(),
        };
        let mut host = bare.clone();
        host.qdiscs
            .insert("br-blue".to_owned(), ["tbf 1:".to_owned()].into());

        let findings = on_host(&BTreeMap::new(), &host, &bare);

        assert_eq!(
            findings,
            ["host: the qdiscs of br-blue are not what they were"]
        );
    }

    #[test]
    fn devices_and_backends_without_a_record_are_leaks() {
        let qemu = QemuState {
            devices: ["ua-nic-abc0123xyz".to_owned()].into(),
            netdevs: ["hostua-nic-abc0123xyz".to_owned()].into(),
            defined: BTreeSet::new(),
        };

        assert_eq!(in_qemu(&BTreeMap::new(), &qemu).len(), 2);
    }

    #[test]
    fn a_guest_is_clean_with_nothing_but_the_agents_empty_namespace() {
        let mut guest = GuestState {
            own_links: BTreeSet::new(),
            virtio_nics: BTreeSet::new(),
            named: [("nicferry-holding".to_owned(), BTreeSet::new())].into(),
        };
        assert_eq!(in_guest(&BTreeMap::new(), &guest), Vec::<Finding>::new());

        guest.named.insert("blue".to_owned(), BTreeSet::new());
        assert_eq!(in_guest(&BTreeMap::new(), &guest).len(), 1);
    }

    #[test]
    fn a_sysfs_path_leads_to_the_pci_path_that_hostd_tells() {
        let sysfs = "/sys/devices/pci0000:00/0000:00:10.1/0000:02:00.0/virtio4";

        assert_eq!(pci_path(sysfs).unwrap(), "10.1/00.0");
    }
}
