//! From QEMU's events to the hints that the rest of hostd waits for.

use hypervisor::EventKind;
use nic_model::NicId;
use serde_json::Value;

use crate::client::QmpEvent;
use crate::qom::device_id;

/// Path of the device that an event says is gone, ours or not.
pub(crate) fn deleted_path(event: &QmpEvent) -> Option<&str> {
    match event.name.as_str() {
        "DEVICE_DELETED" => event.data["path"].as_str(),
        _ => None,
    }
}

/// What `event` means here, if anything.
pub(crate) fn kind(event: &QmpEvent) -> Option<EventKind> {
    match event.name.as_str() {
        "DEVICE_DELETED" => nic(&event.data).map(EventKind::DeviceGone),
        "DEVICE_UNPLUG_GUEST_ERROR" => nic(&event.data).map(EventKind::UnplugRefused),
        "RESET" => Some(EventKind::Reset),
        "SHUTDOWN" | "STOP" | "RESUME" | "SUSPEND" | "WAKEUP" | "GUEST_PANICKED" => {
            Some(EventKind::Power)
        }
        _ => None,
    }
}

/// QEMU tells of a virtio device twice: first of the inner `…/virtio-backend`, by its path alone,
/// then of the device itself, by id and path. Only the second is the device.
fn nic(data: &Value) -> Option<NicId> {
    let by_id = data["device"].as_str();
    let by_path = || data["path"].as_str().and_then(device_id);
    by_id.or_else(by_path).and_then(NicId::from_device_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn kind_of(name: &str, data: Value) -> Option<EventKind> {
        kind(&QmpEvent {
            name: name.to_owned(),
            data,
        })
    }

    #[test]
    fn of_the_two_deletions_of_a_virtio_device_only_the_outer_counts() {
        let inner = json!({"path": "/machine/peripheral/ua-nic-aaaaaaaaaa/virtio-backend"});
        let outer = json!({
            "device": "ua-nic-aaaaaaaaaa",
            "path": "/machine/peripheral/ua-nic-aaaaaaaaaa",
        });
        let gone = EventKind::DeviceGone("nic-aaaaaaaaaa".parse().unwrap());

        assert_eq!(kind_of("DEVICE_DELETED", inner), None);
        assert_eq!(kind_of("DEVICE_DELETED", outer), Some(gone));
    }

    #[test]
    fn a_refusal_by_the_guest_is_recognised_by_the_path_alone() {
        let data = json!({"path": "/machine/peripheral/ua-nic-aaaaaaaaaa"});
        let refused = EventKind::UnplugRefused("nic-aaaaaaaaaa".parse().unwrap());

        assert_eq!(kind_of("DEVICE_UNPLUG_GUEST_ERROR", data), Some(refused));
    }

    #[test]
    fn events_of_no_interest_and_foreign_devices_mean_nothing() {
        let foreign = json!({"device": "disk0", "path": "/machine/peripheral/disk0"});

        assert_eq!(kind_of("DEVICE_DELETED", foreign), None);
        assert_eq!(kind_of("DEVICE_DELETED", Value::Null), None);
        assert_eq!(
            kind_of("MEM_UNPLUG_ERROR", json!({"device": "dimm0"})),
            None
        );
        assert_eq!(kind_of("NOT_YET_INVENTED", Value::Null), None);
    }
}
