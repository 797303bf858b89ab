//! Ways to break a guest from inside, each with its way back.

use anyhow::Result;
use nic_model::HotplugMode;

use super::Guest;

impl Guest {
    /// Takes away what answers an unplug, and leaves everything else as it is: devices stay, new
    /// ones are not noticed either. By ACPI it is the event of the hot-plug controller (`_E01`,
    /// QEMU's docs/specs/acpi_pci_hotplug), natively the port driver `pciehp`.
    ///
    /// # Errors
    /// When the guest does not let itself be broken.
    pub async fn ignore_hotplug(&self, mode: HotplugMode) -> Result<()> {
        self.succeed(match mode {
            HotplugMode::Acpi => "echo disable >/sys/firmware/acpi/interrupts/gpe01",
            HotplugMode::Native => {
                "mkdir -p /run/unbound; cd /sys/bus/pci_express/drivers/pciehp; \
                 for port in *:pcie*; do echo $port >unbind && touch /run/unbound/$port; done"
            }
        })
        .await
        .map(drop)
    }

    /// Ends [`Self::ignore_hotplug`].
    ///
    /// # Errors
    /// When the guest does not recover.
    pub async fn heed_hotplug(&self, mode: HotplugMode) -> Result<()> {
        self.succeed(match mode {
            HotplugMode::Acpi => "echo enable >/sys/firmware/acpi/interrupts/gpe01",
            HotplugMode::Native => {
                "cd /sys/bus/pci_express/drivers/pciehp; \
                 for port in $(ls /run/unbound); do echo $port >bind; done; rm -r /run/unbound"
            }
        })
        .await
        .map(drop)
    }
}
