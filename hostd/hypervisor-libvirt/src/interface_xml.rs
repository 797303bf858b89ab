//! The one device libvirt is given, and its link state.
//!
//! Every field is explicit: alias, MAC and PCI address are ours to choose and are checked
//! afterwards, and a field left to libvirt would be drawn anew at every attempt.

use hypervisor::{Carrier, PlugRequest};

use crate::xml::Element;

/// The `<interface>` of a request that goes into the slot with this bus.
///
/// `managed='no'` leaves the tap to its maker (libvirt 5.7 and later): libvirt opens it by name and
/// changes neither its address, its MTU nor its up or down. The option ROM is off because nobody
/// boots from a NIC that arrives in a running guest.
pub(crate) fn attachment(request: &PlugRequest, bus: u8) -> Element {
    let interface = Element::new("interface")
        .with("type", "ethernet")
        .containing(Element::new("mac").with("address", request.mac.to_string()))
        .containing(
            Element::new("target")
                .with("dev", request.tap.name.as_str())
                .with("managed", "no"),
        )
        .containing(Element::new("model").with("type", "virtio"));
    queues(interface, request.tap.queue_count)
        .containing(Element::new("alias").with("name", request.nic.device_id()))
        .containing(Element::new("rom").with("enabled", "no"))
        .containing(
            Element::new("address")
                .with("type", "pci")
                .with("domain", "0x0000")
                .with("bus", format!("0x{bus:02x}"))
                .with("slot", "0x00")
                .with("function", "0x0"),
        )
}

/// A `queues` of 1 is left out: with it libvirt opens the tap as multi-queue, which a tap made for
/// one queue refuses.
fn queues(interface: Element, queue_count: u16) -> Element {
    if queue_count > 1 {
        interface.containing(Element::new("driver").with("queues", queue_count.to_string()))
    } else {
        interface
    }
}

/// The interface as it is, with another link state. An update must repeat every field it does not
/// change, or libvirt takes the difference for a wish and refuses it.
pub(crate) fn with_carrier(interface: &Element, carrier: Carrier) -> Element {
    let state = match carrier {
        Carrier::Up => "up",
        Carrier::Down => "down",
    };
    interface
        .clone()
        .without("link")
        .containing(Element::new("link").with("state", state))
}

/// The carrier an `<interface>` shows; without `<link>` it is up.
pub(crate) fn carrier(interface: &Element) -> Carrier {
    match interface.child_attribute("link", "state") {
        Some("down") => Carrier::Down,
        _ => Carrier::Up,
    }
}

#[cfg(test)]
mod tests {
    use hypervisor::{Tap, TapAccess};
    use nic_model::SlotId;

    use super::*;

    fn request(queue_count: u16) -> PlugRequest {
        PlugRequest {
            nic: "nic-abc0123xyz".parse().unwrap(),
            mac: "5a:01:02:03:04:05".parse().unwrap(),
            slot: SlotId("0x03".to_owned()),
            tap: Tap {
                name: "nf-abc0123xyz".to_owned(),
                access: TapAccess::Name,
                queues: Vec::new(),
                queue_count,
            },
        }
    }

    #[test]
    fn an_attachment_names_every_identity_of_the_nic() {
        assert_eq!(
            attachment(&request(1), 0x1f).write(),
            "<interface type=\"ethernet\"><mac address=\"5a:01:02:03:04:05\"/>\
             <target dev=\"nf-abc0123xyz\" managed=\"no\"/><model type=\"virtio\"/>\
             <alias name=\"ua-nic-abc0123xyz\"/><rom enabled=\"no\"/>\
             <address type=\"pci\" domain=\"0x0000\" bus=\"0x1f\" slot=\"0x00\" \
             function=\"0x0\"/></interface>"
        );
    }

    #[test]
    fn several_queues_are_asked_for_and_one_is_not() {
        assert_eq!(
            attachment(&request(4), 3).child_attribute("driver", "queues"),
            Some("4")
        );
        assert_eq!(attachment(&request(1), 3).child("driver"), None);
    }

    #[test]
    fn a_carrier_replaces_the_one_before_and_nothing_else() {
        let plain = attachment(&request(1), 3);

        let down = with_carrier(&plain, Carrier::Down);
        let up = with_carrier(&down, Carrier::Up);

        assert_eq!(carrier(&down), Carrier::Down);
        assert_eq!(carrier(&up), Carrier::Up);
        assert_eq!(up.all("link").count(), 1);
        assert_eq!(up.without("link"), plain);
    }
}
