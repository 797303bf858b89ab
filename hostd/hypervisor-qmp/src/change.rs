//! What changes a VM: plug, unplug, carrier. Each may be repeated and finds what an earlier, broken
//! off run has left.
//!
//! ```text
//!   plug:    getfd … ──► netdev_add ──► device_add ──► done
//!               │            │ id taken: ours from before, closefd and go on
//!               │            │ refused: closefd         │ refused: netdev_del, if made here
//!               └ names derive from the NIC: a repeated getfd replaces what was left
//!   unplug:  device_del ─ accepted ──► Asked
//!               │        └ still busy with an earlier one ──► Pending
//!               └ no such device ──► netdev_del ──► closefd … ──► Gone
//! ```
//!
//! Nothing is looked up first: QEMU's own refusals (id taken, not found) say how things stand at
//! the moment that counts, and cost no extra round trip when all goes well. When an outcome stays
//! unknown (deadline, connection lost) nothing is undone, since undoing it could take the backend
//! from under a device that was made after all.

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::time::Duration;

use futures::future::join_all;
use hypervisor::{Carrier, Descriptor, PlugRequest, Plugged, TapAccess, Trouble, Unplugging};
use nic_model::NicId;
use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::Vhost;
use crate::client::{CommandError, Connection, ErrorClass};
use crate::commands::{
    closefd, device_add, device_del, getfd, netdev_add, netdev_del, qom_list, set_link as link,
};
use crate::qom::{NAMED, device_path};
use crate::session::{LeftBehind, Session};

/// QEMU before 6.2 keeps a device's id (its `QemuOpts`) until the last reader of its memory map is
/// through (RCU), some milliseconds after the device has left the list of devices: how often and
/// how far apart a plug right behind an unplug tries again.
const ID_RELEASE_TRIES: u32 = 10;
const ID_RELEASE_PAUSE: Duration = Duration::from_millis(5);

/// Most queues a tap has (`MAX_TAP_QUEUES` in Linux' `drivers/net/tun.c`).
const MAX_QUEUES: usize = 256;

/// What a descriptor is for, as it stands in its name.
const TAP: &str = "q";
const VHOST: &str = "v";

/// Whether a backend was there before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    Made,
    Found,
}

/// Makes the backend and the device of a NIC, or finds them.
pub(crate) async fn plug(
    session: &Session,
    vhost: Vhost,
    mut request: PlugRequest,
) -> Result<Plugged, Trouble> {
    let qemu = &session.qemu;
    let queues = std::mem::take(&mut request.tap.queues);
    session.descriptors_may_be_left(&request.nic);
    let backend = make_backend(qemu, vhost, &request, queues).await?;
    if backend == Origin::Made {
        session.no_descriptor_is_left(&request.nic);
    }
    let device = make_device(session, &request).await;
    let surplus = match &device {
        // It has been there all along, with another backend or with none.
        Ok(Plugged::Before) => true,
        Ok(Plugged::Now { .. }) => false,
        Err(error) => matches!(error, CommandError::Refused { .. }),
    };
    if surplus && backend == Origin::Made {
        remove_surplus(qemu, &request.nic).await;
    }
    device.map_err(trouble)
}

async fn remove_surplus(qemu: &Connection, nic: &NicId) {
    // The plug's own outcome matters more; what stays is found by the next inspection.
    if let Err(error) = netdev_del(qemu, &nic.netdev_id()).await {
        tracing::warn!(%nic, %error, "failed to remove a backend that has no device");
    }
}

async fn make_backend(
    qemu: &Connection,
    vhost: Vhost,
    request: &PlugRequest,
    queues: Vec<Descriptor>,
) -> Result<Origin, Trouble> {
    let count = usize::from(request.tap.queue_count);
    if count == 0 || count > MAX_QUEUES || !(queues.is_empty() || queues.len() == count) {
        let message = format!("{} descriptors do not make {count} queues", queues.len());
        return Err(Trouble::Refused { message });
    }
    let made = match request.tap.access {
        TapAccess::Descriptors => pass_backend(qemu, vhost, request, queues).await,
        TapAccess::Name => netdev_add(qemu, named_backend(request)).await,
    };
    let Err(error) = made else {
        return Ok(Origin::Made);
    };
    if matches!(error, CommandError::Refused { .. }) {
        close_descriptors(qemu, &request.nic, count).await;
    }
    match error.says("Duplicate ID") {
        true => Ok(Origin::Found),
        false => Err(trouble(error)),
    }
}

async fn pass_backend(
    qemu: &Connection,
    vhost: Vhost,
    request: &PlugRequest,
    queues: Vec<Descriptor>,
) -> Result<(), CommandError> {
    let count = usize::from(request.tap.queue_count);
    let descriptors = Descriptors {
        taps: names(&request.nic, TAP, count),
        vhosts: open_vhosts(vhost, count),
        nic: request.nic.clone(),
    };
    let arguments = descriptors.netdev_arguments();
    descriptors.pass(qemu, queues).await?;
    netdev_add(qemu, arguments).await
}

/// A backend that QEMU opens itself. Without scripts, which it would run by default (`-netdev tap`
/// in qemu(1)): the port is made already.
fn named_backend(request: &PlugRequest) -> Map<String, Value> {
    let mut arguments = Map::new();
    for (name, text) in [
        ("type", "tap".to_owned()),
        ("id", request.nic.netdev_id()),
        ("ifname", request.tap.name.clone()),
        ("script", "no".to_owned()),
        ("downscript", "no".to_owned()),
    ] {
        arguments.insert(name.to_owned(), text.into());
    }
    if request.tap.queue_count > 1 {
        arguments.insert("queues".to_owned(), request.tap.queue_count.into());
    }
    arguments
}

/// What a backend is made of. Without tap descriptors at hand the names still stand: QEMU may hold
/// them from an earlier run that was cut off between `getfd` and `netdev_add`.
struct Descriptors {
    nic: NicId,
    taps: Vec<String>,
    vhosts: Vec<Descriptor>,
}

impl Descriptors {
    fn netdev_arguments(&self) -> Map<String, Value> {
        let mut arguments = Map::new();
        arguments.insert("type".to_owned(), "tap".into());
        arguments.insert("id".to_owned(), self.nic.netdev_id().into());
        arguments.insert("vhost".to_owned(), (!self.vhosts.is_empty()).into());
        put_descriptors(&mut arguments, ["fd", "fds"], &self.taps);
        let vhosts = names(&self.nic, VHOST, self.vhosts.len());
        put_descriptors(&mut arguments, ["vhostfd", "vhostfds"], &vhosts);
        arguments
    }

    /// One after the other: a descriptor must have been taken before the next one comes.
    async fn pass(self, qemu: &Connection, queues: Vec<Descriptor>) -> Result<(), CommandError> {
        for (name, queue) in self.taps.iter().zip(queues) {
            getfd(qemu, name, queue).await?;
        }
        let names = names(&self.nic, VHOST, self.vhosts.len());
        for (name, vhost) in names.iter().zip(self.vhosts) {
            getfd(qemu, name, vhost).await?;
        }
        Ok(())
    }
}

/// One descriptor goes into the first field, several into the second with `:` between them.
fn put_descriptors(arguments: &mut Map<String, Value>, fields: [&str; 2], names: &[String]) {
    let field = match names {
        [] => return,
        [_] => fields[0],
        [..] => fields[1],
    };
    arguments.insert(field.to_owned(), names.join(":").into());
}

/// QEMU takes a name that starts with a digit for a descriptor's number (`monitor_fd_param`).
fn name(nic: &NicId, role: &str, index: usize) -> String {
    format!("{}-{role}{index}", nic.netdev_id())
}

fn names(nic: &NicId, role: &str, count: usize) -> Vec<String> {
    (0..count).map(|index| name(nic, role, index)).collect()
}

/// One descriptor a queue, or none at all where the host has no vhost-net.
fn open_vhosts(vhost: Vhost, count: usize) -> Vec<Descriptor> {
    let open = |_| {
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/vhost-net");
        device.map(|device| OwnedFd::from(device).into())
    };
    match vhost {
        Vhost::Never => Vec::new(),
        Vhost::Auto => (0..count)
            .map(open)
            .collect::<Result<_, _>>()
            .unwrap_or_default(),
    }
}

/// Closes those of a NIC's descriptors that QEMU still holds by name. It may have taken some for a
/// backend that then failed, so every name is tried.
async fn close_descriptors(qemu: &Connection, nic: &NicId, count: usize) {
    for role in [TAP, VHOST] {
        let names = names(nic, role, count);
        // A name that QEMU does not know is a descriptor it does not hold.
        join_all(names.iter().map(|name| closefd(qemu, name))).await;
    }
}

/// The same without knowing how many there were: they were passed in order.
async fn close_left_behind(qemu: &Connection, nic: &NicId) {
    for role in [TAP, VHOST] {
        for index in 0..MAX_QUEUES {
            if closefd(qemu, &name(nic, role, index)).await.is_err() {
                break;
            }
        }
    }
}

/// Makes the device, or finds it.
async fn make_device(session: &Session, request: &PlugRequest) -> Result<Plugged, CommandError> {
    let qemu = &session.qemu;
    let arguments = device_arguments(request);
    let path = device_path(&request.nic.device_id());
    let mut tries = ID_RELEASE_TRIES;
    loop {
        session.devices.forget(&path);
        let device_asked_at = Instant::now();
        let error = match device_add(qemu, arguments.clone()).await {
            Ok(()) => return Ok(Plugged::Now { device_asked_at }),
            Err(error) => error,
        };
        if !error.says("Duplicate") {
            return Err(error);
        }
        if has_device(qemu, &request.nic).await? {
            return Ok(Plugged::Before);
        }
        tries -= 1;
        if tries == 0 {
            return Err(error);
        }
        tokio::time::sleep(ID_RELEASE_PAUSE).await;
    }
}

async fn has_device(qemu: &Connection, nic: &NicId) -> Result<bool, CommandError> {
    let devices = qom_list(qemu, NAMED).await?;
    let id = nic.device_id();
    Ok(devices.iter().any(|device| device.name == id))
}

/// Modern only: behind a root port a legacy device would need an I/O window, and those run out
/// after ten ports (QEMU's `docs/pcie.txt` §3). No option ROM: without the file a hot-plug fails,
/// and `rombar=0` alone is refused of hot-plugged devices (`pci_add_option_rom` in `hw/pci/pci.c`).
/// Vectors: one a queue and direction, one for the control queue, one for configuration changes.
fn device_arguments(request: &PlugRequest) -> Map<String, Value> {
    let texts = [
        ("driver", "virtio-net-pci".to_owned()),
        ("id", request.nic.device_id()),
        ("netdev", request.nic.netdev_id()),
        ("mac", request.mac.to_string()),
        ("bus", request.slot.to_string()),
        ("addr", "00.0".to_owned()),
        ("disable-legacy", "on".to_owned()),
        ("romfile", String::new()),
    ];
    let mut arguments: Map<String, Value> = texts
        .into_iter()
        .map(|(name, text)| (name.to_owned(), text.into()))
        .collect();
    let queues = u32::from(request.tap.queue_count);
    if queues > 1 {
        arguments.insert("mq".to_owned(), true.into());
        arguments.insert("vectors".to_owned(), (2 * queues + 2).into());
    }
    arguments
}

/// Brings a NIC one step nearer to being gone.
pub(crate) async fn unplug(session: &Session, nic: &NicId) -> Result<Unplugging, Trouble> {
    match device_del(&session.qemu, &nic.device_id()).await {
        Ok(()) => Ok(Unplugging::Asked),
        Err(error) if is_pending(&error) => Ok(Unplugging::Pending),
        Err(error) if error.is_class(&ErrorClass::DeviceNotFound) => {
            remove_backend(session, nic).await
        }
        Err(error) => Err(trouble(error)),
    }
}

/// QEMU has an earlier request open, or the guest is still at work on the plug: both
/// pass by themselves (`qmp_device_del` in QEMU's `softmmu/qdev-monitor.c`,
/// `pcie_cap_slot_unplug_request_cb` in `hw/pci/pcie.c`).
fn is_pending(error: &CommandError) -> bool {
    error.says("already in the process of unplug") || error.says("guest is busy")
}

async fn remove_backend(session: &Session, nic: &NicId) -> Result<Unplugging, Trouble> {
    match netdev_del(&session.qemu, &nic.netdev_id()).await {
        Err(error) if !error.is_class(&ErrorClass::DeviceNotFound) => Err(trouble(error)),
        Ok(()) | Err(_) => {
            if session.descriptors_may_be_left(nic) == LeftBehind::Unknown {
                close_left_behind(&session.qemu, nic).await;
            }
            Ok(Unplugging::Gone)
        }
    }
}

/// Shows the guest a carrier or none.
pub(crate) async fn set_link(
    qemu: &Connection,
    nic: &NicId,
    carrier: Carrier,
) -> Result<(), Trouble> {
    link(qemu, &nic.device_id(), carrier).await.map_err(trouble)
}

/// What went wrong, in words all hypervisors share.
pub(crate) fn trouble(error: CommandError) -> Trouble {
    match error {
        // "device_add not allowed while migrating" and the like (qdev-monitor.c).
        CommandError::Refused { desc, .. } if desc.contains("migrat") => Trouble::Migrating,
        CommandError::Refused { desc, .. } => Trouble::Refused { message: desc },
        CommandError::TimedOut { waited_ms, .. } => Trouble::TimedOut { waited_ms },
        CommandError::NotUnderstood { .. } => Trouble::Protocol {
            message: error.to_string(),
        },
        CommandError::Lost { .. } => Trouble::Connection(Box::new(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn arguments(queues: usize, vhosts: usize) -> Value {
        let vhost = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap()).into();
        let nic: NicId = "nic-aaaaaaaaaa".parse().unwrap();
        let descriptors = Descriptors {
            taps: names(&nic, TAP, queues),
            vhosts: (0..vhosts).map(|_| vhost()).collect(),
            nic,
        };
        Value::Object(descriptors.netdev_arguments())
    }

    #[test]
    fn a_backend_names_one_descriptor_or_a_list_of_them() {
        let id = "hostua-nic-aaaaaaaaaa";
        let single = json!({
            "type": "tap", "id": id, "vhost": false, "fd": format!("{id}-q0"),
        });
        let double = json!({
            "type": "tap", "id": id, "vhost": true,
            "fds": format!("{id}-q0:{id}-q1"), "vhostfds": format!("{id}-v0:{id}-v1"),
        });

        assert_eq!(arguments(1, 0), single);
        assert_eq!(arguments(2, 2), double);
    }

    #[test]
    fn a_backend_that_qemu_opens_is_named_and_runs_no_scripts() {
        let nic: NicId = "nic-aaaaaaaaaa".parse().unwrap();
        let request = PlugRequest {
            mac: "5a:00:00:00:00:01".parse().unwrap(),
            slot: nic_model::SlotId("rp1".to_owned()),
            tap: hypervisor::Tap {
                name: nic.peer_name(),
                access: TapAccess::Name,
                queues: Vec::new(),
                queue_count: 2,
            },
            nic,
        };

        let expected = json!({
            "type": "tap", "id": "hostua-nic-aaaaaaaaaa", "ifname": "nfp-aaaaaaaaaa",
            "script": "no", "downscript": "no", "queues": 2,
        });
        assert_eq!(Value::Object(named_backend(&request)), expected);
    }

    #[test]
    fn refusals_because_of_a_migration_are_told_from_others() {
        let refused = |desc: &str| CommandError::Refused {
            command: "device_add",
            class: ErrorClass::Generic,
            desc: desc.to_owned(),
        };

        let migrating = trouble(refused("device_add not allowed while migrating"));
        let other = trouble(refused("Bus 'rp9' not found"));

        assert!(matches!(migrating, Trouble::Migrating));
        assert!(matches!(other, Trouble::Refused { .. }));
    }
}
