//! Which link is which NIC.
//!
//! A link's name, its number and the namespace it is in all change on its way; what stays is the
//! place of its device on the PCI bus, which the host knows as well.

use agent_protocol::WantedNic;
use nic_model::{MacAddr, PciPath};

use crate::kernel::{GuestKernel, LinkView};

/// How links are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum IdentifyBy {
    /// By the PCI path of their device: in a virtual machine.
    Path,
    /// By their MAC address: where the guest is a network namespace and its links have no device.
    Mac,
}

/// Whether a device is plugged at the place of a NIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Device {
    /// There is one.
    Present,
    /// There is none.
    Absent,
    /// It cannot be told: links are identified by MAC address.
    Unknown,
}

/// What identifies a link, looked up once per link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Identity {
    Path(PciPath),
    Mac(MacAddr),
    /// It is nobody's NIC.
    None,
}

impl Identity {
    pub(crate) fn is_of(&self, wanted: &WantedNic) -> bool {
        match self {
            Self::Path(path) => *path == wanted.path,
            Self::Mac(mac) => *mac == wanted.mac,
            Self::None => false,
        }
    }
}

impl IdentifyBy {
    /// Who `link` is, in whatever namespace it was seen.
    pub(crate) fn identity(self, kernel: &impl GuestKernel, link: &LinkView) -> Identity {
        match self {
            Self::Path => kernel
                .device_path(link)
                .map_or(Identity::None, Identity::Path),
            Self::Mac => link.mac.map_or(Identity::None, Identity::Mac),
        }
    }

    /// Whether the device of a NIC is plugged, wherever its link is.
    pub(crate) fn device(self, kernel: &impl GuestKernel, wanted: &WantedNic) -> Device {
        match self {
            Self::Mac => Device::Unknown,
            Self::Path if kernel.has_device(&wanted.path) => Device::Present,
            Self::Path => Device::Absent,
        }
    }
}
