//! PCI devices of a real guest, and ways to break what answers for them, each with its way back.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use nic_model::{HotplugMode, PciPath};

use super::{Hardware, SCRIPT_DEADLINE, Shell, succeed};

/// The devices of one guest.
#[derive(Debug)]
pub(super) struct PciHardware {
    shell: Arc<dyn Shell>,
}

impl PciHardware {
    pub(super) fn of(shell: Arc<dyn Shell>) -> Self {
        Self { shell }
    }
}

#[async_trait(?Send)]
impl Hardware for PciHardware {
    /// Nothing plugged in can hide from it: the driver has them all, whatever their namespace.
    async fn virtio_nics(&self) -> Result<Option<BTreeSet<PciPath>>> {
        let list = "for d in /sys/bus/virtio/drivers/virtio_net/virtio*; do readlink -f $d; done";
        let listing = succeed(self.shell.as_ref(), list).await?;
        Ok(Some(listing.lines().filter_map(pci_path).collect()))
    }

    /// The port driver binds to hot-plug ports only where the firmware leaves them to it.
    async fn hotplug_mode(&self) -> Result<HotplugMode> {
        let ports = "ls -d /sys/bus/pci_express/drivers/pciehp/*:pcie*";
        let ports = self.shell.run(ports, SCRIPT_DEADLINE).await?;
        Ok(match ports.status {
            0 => HotplugMode::Native,
            _ => HotplugMode::Acpi,
        })
    }

    /// By ACPI it is the event of the hot-plug controller (`_E01`, QEMU's
    /// docs/specs/acpi_pci_hotplug), natively the port driver `pciehp`.
    async fn ignore_hotplug(&self, mode: HotplugMode) -> Result<()> {
        let script = match mode {
            HotplugMode::Acpi => "echo disable >/sys/firmware/acpi/interrupts/gpe01",
            HotplugMode::Native => {
                "mkdir -p /run/unbound; cd /sys/bus/pci_express/drivers/pciehp; \
                 for port in *:pcie*; do echo $port >unbind && touch /run/unbound/$port; done"
            }
        };
        succeed(self.shell.as_ref(), script).await.map(drop)
    }

    async fn heed_hotplug(&self, mode: HotplugMode) -> Result<()> {
        let script = match mode {
            HotplugMode::Acpi => "echo enable >/sys/firmware/acpi/interrupts/gpe01",
            HotplugMode::Native => {
                "cd /sys/bus/pci_express/drivers/pciehp; \
                 for port in $(ls /run/unbound); do echo $port >bind; done; rm -r /run/unbound"
            }
        };
        succeed(self.shell.as_ref(), script).await.map(drop)
    }
}

/// `0000:00:10.0/0000:01:00.0` in a sysfs path is `10.0/00.0`.
fn pci_path(sysfs: &str) -> Option<PciPath> {
    let (_, below_root) = sysfs.split_once("/pci0000:00/")?;
    let slots = below_root
        .split('/')
        .filter(|part| part.len() == "0000:00:10.0".len());
    let path: Vec<&str> = slots.filter_map(|slot| slot.rsplit(':').next()).collect();
    path.join("/").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sysfs_path_leads_to_the_pci_path_that_hostd_tells() {
        let sysfs = "/sys/devices/pci0000:00/0000:00:10.1/0000:02:00.0/virtio4";

        assert_eq!(pci_path(sysfs).unwrap().to_string(), "10.1/00.0");
    }
}
