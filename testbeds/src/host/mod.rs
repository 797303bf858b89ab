//! The piece of host that a world stands on, as scenarios see it: hostd's links, what others put
//! beside them, a DHCP server. None of it is asked of hostd.
//!
//! A host of the machine's own kernel is a [`Site`]; it offers a namespace to run programs in as
//! well, for what only such a host can do.

mod dhcp;
mod site;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Result, bail};
use async_trait::async_trait;
use nic_model::{IpNet, MacAddr};

use crate::site::Site;

/// Links, bridge ports and queueing disciplines of a host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostState {
    /// Each link by name, with the bridge it is a port of.
    pub links: BTreeMap<String, Option<String>>,
    /// Queueing disciplines by the link they are on.
    pub qdiscs: BTreeMap<String, BTreeSet<String>>,
}

/// One host.
#[async_trait(?Send)]
pub trait Host: fmt::Debug {
    /// Its links.
    async fn state(&self) -> Result<HostState>;

    /// IPv6 addresses of one of its links.
    async fn ipv6_addresses(&self, link: &str) -> Result<Vec<IpNet>>;

    /// Addresses of neighbours that its bridge has seen behind a port.
    async fn learned(&self, port: &str) -> Result<BTreeSet<MacAddr>>;

    /// Makes a link behind hostd's back.
    async fn plant(&self, name: &str, link: Planted) -> Result<()>;

    /// Takes away what [`Self::plant`] has made.
    async fn remove_planted(&self, name: &str) -> Result<()>;

    /// Puts a queueing discipline on the bridge, which is nobody's but the host's.
    async fn disturb_bridge(&self) -> Result<()>;

    /// Ends [`Self::disturb_bridge`].
    async fn restore_bridge(&self) -> Result<()>;

    /// Takes a port out of its bridge, as an operator's mistake would.
    async fn take_out_of_bridge(&self, port: &str) -> Result<()>;

    /// Starts a DHCP server on the network. It asks its clients to renew after
    /// [`crate::site::RENEWAL_SECONDS`], and ends when it is dropped.
    async fn start_dhcp_server(&self) -> Result<Box<dyn DhcpServer>>;

    /// What a person would look at, by title, for a failure's report.
    async fn details(&self) -> Vec<(String, Result<String>)>;

    /// The namespace behind it, for what only the machine's own kernel can do: a scenario that
    /// asks for it says which worlds have none.
    ///
    /// # Errors
    /// When there is none.
    fn site(&self) -> Result<&Site> {
        bail!("this world's host is no namespace of this machine")
    }
}

/// What is planted behind hostd's back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// A tap in no network.
    LooseTap,
    /// A tap in the network, switched on.
    TapInNetwork,
    /// A bridge.
    Bridge,
}

/// A DHCP server that runs.
#[async_trait(?Send)]
pub trait DhcpServer: fmt::Debug {
    /// How often it has granted the holder of `mac` its lease.
    async fn grants(&self, mac: MacAddr) -> Result<usize>;

    /// How often the holder of `mac` has begun to look for a server.
    async fn discoveries(&self, mac: MacAddr) -> Result<usize>;

    /// What it has logged.
    async fn log(&self) -> Result<String>;
}
