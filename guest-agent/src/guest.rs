//! The two namespaces the agent always has: the guest's own, where links arrive, and the holding
//! one, where they wait.
//!
//! The holding namespace has a name, so that it and the links in it outlive the agent. IPv6 is off
//! in it: a link that waits must not even say hello.

use std::{fs, io};

use linux_network::{
    AdminState, ConnectNetlinkError, LinkIndex, LinkView, ListLinksError, Netlink, Netns,
    OpenNetnsError, sysctl,
};
use nic_binding::{Admin, LinkSeen};
use nic_model::{BootId, NetnsName};

use crate::identity::IdentifyBy;

/// A namespace and a connection into it. Whoever keeps one keeps the namespace alive.
#[derive(Debug, Clone)]
pub(crate) struct Space {
    pub(crate) netns: Netns,
    pub(crate) netlink: Netlink,
}

impl Space {
    pub(crate) async fn open(netns: Netns) -> Result<Self, ConnectNetlinkError> {
        let netlink = Netlink::connect(&netns).await?;
        Ok(Self { netns, netlink })
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        self.netns == other.netns
    }
}

/// One link, where it can be acted on.
#[derive(Debug, Clone)]
pub(crate) struct Located {
    pub(crate) space: Space,
    pub(crate) index: LinkIndex,
}

/// What the agent has from its start to its end.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) own: Space,
    pub(crate) holding: Space,
    pub(crate) identify_by: IdentifyBy,
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

impl Guest {
    pub(crate) async fn enter(
        holding: &NetnsName,
        identify_by: IdentifyBy,
    ) -> Result<Self, EnterGuestError> {
        let own = open("own", Netns::own()).await?;
        let holding = open("holding", Netns::named_or_create(holding)).await?;
        for scope in ["all", "default"] {
            let setting = format!("ipv6/conf/{scope}/disable_ipv6");
            if let Err(error) = sysctl::set(&holding.netns, &setting, "1").await {
                // A kernel without IPv6 has nothing to switch off.
                tracing::info!(%error, "IPv6 stays as it is in the holding namespace");
            }
        }
        Ok(Self {
            own,
            holding,
            identify_by,
            boot_id: boot_id().map_err(EnterGuestError::BootId)?,
        })
    }

    /// Every link in the holding namespace.
    pub(crate) async fn held(&self) -> Result<Vec<LinkView>, ListLinksError> {
        self.holding.netlink.links().await
    }
}

fn boot_id() -> io::Result<BootId> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    text.trim_end().parse().map_err(io::Error::other)
}

async fn open(
    which: &'static str,
    netns: Result<Netns, OpenNetnsError>,
) -> Result<Space, EnterGuestError> {
    let netns = netns.map_err(|cause| EnterGuestError::Open { which, cause })?;
    let space = Space::open(netns).await;
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
