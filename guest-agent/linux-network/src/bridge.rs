//! Ports of a Linux bridge, and the addresses behind them.
//!
//! A port that is `locked` lets in only frames whose source address the bridge knows to be behind
//! that very port (Linux 5.18, commit a21d9a670d81). With learning off it knows only what it was
//! told, so one static entry is all the VM can use as its address:
//!
//! ```text
//!   link down ──► into the bridge ──► locked, no learning, no flooding ──► its address ──► link up
//! ```
//!
//! While the link is down its port is disabled, so the order within the bridge opens no gap.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridgePort, InfoKind, InfoPortData,
    InfoPortKind, LinkAttribute, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nic_model::{LinkName, MacAddr};

use crate::error::{Errno, NetlinkError, operation_error};
use crate::netlink::Netlink;
use crate::netlink::link::{GetLinkError, SetLinkError};
use crate::netlink::link_view::LinkIndex;

operation_error! {
    /// From [`Netlink::add_static_address`].
    AddStaticAddressError { mac: MacAddr = "Which address.", port: LinkIndex = "Which port." }
    "failed to tell the bridge that {mac} is behind port {port}"
}

operation_error! {
    /// From [`Netlink::static_addresses`].
    ListStaticAddressesError { port: LinkIndex = "Behind which port." }
    "failed to list the addresses behind port {port}"
}

operation_error! {
    /// From [`Netlink::add_ifb`].
    AddIfbError { name: LinkName = "Its name." } "failed to add intermediate device {name}"
}

operation_error! {
    /// From [`Netlink::add_bridge`].
    AddBridgeError { name: LinkName = "Its name." } "failed to add bridge {name}"
}

/// Whether a property of a port is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// It is.
    On,
    /// It is not.
    Off,
}

impl Switch {
    fn of(on: bool) -> Self {
        if on { Self::On } else { Self::Off }
    }

    fn is_on(self) -> bool {
        self == Self::On
    }
}

/// Properties of a bridge port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BridgePortFlags {
    /// Whether the bridge learns which addresses are behind it from frames.
    pub learning: Switch,
    /// Whether it gets frames to addresses the bridge does not know.
    pub unicast_flood: Switch,
    /// Whether it lets in only frames from addresses the bridge knows behind it. Read back it is
    /// `Off` where the kernel has no such thing.
    pub locked: Switch,
}

impl Netlink {
    /// Puts a link into a bridge, or out of any.
    ///
    /// # Errors
    /// With errno `XFULL` when the bridge has all the ports it can have (1024), `NODEV` when either
    /// is gone, `BUSY` when something else receives the link's frames (macvlan, Open vSwitch).
    pub async fn set_master(
        &self,
        index: LinkIndex,
        bridge: Option<LinkIndex>,
    ) -> Result<(), SetLinkError> {
        let bridge = bridge.map_or(0, |bridge| bridge.0);
        self.set_attribute(index, LinkAttribute::Controller(bridge))
            .await
    }

    /// Sets the properties of a bridge port.
    ///
    /// # Errors
    /// With errno `INVAL` or `OPNOTSUPP` when it is not in a bridge. A kernel that does not know
    /// one of them ignores it: read them back.
    pub async fn set_bridge_port_flags(
        &self,
        port: LinkIndex,
        flags: BridgePortFlags,
    ) -> Result<(), SetLinkError> {
        let properties = vec![
            InfoBridgePort::Learning(flags.learning.is_on()),
            InfoBridgePort::UnicastFlood(flags.unicast_flood.is_on()),
            InfoBridgePort::Locked(flags.locked.is_on()),
        ];
        let mut message = LinkMessage::default();
        message.header.index = port.0;
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(properties)),
        ]));
        // NEWLINK without CREATE changes; SETLINK does not look into the port's data
        // (`rtnl_changelink` and `do_setlink` in net/core/rtnetlink.c).
        let done = self.change(RouteNetlinkMessage::NewLink(message), 0).await;
        done.map_err(|cause| SetLinkError { index: port, cause })
    }

    /// The properties of a bridge port; `None` when the link is in no bridge.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn bridge_port_flags(
        &self,
        port: LinkIndex,
    ) -> Result<Option<BridgePortFlags>, GetLinkError> {
        Ok(self.link_message(port).await?.and_then(bridge_port_flags))
    }

    /// Tells the bridge that `mac` is behind `port`, for good, in every VLAN the port is in: seen
    /// elsewhere, the address does not move there (`NTF_STICKY`). Again is fine.
    ///
    /// # Errors
    /// With errno `INVAL` when the link is in no bridge.
    pub async fn add_static_address(
        &self,
        port: LinkIndex,
        mac: MacAddr,
    ) -> Result<(), AddStaticAddressError> {
        let request = RouteNetlinkMessage::NewNeighbour(static_address(port, mac));
        let done = self.change(request, NLM_F_CREATE | NLM_F_REPLACE).await;
        done.map_err(|cause| AddStaticAddressError { mac, port, cause })
    }

    /// Takes back [`Self::add_static_address`]; that there is no such entry is fine.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn remove_static_address(
        &self,
        port: LinkIndex,
        mac: MacAddr,
    ) -> Result<(), AddStaticAddressError> {
        let request = RouteNetlinkMessage::DelNeighbour(static_address(port, mac));
        match self.change(request, 0).await {
            Err(error) if matches!(error.errno(), Some(Errno::NOENT | Errno::NODEV)) => Ok(()),
            done => done.map_err(|cause| AddStaticAddressError { mac, port, cause }),
        }
    }

    /// The addresses the bridge was told to be behind `port`, each once.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn static_addresses(
        &self,
        port: LinkIndex,
    ) -> Result<Vec<MacAddr>, ListStaticAddressesError> {
        let mut question = NeighbourMessage::default();
        question.header.family = AddressFamily::Bridge;
        question.header.ifindex = port.0;
        let request = RouteNetlinkMessage::GetNeighbour(question);
        let list = self
            .list(request, |answer| known_address(answer, port))
            .await;
        let mut list = list.map_err(|cause| ListStaticAddressesError { port, cause })?;
        list.sort_unstable();
        list.dedup();
        Ok(list)
    }

    /// Makes an intermediate functional block device: a queue through which frames that come in can
    /// be sent as though they went out, so that they can be shaped.
    ///
    /// # Errors
    /// With errno `EXIST` when the name is taken, `OPNOTSUPP` when the kernel has no `ifb`.
    pub async fn add_ifb(&self, name: &LinkName) -> Result<(), AddIfbError> {
        let done = self.add_link(name, InfoKind::Ifb).await;
        done.map_err(|cause| AddIfbError {
            name: name.clone(),
            cause,
        })
    }

    /// Makes a bridge without ports, switched off.
    ///
    /// # Errors
    /// With errno `EXIST` when the name is taken, `OPNOTSUPP` when the kernel has no `bridge`.
    pub async fn add_bridge(&self, name: &LinkName) -> Result<(), AddBridgeError> {
        let done = self.add_link(name, InfoKind::Bridge).await;
        done.map_err(|cause| AddBridgeError {
            name: name.clone(),
            cause,
        })
    }

    async fn add_link(&self, name: &LinkName, kind: InfoKind) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_string()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]),
        ];
        let flags = NLM_F_CREATE | netlink_packet_core::NLM_F_EXCL;
        self.change(RouteNetlinkMessage::NewLink(message), flags)
            .await
    }

    /// Keeps the kernel from making up an IPv6 address for a link (`addrgenmode none`). That IPv6
    /// is not there at all is fine.
    ///
    /// # Errors
    /// With errno `NODEV` when there is no such link.
    pub async fn disable_address_generation(&self, index: LinkIndex) -> Result<(), SetLinkError> {
        let none = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        let family = AfSpecUnspec::Inet6(vec![none]);
        match self
            .set_attribute(index, LinkAttribute::AfSpecUnspec(vec![family]))
            .await
        {
            Err(error) if error.errno() == Some(Errno::AFNOSUPPORT) => Ok(()),
            done => done,
        }
    }

    async fn set_attribute(
        &self,
        index: LinkIndex,
        attribute: LinkAttribute,
    ) -> Result<(), SetLinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index.0;
        message.attributes.push(attribute);
        let done = self.change(RouteNetlinkMessage::SetLink(message), 0).await;
        done.map_err(|cause| SetLinkError { index, cause })
    }
}

fn static_address(port: LinkIndex, mac: MacAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = port.0;
    // NOARP is what bridge(8) calls static; PERMANENT would make the address the bridge's own.
    message.header.state = NeighbourState::Noarp;
    message.header.flags = NeighbourFlags::Controller | NeighbourFlags::Sticky;
    message
        .attributes
        .push(NeighbourAttribute::LinkLayerAddress(mac.octets().to_vec()));
    message
}

fn known_address(message: RouteNetlinkMessage, port: LinkIndex) -> Option<MacAddr> {
    let RouteNetlinkMessage::NewNeighbour(entry) = message else {
        return None;
    };
    if entry.header.ifindex != port.0 || entry.header.state != NeighbourState::Noarp {
        return None;
    }
    entry.attributes.iter().find_map(|attribute| {
        let NeighbourAttribute::LinkLayerAddress(octets) = attribute else {
            return None;
        };
        MacAddr::new(octets.as_slice().try_into().ok()?).ok()
    })
}

fn bridge_port_flags(message: LinkMessage) -> Option<BridgePortFlags> {
    let infos = message.attributes.into_iter().find_map(|attribute| {
        if let LinkAttribute::LinkInfo(infos) = attribute {
            Some(infos)
        } else {
            None
        }
    })?;
    let properties = infos.into_iter().find_map(|info| {
        if let LinkInfo::PortData(InfoPortData::BridgePort(properties)) = info {
            Some(properties)
        } else {
            None
        }
    })?;
    let is_on = |wanted: InfoBridgePort| Switch::of(properties.contains(&wanted));
    Some(BridgePortFlags {
        learning: is_on(InfoBridgePort::Learning(true)),
        unicast_flood: is_on(InfoBridgePort::UnicastFlood(true)),
        locked: is_on(InfoBridgePort::Locked(true)),
    })
}
