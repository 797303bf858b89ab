//! What was seen of one NIC: the only input besides the host's wish.

use nic_model::{IpNet, Ipv4Net, MacAddr, NetnsInode, Route, TargetIdentity};

/// Everything a decision needs, looked up in one go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    /// Where the link is.
    pub place: LinkPlace,
    /// What has become of the wanted target.
    pub target: TargetSight,
}

/// Where a NIC's link is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkPlace {
    /// There is no such device.
    Nowhere,
    /// The device is there, but no namespace that can be reached has its link.
    Hidden,
    /// In the guest's own namespace.
    Guest(LinkSeen),
    /// In the holding namespace.
    Holding(LinkSeen),
    /// In the wanted target.
    Target(LinkSeen),
    /// In a namespace that is none of these: the target of an earlier wish, or one that has died.
    Elsewhere(LinkSeen),
}

impl LinkPlace {
    /// The link, wherever it is.
    #[must_use]
    pub fn link(&self) -> Option<&LinkSeen> {
        match self {
            Self::Nowhere | Self::Hidden => None,
            Self::Guest(link)
            | Self::Holding(link)
            | Self::Target(link)
            | Self::Elsewhere(link) => Some(link),
        }
    }
}

/// A link as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSeen {
    /// Its name.
    pub name: String,
    /// Its address, where it has one that a station may have.
    pub mac: Option<MacAddr>,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Whether it is switched on.
    pub admin: Admin,
    /// Its addresses, link-local ones left out.
    pub addresses: Vec<IpNet>,
    /// Routes through it.
    pub routes: Vec<Route>,
}

/// Whether a link is switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admin {
    /// It is.
    Up,
    /// It is not.
    Down,
}

/// What has become of the namespace a NIC is wanted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetSight {
    /// None is wanted.
    NotWanted,
    /// It is there.
    Present {
        /// What it is.
        identity: TargetIdentity,
        /// Whether another link has the wanted name in it.
        name: NameInTarget,
    },
    /// No such process or name, or not any more: a pid may be another process's by now.
    Gone,
    /// The process is in another namespace than the host was told.
    Changed {
        /// Where it is.
        found: NetnsInode,
    },
    /// It is the guest's own namespace, or the holding one.
    IsGuest,
}

/// Whether a link other than the NIC's own has the wanted name in the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameInTarget {
    /// None has, as far as was seen.
    Free,
    /// One has.
    Taken,
}

/// How the DHCP client of a NIC stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseSight {
    /// There is none.
    Idle,
    /// It asks for a lease, the first one or one in place of a lost one.
    Pending,
    /// It has one and renews it.
    Granted(Lease),
    /// It had no answer to its first requests and has given up.
    Refused {
        /// How long it asked, in milliseconds.
        waited_ms: u64,
    },
}

/// What a DHCP server granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address with the prefix length of its subnet.
    pub address: Ipv4Net,
    /// Routes that came with it: the default route or classless ones (RFC 3442).
    pub routes: Vec<Route>,
}
