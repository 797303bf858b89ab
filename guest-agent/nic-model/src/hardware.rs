//! A VM's hardware as its hypervisor reports it: what is observed, never what is wished.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{MacAddr, NicId, PciPath};

/// Everything a decision needs to know about one VM's hardware, read in one go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmHardware {
    /// Whether there is a QEMU process and what it does.
    pub power: PowerState,
    /// Which run of the VM this is; `None` while it is off.
    pub run: Option<VmRunId>,
    /// How the guest is asked to let go of a device.
    pub hotplug: HotplugMode,
    /// Every place a NIC can be hot-plugged into, in bus order.
    pub slots: Vec<Slot>,
    /// Our own NICs, recognised by device id or by the id of their backend.
    pub nics: Vec<PluggedNic>,
    /// Host end of the agent's channel, where the VM has one.
    pub channel: Option<PathBuf>,
}

impl VmHardware {
    /// What is plugged of `nic`, if anything.
    #[must_use]
    pub fn nic(&self, nic: &NicId) -> Option<&PluggedNic> {
        self.nics.iter().find(|plugged| plugged.nic == *nic)
    }

    /// Slots that nothing occupies.
    pub fn free_slots(&self) -> impl Iterator<Item = &Slot> {
        self.slots
            .iter()
            .filter(|slot| slot.occupant == SlotOccupant::Empty)
    }
}

/// What the virtual CPUs do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerState {
    /// Executing.
    Running,
    /// Stopped for a while: no guest code runs, so nothing is plugged or let go.
    Paused,
    /// Being moved to another host: QEMU refuses hot-plug.
    Migrating,
    /// No process.
    Off,
}

/// One life of a VM, from the start of its QEMU process to its end. Devices of an earlier life are
/// gone with it, whatever the journal says.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VmRunId(pub String);

impl fmt::Debug for VmRunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VmRunId({})", self.0)
    }
}

/// How a root port asks the guest to let go of its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HotplugMode {
    /// Through ACPI, q35's default since QEMU 6.1.
    Acpi,
    /// PCI Express native: attention button, with its five seconds.
    Native,
}

/// The name under which the hypervisor plugs something into a slot: in QEMU the id of the root
/// port, in libvirt the number of its bus.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SlotId(pub String);

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SlotId({})", self.0)
    }
}

/// One place a device can be hot-plugged into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Its name for the hypervisor.
    pub id: SlotId,
    /// Where the guest will see a device plugged into it.
    pub path: PciPath,
    /// What sits there now.
    pub occupant: SlotOccupant,
}

/// What sits in a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotOccupant {
    /// Nothing.
    Empty,
    /// One of our NICs.
    Nic(NicId),
    /// A device of somebody else's, by its id where it has one.
    Foreign(Option<String>),
}

/// One of our NICs as found in the hypervisor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluggedNic {
    /// Which.
    pub nic: NicId,
    /// The slot its device sits in; `None` when only the backend is left.
    pub slot: Option<SlotId>,
    /// Its address as the device has it, where the hypervisor tells.
    pub mac: Option<MacAddr>,
    /// Whether the network backend (QEMU's netdev) is there.
    pub backend: Backend,
}

/// Whether a NIC's network backend exists in the hypervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// It does.
    Present,
    /// It does not.
    Absent,
}
