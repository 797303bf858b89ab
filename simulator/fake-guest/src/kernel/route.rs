//! Routes of the main table. One belongs to a namespace and leads through a link, and goes with it.

use std::net::IpAddr;

use guest_agent::kernel::{Errno, Ipv6, LinkIndex, RouteView};
use nic_model::{IpNet, NetnsInode, Route};

use super::link::LinkId;
use super::{Answer, Kernel};

/// What IPv6 routes get where none is asked for (`IP6_RT_PRIO_USER`), and those of a subnet
/// (`IP6_RT_PRIO_ADDRCONF`), include/net/ip6_route.h. IPv4 ones get none.
const IPV6_METRIC: u32 = 1024;
const IPV6_SUBNET_METRIC: u32 = 256;

/// One route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) route: Route,
    pub(super) by_kernel: bool,
}

impl Entry {
    pub(super) fn is_ipv6(&self) -> bool {
        self.route.destination.addr().is_ipv6()
    }

    /// The kernel of a namespace has one route of a destination and metric, whatever link it leads
    /// through.
    fn stands_in_the_way_of(&self, other: &Route) -> bool {
        self.route.destination == other.destination && self.route.metric == other.metric
    }
}

impl Kernel {
    /// The routes through a link.
    #[must_use]
    pub fn routes(&self, netns: NetnsInode, index: LinkIndex) -> Vec<RouteView> {
        let Some(link) = self
            .id_of(netns, index)
            .ok()
            .and_then(|id| self.links.get(&id))
        else {
            return Vec::new();
        };
        let view = |entry: &Entry| RouteView {
            route: entry.route.clone(),
            by_kernel: entry.by_kernel,
        };
        let (ipv6, ipv4): (Vec<&Entry>, Vec<&Entry>) =
            link.routes.iter().partition(|entry| entry.is_ipv6());
        ipv4.into_iter().chain(ipv6).map(view).collect()
    }

    /// Adds a route through a link. A gateway is taken to be a neighbour on it.
    ///
    /// # Errors
    /// `ENODEV`, `ENETDOWN` when the link is down, `EEXIST` when there is one of its destination
    /// and metric, `EINVAL` for a gateway that is no neighbour's address, `EACCES` for IPv6 where
    /// that is off.
    pub fn add_route(&mut self, netns: NetnsInode, index: LinkIndex, route: &Route) -> Answer<()> {
        let id = self.id_of(netns, index)?;
        let route = self.as_kept(netns, route)?;
        let link = self.links.get(&id).ok_or(Errno::NODEV)?;
        if route.destination.addr().is_ipv6() && link.ipv6 == Ipv6::Off {
            return Err(Errno::ACCESS);
        }
        if !link.is_up() {
            return Err(Errno::NETDOWN);
        }
        let mut all = self.links.values().filter(|link| link.netns == netns);
        let in_the_way = |entry: &Entry| entry.stands_in_the_way_of(&route);
        if all.any(|link| link.routes.iter().any(in_the_way)) {
            return Err(Errno::EXIST);
        }
        if let Some(link) = self.links.get_mut(&id) {
            let by_kernel = false;
            link.routes.push(Entry { route, by_kernel });
        }
        Ok(())
    }

    /// The kernel's own routes, to the subnets of the addresses of a link that is up. There is none
    /// for an IPv4 address alone in its subnet.
    pub(super) fn add_subnet_routes(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        for address in &link.addresses {
            let metric = match address {
                IpNet::V4(subnet) if subnet.prefix_len() == 32 => continue,
                IpNet::V4(_) => None,
                IpNet::V6(_) => Some(IPV6_SUBNET_METRIC),
            };
            let route = Route {
                destination: address.trunc(),
                gateway: None,
                metric,
            };
            let entry = Entry {
                route,
                by_kernel: true,
            };
            if !link.routes.contains(&entry) {
                link.routes.push(entry);
            }
        }
    }

    /// A route as the kernel keeps it, where its gateway can be one.
    fn as_kept(&self, netns: NetnsInode, route: &Route) -> Answer<Route> {
        let mut kept = route.clone();
        kept.destination = kept.destination.trunc();
        kept.metric = match kept.metric {
            Some(0) | None if kept.destination.addr().is_ipv6() => Some(IPV6_METRIC),
            Some(0) => None,
            metric => metric,
        };
        if let Some(gateway) = kept.gateway
            && (gateway.is_multicast() || self.is_not_a_neighbour(netns, gateway))
        {
            return Err(Errno::INVAL);
        }
        Ok(kept)
    }

    /// Whether the address is one of the namespace's own, or means all of a subnet.
    fn is_not_a_neighbour(&self, netns: NetnsInode, address: IpAddr) -> bool {
        let is_own = |own: &IpNet| own.addr() == address;
        let means_all = |own: &IpNet| match own {
            IpNet::V4(own) => own.prefix_len() < 31 && address == own.broadcast(),
            IpNet::V6(_) => false,
        };
        let links = self.links.values().filter(|link| link.netns == netns);
        let mut addresses = links.flat_map(|link| &link.addresses);
        addresses.any(|own| is_own(own) || means_all(own))
    }
}
