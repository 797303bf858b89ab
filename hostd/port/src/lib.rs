//! The host end of a NIC: trait [`PortProvider`], Linux bridge and plain tap.
//!
//! ```text
//!   make:    tap down, no IPv6 ──► filters and rates on ──► into its network ──► up
//!   isolate: down, out of its network                       (frames stop, objects stay)
//!   remove:  down ──► out of its network ──► tap and everything named after the NIC gone
//! ```
//!
//! No frame passes before the filters are on, none after `isolate` or `remove` has returned.
//! Removing takes the kernel 15 ms a link: whoever has somebody waiting isolates first and removes
//! later. A tap outlives whoever held it, so nothing of a port ever goes by itself. Every object
//! bears a name derived from the NIC's id, so each method may be repeated after a crash and finds
//! its own work, and [`PortProvider::ports`] finds what nobody owns any more.

mod bridge_ports;
mod host;
mod limits;
mod tap_ports;

use async_trait::async_trait;
use hypervisor::Descriptor;
pub use hypervisor::TapAccess;
use nic_model::{LinkName, MacAddr, Mtu, NicId, RateLimits};

pub use bridge_ports::{BridgePorts, BridgeUnusable};
pub use tap_ports::TapPorts;

/// Makes and removes ports of one network.
#[async_trait]
pub trait PortProvider: Send + Sync + 'static {
    /// Brings the port to the state `spec` asks for, whatever part of it exists.
    async fn make(&self, spec: &PortSpec) -> Result<Port, MakePortError>;

    /// Cuts the port off from its network at once; no port is fine too.
    async fn isolate(&self, nic: &NicId) -> Result<(), IsolatePortError>;

    /// Removes every object of the port; what is gone already is fine. It may go on after this has
    /// failed or is waited for no more: `claim` tells when nothing more is going to be removed.
    async fn remove(&self, nic: &NicId, claim: RemovalClaim) -> Result<(), RemovePortError>;

    /// The bridge that its ports belong in; `None` where wiring them is the operator's business.
    fn bridge(&self) -> Option<&LinkName>;

    /// Every port of ours that has any object on this host, of this network or not.
    async fn ports(&self) -> Result<Vec<PortView>, ListPortsError>;

    /// One of them; `None` when it has no object.
    async fn port(&self, nic: &NicId) -> Result<Option<PortView>, ListPortsError>;
}

/// Whatever keeps others from making a port while it is removed: dropped when that has ended.
pub type RemovalClaim = Box<dyn Send>;

/// A port as it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSpec {
    /// Whose port; every object's name derives from it.
    pub nic: NicId,
    /// The only source address the port lets in.
    pub mac: MacAddr,
    /// Largest packet.
    pub mtu: Mtu,
    /// Queues of the tap, 1 or more.
    pub queue_count: u16,
    /// Rates, as seen from the VM.
    pub limits: RateLimits,
    /// How the hypervisor comes to the tap.
    pub access: TapAccess,
}

/// What a port is to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// A tap, which a process holds.
    Tap,
    /// The near end of a pair of virtual links, for hosts whose users may not open `/dev/net/tun`.
    /// The far end lies beside it, switched off, until whoever carries its frames switches it on.
    Veth,
}

/// A port that has been made and is up.
#[derive(Debug)]
pub struct Port {
    /// What a hypervisor opens: the tap, or the far end of the pair.
    pub tap: String,
    /// How it comes to that.
    pub access: TapAccess,
    /// One descriptor a queue; empty where the tap is opened by its name or has a holder already.
    pub queues: Vec<Descriptor>,
}

/// What was found of one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortView {
    /// Whose.
    pub nic: NicId,
    /// Name of the tap, if there is one.
    pub tap: Option<String>,
    /// Name of the intermediate device, if there is one.
    pub ifb: Option<String>,
    /// The bridge it is in, if any.
    pub bridge: Option<String>,
    /// Whether the tap is administratively up.
    pub admin: AdminState,
    /// Whether any process holds the tap, as the kernel knows it.
    pub holder: Holder,
}

/// Whether a process holds a tap: a QEMU, or whoever has descriptors of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// One does.
    Somebody,
    /// None does.
    Nobody,
}

/// Whether a link is switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminState {
    /// It is.
    Up,
    /// It is not.
    Down,
}

/// From [`PortProvider::make`].
#[derive(Debug, thiserror::Error)]
#[error("failed to make the port of {nic}: failed to {step}")]
pub struct MakePortError {
    /// Whose.
    pub nic: NicId,
    /// What was being done, for people.
    pub step: &'static str,
    /// Why.
    #[source]
    pub cause: Cause,
}

impl MakePortError {
    fn new(spec: &PortSpec, failure: host::Failure) -> Self {
        Self {
            nic: spec.nic.clone(),
            step: failure.step,
            cause: failure.cause,
        }
    }
}

/// From [`PortProvider::isolate`].
#[derive(Debug, thiserror::Error)]
#[error("failed to isolate the port of {nic}")]
pub struct IsolatePortError {
    /// Whose.
    pub nic: NicId,
    /// Why.
    #[source]
    pub cause: Cause,
}

/// From [`PortProvider::remove`].
#[derive(Debug, thiserror::Error)]
#[error("failed to remove the port of {nic}")]
pub struct RemovePortError {
    /// Whose.
    pub nic: NicId,
    /// Why.
    #[source]
    pub cause: Cause,
}

/// From [`PortProvider::ports`].
#[derive(Debug, thiserror::Error)]
#[error("failed to list the ports")]
pub struct ListPortsError(#[source] pub Cause);

/// What the kernel or the configuration had against it.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;
