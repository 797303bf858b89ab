//! Plain taps: the port ends at the tap, and the operator wires it to a network.
//!
//! Rates are limited; which addresses the VM uses is for the operator's network to check. A wiring
//! that was made by hand survives: `isolate` only switches the tap off.

use async_trait::async_trait;
use linux_network::{AdminState, ConnectNetlinkError, Netns};
use nic_model::{LinkName, NicId};

use crate::host::{During, Failure, FoundTap, Host};
use crate::{
    Device, IsolatePortError, ListPortsError, MakePortError, Port, PortProvider, PortSpec,
    PortView, RemovalClaim, RemovePortError,
};

/// Ports that are taps and nothing else.
#[derive(Debug, Clone)]
pub struct TapPorts {
    host: Host,
}

impl TapPorts {
    /// Taps of the namespace `netns`.
    ///
    /// # Errors
    /// When the kernel cannot be talked to there.
    pub async fn connect(netns: &Netns) -> Result<Self, ConnectNetlinkError> {
        Ok(Self {
            host: Host::connect(netns, Device::Tap).await?,
        })
    }

    async fn finish(&self, tap: &FoundTap, spec: &PortSpec) -> Result<(), Failure> {
        self.host.silence(&tap.link).await?;
        self.host.dress(&tap.link, spec).await?;
        self.host.limit(tap, spec).await?;
        self.host
            .set_admin(tap.link.index, AdminState::Up)
            .await
            .during("switch on its tap")
    }
}

#[async_trait]
impl PortProvider for TapPorts {
    async fn make(&self, spec: &PortSpec) -> Result<Port, MakePortError> {
        let failed = |failure| MakePortError::new(spec, failure);
        let tap = self.host.tap(spec).await.map_err(failed)?;
        if let Err(failure) = self.finish(&tap, spec).await {
            self.host.undo(&spec.nic, tap.origin).await;
            return Err(failed(failure));
        }
        Ok(self.host.port(spec, tap))
    }

    async fn isolate(&self, nic: &NicId) -> Result<(), IsolatePortError> {
        let done = self.host.stop(nic).await;
        done.map(drop).map_err(|cause| IsolatePortError {
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
        None
    }

    async fn ports(&self) -> Result<Vec<PortView>, ListPortsError> {
        self.host.ports().await.map_err(ListPortsError)
    }

    async fn port(&self, nic: &NicId) -> Result<Option<PortView>, ListPortsError> {
        self.host.find(nic).await.map_err(ListPortsError)
    }
}
