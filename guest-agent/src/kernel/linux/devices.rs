//! The way from the root bus to a device, as sysfs shows it.
//!
//! The kernel names the device in every link message (`IFLA_PARENT_DEV_NAME`, Linux 5.14), whatever
//! namespace the link is in. Bus numbers are ignored: the guest assigns them.
//!
//! ```text
//!   virtio3 ──/sys/bus/virtio/devices──► …/pci0000:00/0000:00:02.0/0000:01:00.0/virtio3
//!                                                          02.0   /      00.0
//! ```

use std::fs;
use std::path::Path;

use linux_network::LinkView;
use nic_model::{PciPath, PciSlot};

const VIRTIO_DEVICES: &str = "/sys/bus/virtio/devices";
const PCI_DEVICES: &str = "/sys/bus/pci/devices";

/// Whether a device is plugged there.
pub(super) fn is_plugged(wanted: &PciPath) -> bool {
    [VIRTIO_DEVICES, PCI_DEVICES]
        .into_iter()
        .filter_map(|directory| fs::read_dir(directory).ok())
        .flatten()
        .filter_map(|entry| path_of_device(&entry.ok()?.path()))
        .any(|path| path == *wanted)
}

/// Where the device of `link` is.
pub(super) fn pci_path(link: &LinkView) -> Option<PciPath> {
    match (&link.parent_device, &link.kind) {
        (Some(device), _) if device.starts_with("virtio") => {
            path_of_device(&Path::new(VIRTIO_DEVICES).join(device))
        }
        (Some(device), _) => path_of_device(&Path::new(PCI_DEVICES).join(device)),
        // Before Linux 5.14, and only in the agent's own namespace.
        (None, None) => {
            let device = Path::new("/sys/class/net").join(&link.name).join("device");
            parse_device_path(&fs::canonicalize(device).ok()?)
        }
        (None, Some(_)) => None,
    }
}

/// Entries of a bus are symlinks to `../../../devices/pci…`.
fn path_of_device(entry: &Path) -> Option<PciPath> {
    parse_device_path(&fs::read_link(entry).ok()?)
}

/// The slots in a path below `/sys/devices`; `None` for a device on another bus.
fn parse_device_path(path: &Path) -> Option<PciPath> {
    let slots = path
        .components()
        .filter_map(|component| component.as_os_str().to_str())
        .skip_while(|name| !name.starts_with("pci"))
        .skip(1)
        .map_while(parse_slot)
        .collect();
    PciPath::new(slots).ok()
}

/// `0000:01:00.0`: domain, bus, device and function.
fn parse_slot(name: &str) -> Option<PciSlot> {
    let (domain_and_bus, slot) = name.rsplit_once(':')?;
    let (device, function) = slot.split_once('.')?;
    let number = |digits| u8::from_str_radix(digits, 16).ok();
    domain_and_bus.contains(':').then_some(())?;
    PciSlot::new(number(device)?, number(function)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_a_device_leaves_bus_numbers_out() {
        let cases = [
            (
                "/sys/devices/pci0000:00/0000:00:02.0/0000:01:00.0/virtio3",
                Some("02.0/00.0"),
            ),
            (
                "/sys/devices/pci0000:00/0000:00:1c.4/0000:07:00.0/0000:08:1f.7",
                Some("1c.4/00.0/1f.7"),
            ),
            ("/sys/devices/pci0000:00/0000:00:03.0/virtio0", Some("03.0")),
            ("/sys/devices/virtual/net/lo", None),
            ("/sys/devices/platform/a003c00.virtio_mmio/virtio1", None),
        ];
        for (path, expected) in cases {
            let found = parse_device_path(Path::new(path)).map(|path| path.to_string());

            assert_eq!(found.as_deref(), expected, "{path}");
        }
    }
}
