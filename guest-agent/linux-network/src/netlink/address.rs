//! Addresses of a link.

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nic_model::IpNet;

use super::Netlink;
use super::link_view::LinkIndex;
use crate::error::{Errno, operation_error};

operation_error! {
    /// From [`Netlink::add_address`].
    AddAddressError { index: LinkIndex = "To which link.", address: IpNet = "Which." }
    "failed to add address {address} to link {index}"
}

operation_error! {
    /// From [`Netlink::remove_address`].
    RemoveAddressError { index: LinkIndex = "From which link.", address: IpNet = "Which." }
    "failed to remove address {address} from link {index}"
}

operation_error! {
    /// From [`Netlink::addresses`].
    ListAddressesError { index: LinkIndex = "Of which link." }
    "failed to list the addresses of link {index}"
}

/// What is done about a duplicate of an IPv6 address. IPv4 ones have no such thing in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DuplicateDetection {
    /// The address is used at once and nobody is asked: for addresses that an allocator keeps
    /// unique.
    Off,
    /// The address is used at once and the neighbours are asked meanwhile (RFC 4429). The kernel
    /// does so only where it was built with it and `net.ipv6.conf.*.optimistic_dad` is 1; elsewhere
    /// it silently does as for [`Self::First`] (`inet6_rtm_newaddr` in net/ipv6/addrconf.c).
    Optimistic,
    /// The neighbours are asked first, about one second, before the address can be used.
    First,
}

/// An address as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressView {
    /// The address and the prefix length of its subnet.
    pub address: IpNet,
    /// Whether it cannot be used yet: its duplicates are still being looked for.
    pub tentative: bool,
    /// Whether a duplicate was found: it will never be used.
    pub duplicate: bool,
    /// Whether it only reaches the link (`fe80::…`).
    pub link_local: bool,
}

impl Netlink {
    /// Adds `address` to a link.
    ///
    /// # Errors
    /// With errno `EXIST` when it has it already, `NODEV` when there is no such link, `ACCES` (or
    /// `OPNOTSUPP`) for IPv6 on a link where `disable_ipv6` is 1.
    pub async fn add_address(
        &self,
        index: LinkIndex,
        address: IpNet,
        detection: DuplicateDetection,
    ) -> Result<(), AddAddressError> {
        let mut message = message(index, address);
        if address.addr().is_ipv6() {
            let flags = match detection {
                DuplicateDetection::Off => AddressFlags::Nodad,
                DuplicateDetection::Optimistic => AddressFlags::Optimistic,
                DuplicateDetection::First => AddressFlags::empty(),
            };
            message.attributes.push(AddressAttribute::Flags(flags));
        }
        let request = RouteNetlinkMessage::NewAddress(message);
        let done = self.change(request, NLM_F_CREATE | NLM_F_EXCL).await;
        done.map_err(|cause| AddAddressError {
            index,
            address,
            cause,
        })
    }

    /// Removes `address` from a link; that it has it not is fine.
    ///
    /// # Errors
    /// With errno `NODEV` when there is no such link.
    pub async fn remove_address(
        &self,
        index: LinkIndex,
        address: IpNet,
    ) -> Result<(), RemoveAddressError> {
        let request = RouteNetlinkMessage::DelAddress(message(index, address));
        match self.change(request, 0).await {
            Err(error) if error.errno() == Some(Errno::ADDRNOTAVAIL) => Ok(()),
            done => done.map_err(|cause| RemoveAddressError {
                index,
                address,
                cause,
            }),
        }
    }

    /// The addresses of a link, both families. No such link has none.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn addresses(
        &self,
        index: LinkIndex,
    ) -> Result<Vec<AddressView>, ListAddressesError> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let list = self
            .list(request, |answer| address_view(answer, index))
            .await;
        list.map_err(|cause| ListAddressesError { index, cause })
    }
}

fn message(index: LinkIndex, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index.0;
    message.header.prefix_len = address.prefix_len();
    message.header.family = match address {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    message
        .attributes
        .push(AddressAttribute::Local(address.addr()));
    message
        .attributes
        .push(AddressAttribute::Address(address.addr()));
    if let IpNet::V4(subnet) = address
        && let Some(broadcast) = broadcast(subnet.broadcast(), subnet.prefix_len())
    {
        message
            .attributes
            .push(AddressAttribute::Broadcast(broadcast));
    }
    message
}

/// Subnets of one or two addresses have no broadcast address (RFC 3021).
fn broadcast(last: Ipv4Addr, prefix_len: u8) -> Option<Ipv4Addr> {
    (prefix_len < 31).then_some(last)
}

fn address_view(message: RouteNetlinkMessage, index: LinkIndex) -> Option<AddressView> {
    if let RouteNetlinkMessage::NewAddress(message) = message
        && message.header.index == index.0
    {
        view(&message)
    } else {
        None
    }
}

fn view(message: &AddressMessage) -> Option<AddressView> {
    let flags = message.header.flags;
    Some(AddressView {
        address: IpNet::new(own_address(message)?, message.header.prefix_len).ok()?,
        tentative: flags.contains(AddressHeaderFlags::Tentative),
        duplicate: flags.contains(AddressHeaderFlags::Dadfailed),
        link_local: message.header.scope == AddressScope::Link,
    })
}

/// On a point-to-point link `Address` is the peer's and `Local` one's own; elsewhere IPv6 has only
/// `Address` (include/uapi/linux/if_addr.h).
fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    let mut address = None;
    for attribute in &message.attributes {
        if let AddressAttribute::Local(local) = attribute {
            return Some(*local);
        }
        if let AddressAttribute::Address(other) = attribute {
            address = Some(*other);
        }
    }
    address
}
