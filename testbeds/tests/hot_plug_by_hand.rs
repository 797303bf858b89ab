//! The worlds themselves: a NIC plugged by hand, without hostd and without the agent, becomes a
//! link of the guest, and leaves it again unless the guest has been told to ignore that.
//!
//! What scenarios show of hostd rests on this.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nic_model::{HotplugMode, VmId};
use serde_json::json;
use testbeds::guest::{Guest, Where};
use testbeds::host::Planted;
use testbeds::site::{BRIDGE, Foundation, HOST_V4};
use testbeds::vm::{AgentStart, VmOptions};
use testbeds::world::{World, WorldKind};
use tokio::sync::OnceCell;

const BOOT_DEADLINE: Duration = Duration::from_secs(120);
/// By ACPI a guest answers within tens of milliseconds, natively after six seconds.
const HOTPLUG_DEADLINE: Duration = Duration::from_secs(60);
const TAP: &str = "hand0";
const DEVICE: &str = "hand";
const MAC: &str = "5a:00:00:00:00:42";

async fn foundation() -> Result<Arc<Foundation>> {
    static FOUNDATION: OnceCell<Arc<Foundation>> = OnceCell::const_new();
    let foundation = FOUNDATION
        .get_or_try_init(|| async { Foundation::lay() })
        .await?;
    Ok(Arc::clone(foundation))
}

/// A world with one VM that has no agent running.
struct Stage {
    guest: Box<dyn Guest>,
    vm: VmId,
    world: Box<dyn World>,
}

impl Stage {
    async fn set(kind: WorldKind, hotplug: HotplugMode) -> Result<Self> {
        let world = kind.make(foundation().await?).await?;
        let options = VmOptions {
            hotplug,
            agent: AgentStart::Never,
            ..VmOptions::named("vm1")?
        };
        let guest = world.boot(&options).await?;
        guest.ready(BOOT_DEADLINE).await?;
        let vm = options.id;
        Ok(Self { guest, vm, world })
    }

    async fn plug(&self) -> Result<()> {
        let host = self.world.host();
        host.plant(TAP, Planted::TapInNetwork).await?;
        let netdev = json!({ "type": "tap", "id": "hostdev", "ifname": TAP,
            "script": "no", "downscript": "no", "vhost": false });
        self.world.monitor(&self.vm, "netdev_add", netdev).await?;
        let device = json!({ "driver": "virtio-net-pci", "id": DEVICE, "netdev": "hostdev",
            "mac": MAC, "bus": self.root_port().await? });
        self.world.monitor(&self.vm, "device_add", device).await?;
        Ok(())
    }

    /// The first root port, by the name the world gave it.
    async fn root_port(&self) -> Result<String> {
        let path = json!({ "path": "/machine/peripheral" });
        let listed = self.world.monitor(&self.vm, "qom-list", path).await?;
        let ports = listed.as_array().context("qom-list gives a list")?.iter();
        let names = ports
            .filter(|entry| entry["type"] == "child<pcie-root-port>")
            .filter_map(|entry| entry["name"].as_str());
        // libvirt calls them pci.1 to pci.10 and may use the first few itself.
        Ok(names.max().context("the VM has root ports")?.to_owned())
    }

    async fn link_appears(&self) -> Result<()> {
        let script = format!(
            "until grep -ls {MAC} /sys/class/net/*/address; do usleep 5000; done; \
             name=$(basename $(dirname $(grep -ls {MAC} /sys/class/net/*/address))); \
             ip link set $name name {DEVICE}"
        );
        let output = self
            .guest
            .shell()?
            .run_for(&script, HOTPLUG_DEADLINE)
            .await?;
        anyhow::ensure!(output.status == 0, "no link appeared: {output:?}");
        Ok(())
    }

    async fn unplug(&self) -> Result<()> {
        let device = json!({ "id": DEVICE });
        self.world
            .monitor(&self.vm, "device_del", device)
            .await
            .map(drop)
    }

    async fn is_plugged(&self) -> Result<bool> {
        let state = self.world.qemu(&self.vm).await?;
        Ok(state.devices.contains(DEVICE))
    }

    async fn device_leaves(&self) -> Result<()> {
        let give_up_at = Instant::now() + HOTPLUG_DEADLINE;
        while self.is_plugged().await? {
            anyhow::ensure!(Instant::now() < give_up_at, "the device stays");
            // tidy: sleep because the world's own monitor connection drops events.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

async fn a_plugged_nic_carries_packets_and_leaves(
    kind: WorldKind,
    hotplug: HotplugMode,
) -> Result<()> {
    let stage = Stage::set(kind, hotplug).await?;
    stage.plug().await?;
    stage.link_appears().await?;
    let configure = format!("ip address add 10.77.0.9/24 dev {DEVICE}; ip link set {DEVICE} up");
    stage.guest.shell()?.succeed(&configure).await?;

    stage
        .guest
        .ping(&Where::Guest, HOST_V4.into(), HOTPLUG_DEADLINE)
        .await?;
    let nics_while_plugged = stage.guest.virtio_nics().await?;
    stage.unplug().await?;
    stage.device_leaves().await?;

    assert_eq!(nics_while_plugged.map(|nics| nics.len()), Some(1));
    assert_eq!(stage.guest.virtio_nics().await?, Some(BTreeSet::new()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn qemu_guest_takes_and_releases_a_nic_by_acpi() -> Result<()> {
    a_plugged_nic_carries_packets_and_leaves(WorldKind::Qemu, HotplugMode::Acpi).await
}

#[tokio::test(flavor = "multi_thread")]
async fn qemu_guest_takes_and_releases_a_nic_natively() -> Result<()> {
    a_plugged_nic_carries_packets_and_leaves(WorldKind::Qemu, HotplugMode::Native).await
}

#[tokio::test(flavor = "multi_thread")]
async fn libvirt_guest_takes_and_releases_a_nic_by_acpi() -> Result<()> {
    a_plugged_nic_carries_packets_and_leaves(WorldKind::Libvirt, HotplugMode::Acpi).await
}

#[tokio::test(flavor = "multi_thread")]
async fn libvirt_guest_takes_and_releases_a_nic_natively() -> Result<()> {
    a_plugged_nic_carries_packets_and_leaves(WorldKind::Libvirt, HotplugMode::Native).await
}

/// A VM with a NIC that it was asked to release while it ignored that, still having it.
async fn ignored_unplug(hotplug: HotplugMode) -> Result<Stage> {
    let stage = Stage::set(WorldKind::Qemu, hotplug).await?;
    stage.plug().await?;
    stage.link_appears().await?;
    stage.guest.ignore_hotplug(hotplug).await?;
    stage.unplug().await?;
    // A guest that does answer by ACPI has released its device within two of these round trips.
    for _ in 0..5 {
        stage.guest.shell()?.succeed("true").await?;
    }
    anyhow::ensure!(
        stage.is_plugged().await?,
        "the guest has not ignored the unplug"
    );
    Ok(stage)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_without_its_acpi_event_keeps_its_nic_until_asked_again() -> Result<()> {
    let stage = ignored_unplug(HotplugMode::Acpi).await?;

    // Linux drops what happened while the event was off (`acpi_ev_enable_gpe` clears it).
    stage.guest.heed_hotplug(HotplugMode::Acpi).await?;
    stage.unplug().await?;

    stage.device_leaves().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_without_its_port_driver_keeps_its_nic() -> Result<()> {
    ignored_unplug(HotplugMode::Native).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_world_leaves_nothing_on_the_machine() -> Result<()> {
    let world = WorldKind::Qemu.make(foundation().await?).await?;
    let _guest = world.boot(&VmOptions::named("vm1")?).await?;
    let bare = world.host().state().await?;
    let (name, directory) = {
        let netns = &world.host().site()?.netns;
        (netns.name().to_owned(), netns.directory().to_owned())
    };
    assert!(bare.links.contains_key(BRIDGE) && directory.join("vm1.console").exists());

    drop(world);

    assert!(!directory.exists());
    assert!(!Path::new("/run/netns").join(name).exists());
    Ok(())
}
