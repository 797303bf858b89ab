//! Ports of a Linux bridge that let a VM use its own address and no other.
//!
//! ```text
//!   tap down ─► no IPv6 ─► rates ─► into the bridge ─► locked, one address ─► read back ─► up
//! ```
//!
//! The port is locked, does not learn, and gets no frames for addresses the bridge does not know
//! ([`linux_network::bridge`]). A port that is up but not so secured is switched off before it is
//! corrected.

use async_trait::async_trait;
use linux_network::bridge::{BridgePortFlags, Switch};
use linux_network::{AdminState, ConnectNetlinkError, LinkIndex, Netns};
use nic_model::{LinkName, NicId};

use crate::host::{During, Failure, FoundTap, Host, Origin};
use crate::{
    Cause, Device, IsolatePortError, ListPortsError, MakePortError, Port, PortProvider, PortSpec,
    PortView, RemovalClaim, RemovePortError,
};

const SECURED: BridgePortFlags = BridgePortFlags {
    learning: Switch::Off,
    unicast_flood: Switch::Off,
    locked: Switch::On,
};

/// Ports in one Linux bridge.
#[derive(Debug, Clone)]
pub struct BridgePorts {
    host: Host,
    bridge: LinkName,
}

/// Why a bridge cannot have ports of ours: for the operator to put right.
#[derive(Debug, thiserror::Error)]
pub enum BridgeUnusable {
    /// There is no link of that name.
    #[error("bridge {0} does not exist")]
    Missing(LinkName),
    /// The link of that name is something else.
    #[error("{0} is not a bridge")]
    NotABridge(LinkName),
    /// It carries no frames.
    #[error("bridge {0} is down")]
    Down(LinkName),
    /// The kernel ignores what keeps a VM from using foreign addresses.
    #[error("the kernel cannot lock the ports of a bridge: that takes Linux 5.18 or newer")]
    NoLockedPorts,
}

impl BridgePorts {
    /// Ports in `bridge` in the namespace `netns`, which are of the kind `device`. The bridge is
    /// looked at when a port is made.
    ///
    /// # Errors
    /// When the kernel cannot be talked to there.
    pub async fn connect(
        netns: &Netns,
        bridge: LinkName,
        device: Device,
    ) -> Result<Self, ConnectNetlinkError> {
        Ok(Self {
            host: Host::connect(netns, device).await?,
            bridge,
        })
    }

    /// Whether the bridge is there and carries frames, before anything is made.
    async fn bridge(&self) -> Result<LinkIndex, Failure> {
        let step = "find its bridge";
        let name = || self.bridge.clone();
        let found = self
            .host
            .netlink
            .link_by_name(&self.bridge)
            .await
            .during(step)?;
        let link = found
            .ok_or_else(|| BridgeUnusable::Missing(name()))
            .during(step)?;
        if link.kind.as_deref() != Some("bridge") {
            return Err(BridgeUnusable::NotABridge(name())).during(step);
        }
        if link.admin == AdminState::Down {
            return Err(BridgeUnusable::Down(name())).during(step);
        }
        Ok(link.index)
    }

    async fn finish(
        &self,
        tap: &FoundTap,
        bridge: LinkIndex,
        spec: &PortSpec,
    ) -> Result<(), Failure> {
        let index = tap.link.index;
        let is_secured = self.is_secured(tap, bridge, spec).await?;
        if !is_secured && tap.link.admin == AdminState::Up {
            self.host
                .set_admin(index, AdminState::Down)
                .await
                .during("switch off its tap")?;
        }
        self.host.silence(&tap.link).await?;
        self.host.dress(&tap.link, spec).await?;
        self.host.limit(tap, spec).await?;
        if !is_secured {
            self.secure(tap, bridge, spec).await?;
        }
        self.host
            .set_admin(index, AdminState::Up)
            .await
            .during("switch on its tap")
    }

    async fn is_secured(
        &self,
        tap: &FoundTap,
        bridge: LinkIndex,
        spec: &PortSpec,
    ) -> Result<bool, Failure> {
        if tap.origin == Origin::Made || tap.link.master != Some(bridge) {
            return Ok(false);
        }
        let (step, index) = ("look at its bridge port", tap.link.index);
        let flags = self
            .host
            .netlink
            .bridge_port_flags(index)
            .await
            .during(step)?;
        let addresses = self
            .host
            .netlink
            .static_addresses(index)
            .await
            .during(step)?;
        Ok(flags == Some(SECURED) && addresses == [spec.mac])
    }

    /// Leaving the bridge first makes it forget every address it was told to be behind the port.
    async fn secure(
        &self,
        tap: &FoundTap,
        bridge: LinkIndex,
        spec: &PortSpec,
    ) -> Result<(), Failure> {
        let (netlink, index) = (&self.host.netlink, tap.link.index);
        if tap.link.master.is_some() {
            netlink
                .set_master(index, None)
                .await
                .during("take its tap out of another bridge")?;
        }
        netlink
            .set_master(index, Some(bridge))
            .await
            .during("put its tap into the bridge")?;
        let step = "secure its bridge port";
        netlink
            .set_bridge_port_flags(index, SECURED)
            .await
            .during(step)?;
        if netlink.bridge_port_flags(index).await.during(step)? != Some(SECURED) {
            return Err(BridgeUnusable::NoLockedPorts).during(step);
        }
        netlink
            .add_static_address(index, spec.mac)
            .await
            .during(step)
    }

    async fn cut_off(&self, nic: &NicId) -> Result<(), Cause> {
        let stopped = self.host.stop(nic).await?;
        self.host.leave(stopped.tap.as_ref()).await
    }
}

#[async_trait]
impl PortProvider for BridgePorts {
    async fn make(&self, spec: &PortSpec) -> Result<Port, MakePortError> {
        let failed = |failure| MakePortError::new(spec, failure);
        let bridge = self.bridge().await.map_err(failed)?;
        let tap = self.host.tap(spec).await.map_err(failed)?;
        if let Err(failure) = self.finish(&tap, bridge, spec).await {
            self.host.undo(&spec.nic, tap.origin).await;
            return Err(failed(failure));
        }
        Ok(self.host.port(spec, tap))
    }

    async fn isolate(&self, nic: &NicId) -> Result<(), IsolatePortError> {
        let done = self.cut_off(nic).await;
        done.map_err(|cause| IsolatePortError {
            nic: nic.clone(),
            cause,
        })
    }

    async fn remove(&self, nic: &NicId, claim: RemovalClaim) -> Result<(), RemovePortError> {
        let done = self.host.remove(nic, claim).await;
        done.map_err(|cause| RemovePortError {
            nic: nic.clone(),
            cause,
        })
    }

    fn bridge(&self) -> Option<&LinkName> {
        Some(&self.bridge)
    }

    async fn ports(&self) -> Result<Vec<PortView>, ListPortsError> {
        self.host.ports().await.map_err(ListPortsError)
    }

    async fn port(&self, nic: &NicId) -> Result<Option<PortView>, ListPortsError> {
        self.host.find(nic).await.map_err(ListPortsError)
    }
}
