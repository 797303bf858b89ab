//! What a link is believed to look like after a step, until it is looked at again.
//!
//! Looking after every step would double the system calls of a bind; the belief only has to be good
//! enough to choose the next step, since the last one reads everything back.

use nic_model::{IpNet, Ipv4Net};

use crate::action::Action;
use crate::sight::{Admin, LinkPlace, LinkSeen};

/// The place of a link once `action` was done to it.
pub(crate) fn place_after(place: &LinkPlace, action: &Action) -> LinkPlace {
    let Some(link) = place.link() else {
        return place.clone();
    };
    match action {
        Action::Disarm if matches!(place, LinkPlace::Elsewhere(_)) => {
            LinkPlace::Elsewhere(bare(link))
        }
        Action::Disarm => LinkPlace::Target(bare(link)),
        Action::Hold | Action::Release => LinkPlace::Holding(bare(link)),
        Action::Enter { name, mtu, .. } => LinkPlace::Target(LinkSeen {
            name: name.to_string(),
            mtu: (*mtu).into(),
            ..bare(link)
        }),
        Action::SetMtu(mtu) => LinkPlace::Target(LinkSeen {
            mtu: (*mtu).into(),
            ..link.clone()
        }),
        Action::SetAddresses(addresses) => LinkPlace::Target(LinkSeen {
            addresses: [link.addresses.as_slice(), addresses].concat(),
            ..link.clone()
        }),
        Action::SetUp => LinkPlace::Target(LinkSeen {
            admin: Admin::Up,
            ..link.clone()
        }),
        Action::SetRoutes(routes) => LinkPlace::Target(LinkSeen {
            routes: [link.routes.as_slice(), routes].concat(),
            ..link.clone()
        }),
        Action::DropLease(address) => LinkPlace::Target(without(link, *address)),
        Action::Wait
        | Action::Look
        | Action::Report(_)
        | Action::StartLease
        | Action::Announce(_)
        | Action::Verify => place.clone(),
    }
}

/// A link as it is after a move, or disarmed.
fn bare(link: &LinkSeen) -> LinkSeen {
    LinkSeen {
        admin: Admin::Down,
        addresses: Vec::new(),
        routes: Vec::new(),
        ..link.clone()
    }
}

/// A link switched off, without `dropped`. The kernel takes IPv6 addresses away with the link's
/// being up, unless told to keep them (`keep_addr_on_down`); adding one again does no harm.
fn without(link: &LinkSeen, dropped: Ipv4Net) -> LinkSeen {
    let stays = |address: &&IpNet| matches!(address, IpNet::V4(kept) if *kept != dropped);
    LinkSeen {
        addresses: link.addresses.iter().filter(stays).copied().collect(),
        ..bare(link)
    }
}
