//! Which network backends exist, out of the human monitor's `info network`.
//!
//! QMP has no query for backends: QEMU 7.2 to 10 know no `query-netdev`, `query-rx-filter` lists
//! devices only, and backends are no QOM objects. Probing with `netdev_del` would destroy what it
//! finds. What is left is `info network` (`hmp_info_network` and `print_net_client` in QEMU's
//! `net/net.c`), which prints one line a queue (seen with 7.2.22):
//!
//! ```text
//! hostua-nic-b: index=0,type=tap,fd=12          a backend without a device
//! ua-nic-a: index=0,type=nic,model=…,macaddr=…  a device
//!  \ hostua-nic-a: index=0,type=tap,fd=11       and its backend
//! ```
//!
//! A backend that was removed from under its device stays in the device's second line for as long
//! as the device does (`qemu_del_net_client` in `net/net.c`): it counts as present, and goes with
//! it.
//!
//! Only names and types are taken from it. The MAC in a device's line is the guest's to change
//! (`virtio_net_handle_mac` in QEMU's `hw/net/virtio-net.c`), so it is read elsewhere.

use std::collections::BTreeSet;

use nic_model::NicId;

/// Those of our NICs that have a backend in `text`.
pub(crate) fn backends(text: &str) -> BTreeSet<NicId> {
    text.lines().filter_map(backend).collect()
}

fn backend(line: &str) -> Option<NicId> {
    let line = line.strip_prefix(" \\ ").unwrap_or(line);
    let (name, description) = line.split_once(": ")?;
    if description.contains(",type=nic,") {
        return None;
    }
    NicId::from_netdev_id(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As QEMU 7.2.22 prints it: a backend of two queues without a device, a device with its
    /// backend, a foreign pair, and a device that bears a backend's name.
    const TEXT: &str = concat!(
        "hostua-nic-bbbbbbbbbb: index=0,type=tap,fd=12\r\n",
        "hostua-nic-bbbbbbbbbb: index=1,type=tap,fd=13\r\n",
        "ua-nic-aaaaaaaaaa: index=0,type=nic,model=virtio-net-pci,macaddr=5a:00:00:00:00:01\r\n",
        " \\ hostua-nic-aaaaaaaaaa: index=0,type=tap,fd=11\r\n",
        "net0: index=0,type=nic,model=e1000,macaddr=52:54:00:12:34:56\r\n",
        " \\ user0: index=0,type=user,net=10.0.2.0,restrict=off\r\n",
        "hostua-nic-cccccccccc: index=0,type=nic,model=e1000,macaddr=52:54:00:12:34:57\r\n",
    );

    #[test]
    fn our_backends_are_found_with_and_without_a_device() {
        let found: Vec<String> = backends(TEXT).iter().map(ToString::to_string).collect();

        assert_eq!(found, ["nic-aaaaaaaaaa", "nic-bbbbbbbbbb"]);
    }

    #[test]
    fn text_of_another_form_holds_no_backends() {
        for text in ["", "hostua-nic-aaaaaaaaaa", ": :\n \\ \n", "\u{0}: index=0"] {
            assert!(backends(text).is_empty(), "{text:?}");
        }
    }
}
