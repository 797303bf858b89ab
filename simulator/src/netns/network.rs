//! The networks of a simulated cloud: a bridge on each host, and between hosts a wire.
//!
//! ```text
//!   host1: br-blue ── up-blue ═══ to-host1 ── br-blue ── to-host2 ═══ up-blue ── br-blue :host2
//!                                            (fabric)
//! ```
//!
//! With one host there is no fabric. The first address of each subnet is the first host's: what
//! speaks to a network from outside speaks from there.

use linux_network::{
    AdminState, DuplicateDetection, LinkChange, LinkIndex, Netlink, Netns, PeerName, VethPeer,
    VethSpec, sysctl,
};
use nic_model::{IpNet, LinkName};

use super::topology::{Network, Topology};
use super::trouble::{Doing, Trouble};

/// A host's network.
#[derive(Debug, Clone)]
pub(crate) struct HostNetwork {
    pub(crate) netns: Netns,
    pub(crate) netlink: Netlink,
}

/// No link where one was just made.
#[derive(Debug, thiserror::Error)]
#[error("there is no link {0}")]
struct NoLink(LinkName);

impl HostNetwork {
    /// A namespace with the loopback and nothing else.
    async fn bare() -> Result<Self, Trouble> {
        let netns = Netns::unnamed().doing("make a network namespace")?;
        Self::over(netns).await
    }

    pub(crate) async fn over(netns: Netns) -> Result<Self, Trouble> {
        let netlink = Netlink::connect(&netns).await.doing("ask the kernel")?;
        let network = Self { netns, netlink };
        network.switch_on(&name_of("lo")).await?;
        Ok(network)
    }

    pub(crate) async fn switch_on(&self, name: &LinkName) -> Result<LinkIndex, Trouble> {
        let doing = format!("switch on {name}");
        let link = self.netlink.link_by_name(name).await.doing(&doing)?;
        let index = link
            .ok_or_else(|| NoLink(name.clone()))
            .doing(&doing)?
            .index;
        let up = LinkChange {
            admin: Some(AdminState::Up),
            ..LinkChange::default()
        };
        self.netlink.set_link(index, up).await.doing(&doing)?;
        Ok(index)
    }

    async fn add_bridge(&self, name: &LinkName) -> Result<LinkIndex, Trouble> {
        let doing = format!("make bridge {name}");
        self.netlink.add_bridge(name).await.doing(&doing)?;
        // Nobody is to see addresses that the kernel has made up.
        sysctl::disable_ipv6(&self.netns, name)
            .await
            .doing(&doing)?;
        self.switch_on(name).await
    }

    async fn add_addresses(&self, bridge: LinkIndex, network: &Network) -> Result<(), Trouble> {
        let doing = format!("give the host its addresses of network {}", network.name);
        let setting = format!("ipv6/conf/{}/disable_ipv6", network.bridge());
        sysctl::set(&self.netns, &setting, "0")
            .await
            .doing(&doing)?;
        for address in network.subnets.iter().filter_map(first_address) {
            let added = self
                .netlink
                .add_address(bridge, address, DuplicateDetection::Off);
            added.await.doing(&doing)?;
        }
        Ok(())
    }
}

/// Makes every host's network, in the order of the hosts.
///
/// # Errors
/// When the kernel refuses a part of it.
pub(crate) async fn make(topology: &Topology) -> Result<Vec<HostNetwork>, Trouble> {
    let mut hosts = Vec::new();
    for _ in &topology.hosts {
        hosts.push(HostNetwork::bare().await?);
    }
    let fabric = match hosts.len() {
        1 => None,
        _ => Some(HostNetwork::over(Netns::own().doing("open the own namespace")?).await?),
    };
    for network in &topology.networks {
        let bridge = network.bridge();
        if let Some(fabric) = &fabric {
            fabric.add_bridge(&bridge).await?;
        }
        for (number, host) in hosts.iter().enumerate() {
            let index = host.add_bridge(&bridge).await?;
            if number == 0 {
                host.add_addresses(index, network).await?;
            }
            if let Some(fabric) = &fabric {
                wire(fabric, host, number, network).await?;
            }
        }
    }
    Ok(hosts)
}

/// Between a host and the fabric. Names are by number: those of hosts may be too long for links.
async fn wire(
    fabric: &HostNetwork,
    host: &HostNetwork,
    number: usize,
    network: &Network,
) -> Result<(), Trouble> {
    let doing = format!("wire network {}", network.name);
    let far = name_of(&format!("w{number}-{}", network.name));
    let near = name_of(&format!("up-{}", network.name));
    let pair = VethSpec {
        name: &far,
        mtu: network.mtu,
        peer: VethPeer {
            name: PeerName::Fixed(&near),
            netns: Some(&host.netns),
            mac: None,
            mtu: network.mtu,
        },
    };
    fabric.netlink.add_veth(pair).await.doing(&doing)?;
    for (side, end) in [(fabric, &far), (host, &near)] {
        sysctl::disable_ipv6(&side.netns, end).await.doing(&doing)?;
        let index = side.switch_on(end).await?;
        let bridge = side.switch_on(&network.bridge()).await?;
        let put = side.netlink.set_master(index, Some(bridge)).await;
        put.doing(&doing)?;
    }
    Ok(())
}

/// The first that a station may have: an IPv6 subnet's own address belongs to all of its routers
/// (RFC 4291 §2.6.1).
fn first_address(subnet: &IpNet) -> Option<IpNet> {
    let first = subnet
        .hosts()
        .find(|address| *address != subnet.network())?;
    IpNet::new(first, subnet.prefix_len()).ok()
}

/// A name of the simulator's own, or checked with the topology.
pub(crate) fn name_of(text: &str) -> LinkName {
    text.parse()
        .expect("a short word of letters, digits and dashes is a link name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_has_the_first_address_of_a_subnet() {
        for (subnet, expected) in [
            ("10.77.0.0/24", "10.77.0.1/24"),
            ("fd77::/64", "fd77::1/64"),
        ] {
            let address = first_address(&subnet.parse().unwrap()).unwrap();

            assert_eq!(address.to_string(), expected);
        }
    }
}
