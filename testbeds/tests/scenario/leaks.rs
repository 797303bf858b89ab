//! The leak check itself: a search that finds nothing shows little unless it has been seen to find
//! something. Of each kind of thing one is planted past hostd.

use anyhow::{Context, Result, ensure};
use rusqlite::Connection;
use serde_json::json;
use testbeds::bed::{Bed, Vm};
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
    let netns = &bed.site().netns;
    netns.ip(&format!("tuntap add {TAP} mode tap")).await?;
    netns
        .run(&format!("tc qdisc add dev {BRIDGE} root pfifo"))
        .await?;

    let found = are_found(
        bed,
        &[
            &format!("host: {TAP}"),
            &format!("host: the qdiscs of {BRIDGE} are not what they were"),
        ],
    )
    .await;

    netns
        .run(&format!("tc qdisc del dev {BRIDGE} root"))
        .await?;
    netns.ip(&format!("link del {TAP}")).await?;
    found
}

async fn the_leak_check_finds_what_is_left_in_the_journal(bed: &Bed) -> Result<()> {
    let journal = || Connection::open(bed.hostd().journal());
    journal()?.execute_batch(
        "PRAGMA foreign_keys = off;
         INSERT INTO record VALUES ('nic', 'nic-zzzzzzzzz1', '{}', 0);
         INSERT INTO claim VALUES ('mac', '5a:00:00:00:00:99', 'nic', 'nic-zzzzzzzzz1');
         INSERT INTO claim VALUES ('slot/vm1', 'rp1', 'nic', 'nic-zzzzzzzzz2');",
    )?;

    let found = are_found(
        bed,
        &[
            "journal: the nic row nic-zzzzzzzzz1 is of no NIC",
            "journal: slot/vm1 rp1 is held for nic nic-zzzzzzzzz2, which is no NIC",
            "journal: host: usage of max_nics_per_host is 0, the journal holds 1",
        ],
    )
    .await;

    // hostd would refuse to start from a row that it has not written.
    journal()?.execute_batch(
        "DELETE FROM claim WHERE key LIKE 'nic-zzzzzzzzz_';
         DELETE FROM record WHERE key LIKE 'nic-zzzzzzzzz_';",
    )?;
    found
}

async fn the_leak_check_finds_what_is_left_in_a_vm(bed: &Bed) -> Result<()> {
    let vm = bed.vm("vm1").await?;
    let backend = json!({ "type": "user", "id": BACKEND });
    bed.world().monitor(&vm.id, "netdev_add", backend).await?;
    let device = json!({ "driver": "virtio-net-pci", "id": DEVICE, "netdev": BACKEND,
        "bus": last_root_port(bed, &vm).await? });
    bed.world().monitor(&vm.id, "device_add", device).await?;
    until_links(bed, &vm, "grep -l 1af4 /sys/class/net/*/device/../vendor").await?;
    vm.guest.succeed(&format!("ip netns add {NETNS}")).await?;

    let found = are_found(
        bed,
        &[
            &format!("vm1: the device {DEVICE} has no owner"),
            &format!("vm1: the backend {BACKEND} has no owner"),
            "vm1: the guest's device",
            "is in the guest's own namespace",
            &format!("vm1: the namespace {NETNS} is left"),
        ],
    )
    .await;

    vm.guest.remove_netns_name(NETNS).await?;
    let device = json!({ "id": DEVICE });
    bed.world().monitor(&vm.id, "device_del", device).await?;
    until_links(bed, &vm, "[ -z \"$(ls /sys/class/net | grep -v ^lo$)\" ]").await?;
    bed.until("the backend can be removed", PATIENCE, || async {
        let backend = json!({ "id": BACKEND });
        let removed = bed.world().monitor(&vm.id, "netdev_del", backend).await;
        Ok(removed.ok())
    })
    .await?;
    found
}

async fn until_links(bed: &Bed, vm: &Vm, are: &str) -> Result<()> {
    bed.until("the guest has noticed", PATIENCE, || async {
        let output = vm.guest.run(are).await?;
        Ok((output.status == 0).then_some(()))
    })
    .await
}

/// The one that hostd would use last, by the name the world gave it.
async fn last_root_port(bed: &Bed, vm: &Vm) -> Result<String> {
    let path = json!({ "path": "/machine/peripheral" });
    let listed = bed.world().monitor(&vm.id, "qom-list", path).await?;
    let entries = listed.as_array().context("qom-list gives a list")?.iter();
    let ports = entries.filter(|entry| entry["type"] == "child<pcie-root-port>");
    let names = ports.filter_map(|entry| entry["name"].as_str());
    // rp1 … rp10, libvirt's pci.1 … pci.10: the ninth is the last by name.
    Ok(names.max().context("the VM has root ports")?.to_owned())
}
