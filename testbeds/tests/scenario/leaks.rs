//! The leak check itself: a search that finds nothing shows little unless it has been seen to find
//! something. Of each kind of thing one is planted past hostd.

use anyhow::{Context, Result, ensure};
use oracle::{JournalClaim, JournalRow, JournalView};
use serde_json::json;
use testbeds::bed::{Bed, Vm};
use testbeds::guest::Where;
use testbeds::host::Planted;
use testbeds::leak;
use testbeds::requests::PATIENCE;
use testbeds::scenario::Scenario;
use testbeds::scenarios;
use testbeds::site::BRIDGE;

const TAP: &str = "nf-zzzzzzzzz1";
const BACKEND: &str = "planted";
const DEVICE: &str = "planted-device";
const NETNS: &str = "planted";

pub(crate) fn scenarios() -> Vec<Scenario> {
    scenarios![
        the_leak_check_finds_what_is_left_on_the_host,
        the_leak_check_finds_what_is_left_in_the_journal,
        the_leak_check_finds_what_is_left_in_a_vm,
    ]
}

/// Each of `expected` is a part of a finding.
async fn are_found(bed: &Bed, expected: &[&str]) -> Result<()> {
    let findings = leak::findings(bed).await?;
    for part in expected {
        ensure!(
            findings.iter().any(|finding| finding.contains(part)),
            "nothing says {part:?}: {findings:#?}"
        );
    }
    Ok(())
}

async fn the_leak_check_finds_what_is_left_on_the_host(bed: &Bed) -> Result<()> {
    let host = bed.host();
    host.plant(TAP, Planted::LooseTap).await?;
    host.disturb_bridge().await?;

    let found = are_found(
        bed,
        &[
            &format!("host: {TAP}"),
            &format!("host: the qdiscs of {BRIDGE} are not what they were"),
        ],
    )
    .await;

    host.restore_bridge().await?;
    host.remove_planted(TAP).await?;
    found
}

async fn the_leak_check_finds_what_is_left_in_the_journal(bed: &Bed) -> Result<()> {
    let planted = planted_records();
    bed.hostd().plant_records(&planted).await?;

    let found = are_found(
        bed,
        &[
            "journal: the nic row nic-zzzzzzzzz1 is of no NIC",
            "journal: slot/vm1 rp1 is held for nic nic-zzzzzzzzz2, which is no NIC",
            "journal: host: usage of max_nics_per_host is 0, the journal holds 1",
        ],
    )
    .await;

    bed.hostd().remove_records(&planted).await?;
    found
}

/// A record that hostd has never made, and claims: one of that record, one of none at all.
fn planted_records() -> JournalView {
    let nic = |number: u8| ("nic".to_owned(), format!("nic-zzzzzzzzz{number}"));
    let claim = |owner, scope: &str, value: &str| JournalClaim {
        owner,
        scope: scope.to_owned(),
        value: value.to_owned(),
    };
    let (kind, key) = nic(1);
    let body = Some(json!({}));
    JournalView {
        rows: vec![JournalRow { kind, key, body }],
        claims: [
            claim(nic(1), "mac", "5a:00:00:00:00:99"),
            claim(nic(2), "slot/vm1", "rp1"),
        ]
        .into(),
    }
}

async fn the_leak_check_finds_what_is_left_in_a_vm(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let backend = json!({ "type": "user", "id": BACKEND });
    bed.world().monitor(&vm.id, "netdev_add", backend).await?;
    let device = json!({ "driver": "virtio-net-pci", "id": DEVICE, "netdev": BACKEND,
        "bus": last_root_port(bed, &vm).await? });
    bed.world().monitor(&vm.id, "device_add", device).await?;
    until_own_links(bed, &vm, 1).await?;
    vm.guest.add_netns_name(NETNS).await?;

    let device = format!("vm1: the device {DEVICE} has no owner");
    let backend = format!("vm1: the backend {BACKEND} has no owner");
    let netns = format!("vm1: the namespace {NETNS} is left");
    let mut expected = vec![
        device.as_str(),
        &backend,
        "is in the guest's own namespace",
        &netns,
    ];
    if vm.guest.virtio_nics().await?.is_some() {
        expected.push("vm1: the guest's device");
    }
    let found = are_found(bed, &expected).await;

    vm.guest.remove_netns_name(NETNS).await?;
    let device = json!({ "id": DEVICE });
    bed.world().monitor(&vm.id, "device_del", device).await?;
    until_own_links(bed, &vm, 0).await?;
    bed.until("the backend can be removed", PATIENCE, || async {
        let backend = json!({ "id": BACKEND });
        let removed = bed.world().monitor(&vm.id, "netdev_del", backend).await;
        Ok(removed.ok())
    })
    .await?;
    found
}

pub(crate) async fn until_own_links(bed: &Bed, vm: &Vm, count: usize) -> Result<()> {
    bed.until("the guest has noticed", PATIENCE, || async {
        let own = vm.guest.links(&Where::Guest).await?;
        Ok((own.len() == count).then_some(()))
    })
    .await
}

/// The one that hostd would use last, by the name the world gave it.
pub(crate) async fn last_root_port(bed: &Bed, vm: &Vm) -> Result<String> {
    let path = json!({ "path": "/machine/peripheral" });
    let listed = bed.world().monitor(&vm.id, "qom-list", path).await?;
    let entries = listed.as_array().context("qom-list gives a list")?.iter();
    let ports = entries.filter(|entry| entry["type"] == "child<pcie-root-port>");
    let names = ports.filter_map(|entry| entry["name"].as_str());
    // rp1 … rp10, libvirt's pci.1 … pci.10: the ninth is the last by name.
    Ok(names.max().context("the VM has root ports")?.to_owned())
}
