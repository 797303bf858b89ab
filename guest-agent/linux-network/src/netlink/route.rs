//! Routes through a link.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nic_model::{IpNet, Ipv4Net, Ipv6Net, Route};

use super::Netlink;
use super::link_view::LinkIndex;
use crate::error::operation_error;

operation_error! {
    /// From [`Netlink::add_route`].
    AddRouteError { index: LinkIndex = "Through which link.", destination: IpNet = "Where to." }
    "failed to add a route to {destination} through link {index}"
}

operation_error! {
    /// From [`Netlink::routes`].
    ListRoutesError { index: LinkIndex = "Through which link." }
    "failed to list the routes through link {index}"
}

/// A route as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteView {
    /// The route.
    pub route: Route,
    /// Whether the kernel made it itself, for the subnet of an address.
    pub by_kernel: bool,
}

impl Netlink {
    /// Adds a route through a link to the main table. A gateway need not be within a subnet of the
    /// link: it is taken to be a neighbour on it (`RTNH_F_ONLINK`), as clouds assign addresses with
    /// a prefix length of 32.
    ///
    /// # Errors
    /// With errno `EXIST` when there is one to the same destination with the same metric, `NODEV`
    /// when there is no such link, `NETDOWN` when it is down, `NETUNREACH` when IPv4 cannot use the
    /// gateway.
    pub async fn add_route(&self, index: LinkIndex, route: &Route) -> Result<(), AddRouteError> {
        let request = RouteNetlinkMessage::NewRoute(message(index, route));
        let done = self.change(request, NLM_F_CREATE | NLM_F_EXCL).await;
        done.map_err(|cause| AddRouteError {
            index,
            destination: route.destination,
            cause,
        })
    }

    /// The unicast routes of the main table through a link, both families.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn routes(&self, index: LinkIndex) -> Result<Vec<RouteView>, ListRoutesError> {
        let mut routes = Vec::new();
        // One after the other: a socket has room for one list at a time (EBUSY).
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut question = RouteMessage::default();
            question.header.address_family = family;
            let request = RouteNetlinkMessage::GetRoute(question);
            let list = self.list(request, |answer| route_view(answer, index)).await;
            routes.extend(list.map_err(|cause| ListRoutesError { index, cause })?);
        }
        Ok(routes)
    }
}

fn message(index: LinkIndex, route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = match route.destination {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    header.destination_prefix_length = route.destination.prefix_len();
    header.table = RouteHeader::RT_TABLE_MAIN;
    header.protocol = RouteProtocol::Static;
    header.kind = RouteType::Unicast;
    header.scope = if route.gateway.is_some() {
        RouteScope::Universe
    } else {
        RouteScope::Link
    };
    if route.gateway.is_some() {
        header.flags = RouteFlags::Onlink;
    }
    message.attributes.push(RouteAttribute::Oif(index.0));
    if route.destination.prefix_len() > 0 {
        let network = route.destination.network();
        message
            .attributes
            .push(RouteAttribute::Destination(network.into()));
    }
    message
        .attributes
        .extend(route.gateway.map(|hop| RouteAttribute::Gateway(hop.into())));
    message
        .attributes
        .extend(route.metric.map(RouteAttribute::Priority));
    message
}

fn route_view(message: RouteNetlinkMessage, index: LinkIndex) -> Option<RouteView> {
    if let RouteNetlinkMessage::NewRoute(message) = message {
        view(&message, index)
    } else {
        None
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "four attributes of thirty")]
fn view(message: &RouteMessage, index: LinkIndex) -> Option<RouteView> {
    let header = &message.header;
    if header.kind != RouteType::Unicast || header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let (mut link, mut destination, mut gateway, mut metric) = (None, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(oif) => link = Some(*oif),
            RouteAttribute::Destination(address) => destination = ip(address),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Priority(priority) => metric = Some(*priority),
            _ => {}
        }
    }
    let destination = match destination {
        Some(address) => IpNet::new(address, header.destination_prefix_length).ok()?,
        None => default_destination(header.address_family),
    };
    (link == Some(index.0)).then_some(RouteView {
        route: Route {
            destination,
            gateway,
            metric,
        },
        by_kernel: header.protocol == RouteProtocol::Kernel,
    })
}

fn default_destination(family: AddressFamily) -> IpNet {
    if family == AddressFamily::Inet6 {
        IpNet::V6(Ipv6Net::default())
    } else {
        IpNet::V4(Ipv4Net::default())
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    if let RouteAddress::Inet(address) = address {
        Some((*address).into())
    } else if let RouteAddress::Inet6(address) = address {
        Some((*address).into())
    } else {
        None
    }
}
