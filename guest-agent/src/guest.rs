//! The two namespaces the agent always has: the guest's own, where links arrive, and the holding
//! one, where they wait.
//!
//! The holding namespace has a name, so that it and the links in it outlive the agent. IPv6 is off
//! in it: a link that waits must not even say hello.

use std::io;

use agent_protocol::WantedNic;
use nic_binding::{Admin, LinkSeen};
use nic_model::{BootId, NetnsName};

use crate::identity::{Device, IdentifyBy, Identity};
use crate::kernel::{
    AdminState, ConnectNetlinkError, GuestKernel, Ipv6, Ipv6Scope, LinkIndex, LinkView,
    ListLinksError, OpenNetnsError, Rtnetlink,
};

/// A namespace and a connection into it. Whoever keeps one keeps the namespace alive.
#[derive(Debug, Clone)]
pub(crate) struct Space<K: GuestKernel> {
    pub(crate) netns: K::Netns,
    pub(crate) netlink: K::Rtnetlink,
}

impl<K: GuestKernel> Space<K> {
    pub(crate) async fn open(kernel: &K, netns: K::Netns) -> Result<Self, ConnectNetlinkError> {
        let netlink = kernel.connect(&netns).await?;
        Ok(Self { netns, netlink })
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        self.netns == other.netns
    }
}

/// One link, where it can be acted on.
#[derive(Debug, Clone)]
pub(crate) struct Located<K: GuestKernel> {
    pub(crate) space: Space<K>,
    pub(crate) index: LinkIndex,
}

/// What the agent has from its start to its end.
#[derive(Debug)]
pub(crate) struct Guest<K: GuestKernel> {
    pub(crate) kernel: K,
    pub(crate) own: Space<K>,
    pub(crate) holding: Space<K>,
    identify_by: IdentifyBy,
    /// The running kernel's.
    pub(crate) boot_id: BootId,
}

/// Why the agent cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum EnterGuestError {
    /// One of the two namespaces could not be opened.
    #[error("failed to open the {which} network namespace")]
    Open {
        /// Which.
        which: &'static str,
        /// Why.
        #[source]
        cause: OpenNetnsError,
    },
    /// The kernel could not be asked about it.
    #[error("failed to connect to the {which} network namespace")]
    Connect {
        /// Which.
        which: &'static str,
        /// Why.
        #[source]
        cause: ConnectNetlinkError,
    },
    /// The boot id cannot be read.
    #[error("failed to read the boot id")]
    BootId(#[source] io::Error),
}

impl<K: GuestKernel> Guest<K> {
    pub(crate) async fn enter(
        kernel: K,
        holding: &NetnsName,
        identify_by: IdentifyBy,
    ) -> Result<Self, EnterGuestError> {
        let own = open(&kernel, "own", kernel.own_netns()).await?;
        let holding = kernel.named_netns_or_new(holding);
        let holding = open(&kernel, "holding", holding).await?;
        let off = kernel.set_ipv6(&holding.netns, Ipv6Scope::All, Ipv6::Off);
        if let Err(error) = off.await {
            // A kernel without IPv6 has nothing to switch off.
            tracing::info!(%error, "IPv6 stays as it is in the holding namespace");
        }
        Ok(Self {
            own,
            holding,
            identify_by,
            boot_id: kernel.boot_id().map_err(EnterGuestError::BootId)?,
            kernel,
        })
    }

    /// Every link in the holding namespace.
    pub(crate) async fn held(&self) -> Result<Vec<LinkView>, ListLinksError> {
        self.holding.netlink.links().await
    }

    /// Who `link` is, in whatever namespace it was seen.
    pub(crate) fn identity(&self, link: &LinkView) -> Identity {
        self.identify_by.identity(&self.kernel, link)
    }

    /// Whether the device of a NIC is plugged, wherever its link is.
    pub(crate) fn device(&self, wanted: &WantedNic) -> Device {
        self.identify_by.device(&self.kernel, wanted)
    }
}

async fn open<K: GuestKernel>(
    kernel: &K,
    which: &'static str,
    netns: Result<K::Netns, OpenNetnsError>,
) -> Result<Space<K>, EnterGuestError> {
    let netns = netns.map_err(|cause| EnterGuestError::Open { which, cause })?;
    let space = Space::open(kernel, netns).await;
    space.map_err(|cause| EnterGuestError::Connect { which, cause })
}

/// A link in the terms of the decisions, its addresses and routes not looked up.
pub(crate) fn seen(link: &LinkView) -> LinkSeen {
    LinkSeen {
        name: link.name.clone(),
        mac: link.mac,
        mtu: link.mtu,
        admin: match link.admin {
            AdminState::Up => Admin::Up,
            AdminState::Down => Admin::Down,
        },
        addresses: Vec::new(),
        routes: Vec::new(),
    }
}

/// An error and its causes on one line, for a report.
pub(crate) fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
