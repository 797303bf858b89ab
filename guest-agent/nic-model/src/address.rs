//! How a link gets its addresses, and its routes.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// How the link of a NIC gets its addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case", deny_unknown_fields)]
pub enum Addressing {
    /// Exactly these, each with the prefix length of its subnet. IPv6 ones are used at once
    /// (optimistic): the allocator keeps them unique, so waiting for DAD would only cost a second.
    Static {
        /// Host addresses with the prefix length of their subnet.
        addresses: Vec<IpNet>,
    },
    /// IPv4 by DHCP, renewed for as long as the NIC is bound; these IPv6 addresses besides.
    Dhcp {
        /// Static addresses beside the leased one.
        #[serde(default)]
        addresses: Vec<IpNet>,
    },
}

impl Addressing {
    /// The addresses that are known before the guest is asked.
    #[must_use]
    pub fn addresses(&self) -> &[IpNet] {
        match self {
            Self::Static { addresses } | Self::Dhcp { addresses } => addresses,
        }
    }
}

/// One route of a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Where to, in CIDR form; `0.0.0.0/0` and `::/0` are the default routes.
    pub destination: IpNet,
    /// Next hop; without one the destination is on the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Preference: the lower wins; the kernel's own default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<u32>,
}
