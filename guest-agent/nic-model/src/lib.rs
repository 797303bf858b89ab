//! The nouns that the host and the guest share.
//!
//! Both sides of the VM boundary must mean the same thing by a NIC, an address or a target, so the
//! words live here, at the far right of the dependency order, and every type refuses a value that
//! could not exist: a multicast [`MacAddr`], a [`LinkName`] the kernel would reject, an [`Mtu`]
//! below IPv6's minimum. There is no I/O, no clock and no randomness in this crate.

mod address;
mod hardware;
mod id;
mod link;
mod mac;
mod pci;
mod rate;
mod target;

pub use address::{Addressing, Route};
pub use hardware::{
    Backend, HotplugMode, PluggedNic, PowerState, Slot, SlotId, SlotOccupant, VmHardware, VmRunId,
};
pub use id::{
    ClientToken, InvalidId, NetworkName, NicId, NicIdSource, TenantId, VmClassName, VmId,
};
pub use ipnet::{IpNet, Ipv4Net, Ipv6Net};
pub use link::{InvalidLinkName, InvalidMtu, LinkName, Mtu};
pub use mac::{InvalidMac, MacAddr};
pub use pci::{InvalidPciPath, PciPath, PciSlot};
pub use rate::{BitRate, Direction, PacketRate, RateLimit, RateLimits};
pub use target::{
    BootId, InvalidBootId, InvalidNetnsName, InvalidTarget, NetnsInode, NetnsName, ProcessStart,
    Target, TargetIdentity,
};
