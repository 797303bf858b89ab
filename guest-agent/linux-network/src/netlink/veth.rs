//! Pairs of virtual Ethernet links: what enters one end leaves the other.
//!
//! Deleting either end deletes both, whatever namespace the other is in, and so does the end of a
//! namespace that one of them is in (`veth_dellink` in drivers/net/veth.c). An end has a carrier
//! while both are switched on.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage,
};
use nic_model::{LinkName, MacAddr, Mtu};
use std::os::fd::{AsFd, AsRawFd};

use super::Netlink;
use crate::error::operation_error;
use crate::netns::Netns;

operation_error! {
    /// From [`Netlink::add_veth`].
    AddVethError { name: LinkName = "Name of the near end." } "failed to add veth pair {name}"
}

/// A pair to be made; both ends are switched off at first.
#[derive(Debug, Clone, Copy)]
pub struct VethSpec<'a> {
    /// Name of the end in the namespace of the connection.
    pub name: &'a LinkName,
    /// Largest packet of that end; the kernel's default of 1500 if `None`.
    pub mtu: Option<Mtu>,
    /// The other end.
    pub peer: VethPeer<'a>,
}

/// The far end of a pair.
#[derive(Debug, Clone, Copy)]
pub struct VethPeer<'a> {
    /// Its name.
    pub name: PeerName<'a>,
    /// The namespace it is made in, if that is another one.
    pub netns: Option<&'a Netns>,
    /// Its Ethernet address; a random one if `None`.
    pub mac: Option<MacAddr>,
    /// Largest packet.
    pub mtu: Option<Mtu>,
}

/// What the far end of a pair is called.
#[derive(Debug, Clone, Copy)]
pub enum PeerName<'a> {
    /// This.
    Fixed(&'a LinkName),
    /// The first free of `eth0`, `eth1` and so on, as the link of an Ethernet driver.
    NextEthernet,
}

impl Netlink {
    /// Makes a pair of virtual Ethernet links.
    ///
    /// # Errors
    /// With errno `EXIST` when a name is taken, `OPNOTSUPP` when the kernel has no `veth`.
    pub async fn add_veth(&self, spec: VethSpec<'_>) -> Result<(), AddVethError> {
        let mut message = LinkMessage::default();
        message.attributes = attributes(spec.name.as_str(), None, spec.mtu);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer_message(spec.peer)))),
        ]));
        let request = RouteNetlinkMessage::NewLink(message);
        let done = self.change(request, NLM_F_CREATE | NLM_F_EXCL).await;
        done.map_err(|cause| AddVethError {
            name: spec.name.clone(),
            cause,
        })
    }
}

fn peer_message(peer: VethPeer<'_>) -> LinkMessage {
    let name = match peer.name {
        PeerName::Fixed(name) => name.as_str(),
        // The kernel puts the number in (`dev_alloc_name` in net/core/dev.c).
        PeerName::NextEthernet => "eth%d",
    };
    let mut message = LinkMessage::default();
    message.attributes = attributes(name, peer.mac, peer.mtu);
    if let Some(netns) = peer.netns {
        let descriptor = netns.as_fd().as_raw_fd();
        message.attributes.push(LinkAttribute::NetNsFd(descriptor));
    }
    message
}

fn attributes(name: &str, mac: Option<MacAddr>, mtu: Option<Mtu>) -> Vec<LinkAttribute> {
    let mac = mac.map(|mac| LinkAttribute::Address(mac.octets().to_vec()));
    let mtu = mtu.map(|mtu| LinkAttribute::Mtu(mtu.into()));
    let name = LinkAttribute::IfName(name.to_owned());
    [Some(name), mac, mtu].into_iter().flatten().collect()
}
