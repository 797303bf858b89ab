//! A link as the kernel describes it.

use std::fmt;

use netlink_packet_core::{NLA_F_NESTED, NlaBuffer, NlasIterator, ParseableParametrized};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkHeader, LinkInfo, LinkMessage};
use nic_model::MacAddr;

/// A link's number, unique within its network namespace while the link is in it. Moving a link may
/// change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkIndex(pub u32);

impl fmt::Display for LinkIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether a link is switched on (`IFF_UP`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminState {
    /// It is.
    Up,
    /// It is not: it carries no frames.
    Down,
}

/// Whether the other end is there (`IFF_LOWER_UP`). A link that is switched off has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// It is.
    Present,
    /// It is not.
    Absent,
}

/// One link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkView {
    /// Its number.
    pub index: LinkIndex,
    /// Its name.
    pub name: String,
    /// Its Ethernet address; `None` where it has none that a station may have (`lo`).
    pub mac: Option<MacAddr>,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Whether it is switched on.
    pub admin: AdminState,
    /// Whether the other end is there.
    pub carrier: Carrier,
    /// The same as its driver knows it, switched on or not (`IFLA_CARRIER`). The far end of a tap
    /// is whichever process holds a queue of it.
    pub far_end: Carrier,
    /// Free text that somebody attached to it.
    pub alias: Option<String>,
    /// What made it: `tun`, `bridge`, `ifb`, `veth`; `None` for a device with a driver of its own,
    /// as virtio-net.
    pub kind: Option<String>,
    /// The device it belongs to, such as `virtio3` (`IFLA_PARENT_DEV_NAME`, Linux 5.14).
    pub parent_device: Option<String>,
    /// The bridge or bond it is part of.
    pub master: Option<LinkIndex>,
}

impl From<LinkMessage> for LinkView {
    fn from(message: LinkMessage) -> Self {
        let mut view = Self::new(&message.header);
        for attribute in message.attributes {
            view.take(attribute);
        }
        view
    }
}

impl LinkView {
    fn new(header: &LinkHeader) -> Self {
        let flags = header.flags;
        Self {
            index: LinkIndex(header.index),
            name: String::new(),
            mac: None,
            mtu: 0,
            admin: if flags.contains(LinkFlags::Up) {
                AdminState::Up
            } else {
                AdminState::Down
            },
            carrier: carrier(flags),
            far_end: Carrier::Absent,
            alias: None,
            kind: None,
            parent_device: None,
            master: None,
        }
    }

    /// Of a message about a link, without taking apart what is not wanted of it. `None` when it
    /// is none.
    pub(crate) fn read(message: &[u8]) -> Option<Self> {
        let header = LinkHeader::parse(message).ok()?;
        let mut view = Self::new(&header);
        for attribute in NlasIterator::new(message.get(HEADER_BYTES..)?) {
            let attribute = attribute.ok()?;
            match attribute.kind() & !NLA_F_NESTED {
                LINK_INFO => view.kind = kind_in(attribute.value()),
                kind if WANTED.contains(&kind) => {
                    let family = header.interface_family;
                    view.take(LinkAttribute::parse_with_param(&attribute, family).ok()?);
                }
                _ => {}
            }
        }
        Some(view)
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the kernel tells sixty things more"
    )]
    fn take(&mut self, attribute: LinkAttribute) {
        match attribute {
            LinkAttribute::IfName(name) => self.name = name,
            LinkAttribute::Address(octets) => self.mac = mac(&octets),
            LinkAttribute::Mtu(bytes) => self.mtu = bytes,
            LinkAttribute::Carrier(0) => self.far_end = Carrier::Absent,
            LinkAttribute::Carrier(_) => self.far_end = Carrier::Present,
            LinkAttribute::IfAlias(text) if !text.is_empty() => self.alias = Some(text),
            LinkAttribute::ParentDevName(name) => self.parent_device = Some(name),
            LinkAttribute::Controller(index) if index != 0 => self.master = Some(LinkIndex(index)),
            LinkAttribute::LinkInfo(infos) => self.kind = kind(infos),
            _ => {}
        }
    }
}

/// `struct ifinfomsg`, and the attributes that a view is made of: `IFLA_ADDRESS`, `IFLA_IFNAME`,
/// `IFLA_MTU`, `IFLA_MASTER`, `IFLA_IFALIAS`, `IFLA_CARRIER`, `IFLA_PARENT_DEV_NAME`, and within
/// `IFLA_LINKINFO` `IFLA_INFO_KIND` (include/uapi/linux/{rtnetlink,if_link}.h).
const HEADER_BYTES: usize = 16;
const WANTED: [u16; 7] = [1, 3, 4, 10, 20, 33, 56];
const LINK_INFO: u16 = 18;
const INFO_KIND: u16 = 1;

fn kind_in(info: &[u8]) -> Option<String> {
    let mut parts = NlasIterator::new(info).filter_map(Result::ok);
    let kind = parts.find(|part: &NlaBuffer<&[u8]>| part.kind() == INFO_KIND)?;
    let text = std::str::from_utf8(kind.value()).ok()?;
    Some(text.trim_end_matches('\0').to_owned())
}

fn carrier(flags: LinkFlags) -> Carrier {
    if flags.contains(LinkFlags::LowerUp) {
        Carrier::Present
    } else {
        Carrier::Absent
    }
}

fn mac(octets: &[u8]) -> Option<MacAddr> {
    MacAddr::new(octets.try_into().ok()?).ok()
}

fn kind(infos: Vec<LinkInfo>) -> Option<String> {
    infos.into_iter().find_map(|info| {
        if let LinkInfo::Kind(kind) = info {
            Some(kind.to_string())
        } else {
            None
        }
    })
}
