//! Addresses of links. An IPv4 one may be there twice with two prefix lengths, an IPv6 one may not.

use guest_agent::kernel::{AddressView, Errno, Ipv6, LinkIndex};
use nic_model::{IpNet, NetnsInode};

use super::{Answer, Kernel};

impl Kernel {
    /// The addresses of a link, none of them link-local: those are the kernel's own.
    #[must_use]
    pub fn addresses(&self, netns: NetnsInode, index: LinkIndex) -> Vec<AddressView> {
        let Some(link) = self
            .id_of(netns, index)
            .ok()
            .and_then(|id| self.links.get(&id))
        else {
            return Vec::new();
        };
        let view = |address: &IpNet| AddressView {
            address: *address,
            tentative: false,
            duplicate: false,
            link_local: false,
        };
        link.addresses.iter().map(view).collect()
    }

    /// Adds an address to a link (`inet_rtm_newaddr`, `inet6_addr_add`).
    ///
    /// # Errors
    /// `ENODEV`, `EEXIST` when it has it, `EACCES` for IPv6 where that is off.
    pub fn add_address(
        &mut self,
        netns: NetnsInode,
        index: LinkIndex,
        address: IpNet,
    ) -> Answer<()> {
        let id = self.id_of(netns, index)?;
        let link = self.links.get_mut(&id).ok_or(Errno::NODEV)?;
        if address.addr().is_ipv6() && link.ipv6 == Ipv6::Off {
            return Err(Errno::ACCESS);
        }
        let is_same = |old: &IpNet| match (old, &address) {
            (IpNet::V4(old), IpNet::V4(new)) => old == new,
            (IpNet::V6(old), IpNet::V6(new)) => old.addr() == new.addr(),
            (IpNet::V4(_), IpNet::V6(_)) | (IpNet::V6(_), IpNet::V4(_)) => false,
        };
        if link.addresses.iter().any(is_same) {
            return Err(Errno::EXIST);
        }
        link.addresses.push(address);
        if link.is_up() {
            self.add_subnet_routes(id);
        }
        Ok(())
    }

    /// Removes an address from a link.
    ///
    /// # Errors
    /// `ENODEV`, `EADDRNOTAVAIL` when it has it not.
    pub fn remove_address(
        &mut self,
        netns: NetnsInode,
        index: LinkIndex,
        address: IpNet,
    ) -> Answer<()> {
        let id = self.id_of(netns, index)?;
        let link = self.links.get_mut(&id).ok_or(Errno::NODEV)?;
        let kept = link.addresses.len();
        link.addresses.retain(|old| *old != address);
        if link.addresses.len() == kept {
            return Err(Errno::ADDRNOTAVAIL);
        }
        let mut others = link.addresses.iter();
        let has_ipv4 = others.clone().any(|other| other.addr().is_ipv4());
        let is_needed = others.any(|other| other.trunc() == address.trunc());
        let of_subnet = |route: &IpNet| *route == address.trunc() && !is_needed;
        link.routes
            .retain(|entry| !(entry.by_kernel && of_subnet(&entry.route.destination)));
        // The last IPv4 address takes every IPv4 route along (`fib_inetaddr_event`).
        if address.addr().is_ipv4() && !has_ipv4 {
            link.routes.retain(super::route::Entry::is_ipv6);
        }
        Ok(())
    }
}
