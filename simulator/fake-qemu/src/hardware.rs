//! What a machine is made of before anybody plugs something in.

use nic_model::PciSlot;

use crate::profile::{HotplugMode, Profile};

/// A q35 machine's own hardware. Many machines may share one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hardware {
    /// Which QEMU runs it.
    pub profile: Profile,
    /// How the guest is asked to let go of a device.
    pub hotplug: HotplugMode,
    /// Where devices are plugged into.
    pub root_ports: Vec<RootPort>,
    /// Whether the virtual CPU runs from the start.
    pub start: Start,
    /// The answer to `query-name`, where there is one.
    pub name: Option<String>,
    /// The answer to `query-uuid`.
    pub uuid: String,
}

/// One PCI Express root port on `pcie.0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootPort {
    /// Its id, and the name of the bus behind it.
    pub id: String,
    /// Where it sits on `pcie.0`.
    pub slot: PciSlot,
    /// Whether it is function 0 of a PCI device with several.
    pub multifunction: bool,
    /// Its chassis number.
    pub chassis: u8,
    /// Whether devices come and go behind it.
    pub hotplug: PortHotplug,
}

/// Whether devices come and go behind a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortHotplug {
    /// They do.
    On,
    /// They do not (`hotplug=off`).
    Off,
}

/// What the virtual CPU does at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// It runs.
    Running,
    /// It waits for `cont` (QEMU's `-S`).
    Stopped,
}

/// A machine that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HardwareError {
    /// There is no room on `pcie.0` for more.
    #[error("{count} root ports are more than the {ROOT_PORTS_MAX} that fit on the root bus")]
    TooManyRootPorts {
        /// How many were asked for.
        count: usize,
    },
}

/// PCI devices 0x02 to 0x1e of the root bus, with eight functions each, are nobody else's.
pub const ROOT_PORTS_MAX: usize = 29 * 8;

const NIL_UUID: &str = "00000000-0000-0000-0000-000000000000";

impl Hardware {
    /// A running machine with the root ports `rp1`, `rp2` and so on, eight to a PCI device from
    /// 02.0 on.
    ///
    /// # Errors
    /// When there are more than [`ROOT_PORTS_MAX`].
    pub fn with_root_ports(profile: Profile, count: usize) -> Result<Self, HardwareError> {
        if count > ROOT_PORTS_MAX {
            return Err(HardwareError::TooManyRootPorts { count });
        }
        Ok(Self {
            profile,
            hotplug: HotplugMode::Acpi,
            root_ports: (1..).take(count).filter_map(root_port).collect(),
            start: Start::Running,
            name: None,
            uuid: NIL_UUID.to_owned(),
        })
    }
}

fn root_port(number: u8) -> Option<RootPort> {
    let place = number - 1;
    Some(RootPort {
        id: format!("rp{number}"),
        slot: PciSlot::new(2 + place / 8, place % 8).ok()?,
        multifunction: place.is_multiple_of(8),
        chassis: number,
        hotplug: PortHotplug::On,
    })
}
