//! Devices in PCI slots: how they become links, and how they go.
//!
//! ```text
//!            plug           the kernel looks        probe
//!   (slot) ───────► Unseen ──────────────────► Seen ──────► Driven (has a link)
//!                                               ▲ rescan       │ sysfs remove
//!                                               └── Removed ◄──┘ or, natively, power off
//!   eject, remove: the slot is empty
//! ```

use std::time::Duration;

use guest_agent::kernel::{Carrier, Errno, LinkIndex};
use nic_model::{LinkName, MacAddr, NetnsInode, PciPath};

use super::link::LinkId;
use super::settings::Unplug;
use super::timer::Timer;
use super::{Answer, Kernel, Output, Phase};

/// From the press of the attention button until power is switched off, in which a second press
/// cancels it; and from then until the slot is without power (drivers/pci/hotplug/pciehp_ctrl.c).
const BUTTON: Duration = Duration::from_secs(5);
const POWER_DRAINS: Duration = Duration::from_secs(1);

/// A virtio-net device as it is plugged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PluggedDevice {
    /// Its permanent address.
    pub mac: MacAddr,
    /// Largest packet the host allows, in bytes (`VIRTIO_NET_F_MTU`).
    pub mtu: Option<u16>,
    /// Whether the host end is there (`VIRTIO_NET_S_LINK_UP`).
    pub carrier: Carrier,
}

/// What becomes of a plug or of a request to unplug besides what usually does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handling {
    /// What usually does.
    Usual,
    /// The same so much later.
    Late(Duration),
    /// Nothing: the driver fails, the request is not heard.
    Never,
    /// A refusal.
    Refused,
}

/// A device in its slot.
#[derive(Debug)]
pub(super) struct Device {
    /// Tells it from an earlier one in the same slot.
    pub(super) number: u64,
    pub(super) plugged: PluggedDevice,
    pub(super) state: DeviceState,
    handling: Handling,
    unplug: UnplugState,
}

/// How far the kernel has come with a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DeviceState {
    /// It does not know of it.
    Unseen,
    /// It has been found.
    Seen,
    /// It has a driver and a link.
    Driven(LinkId),
    /// It was found, and has been taken out of the kernel's books.
    Removed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UnplugState {
    NotAsked,
    Asked,
}

impl Kernel {
    /// A device is plugged. One that is in the slot already is taken to be that device.
    pub fn plug(&mut self, path: PciPath, plugged: PluggedDevice, handling: Handling) {
        if self.devices.contains_key(&path) {
            return;
        }
        let number = self.next_number();
        let device = Device {
            number,
            plugged,
            state: DeviceState::Unseen,
            handling,
            unplug: UnplugState::NotAsked,
        };
        self.devices.insert(path.clone(), device);
        if self.phase >= Phase::NoAgent {
            self.find(&path);
        }
    }

    /// The host asks for a device. Nobody hears it while the kernel does not look for devices.
    pub fn request_unplug(&mut self, path: &PciPath, handling: Handling) {
        let Some(device) = self.devices.get_mut(path) else {
            return;
        };
        if self.phase < Phase::NoAgent || handling == Handling::Never {
            return;
        }
        let was = std::mem::replace(&mut device.unplug, UnplugState::Asked);
        let number = device.number;
        let late = match handling {
            Handling::Refused => return self.refuse(path),
            Handling::Late(late) => late,
            Handling::Usual | Handling::Never => Duration::ZERO,
        };
        match (self.settings.unplug, was) {
            (Unplug::Refuses, _) => self.refuse(path),
            (Unplug::Ignores, _) => self.forget_request(path),
            (Unplug::LetsGo(_), UnplugState::Asked) => {}
            (Unplug::LetsGo(pace), UnplugState::NotAsked) => {
                let timer = Timer::LetGo(path.clone(), number);
                if late.is_zero() {
                    self.at_pace(pace, timer);
                } else {
                    self.after(late, timer);
                }
            }
            (Unplug::Native, UnplugState::NotAsked) => {
                let timer = Timer::PowerDown(path.clone(), number);
                self.outputs.push(Output::SlotBusy(path.clone()));
                self.after(BUTTON.saturating_add(late), timer);
            }
            // The button was pressed again.
            (Unplug::Native, UnplugState::Asked) => {
                self.forget_request(path);
                self.outputs.push(Output::SlotOn(path.clone()));
            }
        }
    }

    /// A device is gone, whatever the guest thinks of it.
    pub fn remove(&mut self, path: &PciPath) {
        self.drop_link_of(path);
        self.devices.remove(path);
    }

    /// The host end of a device comes or goes.
    pub fn set_carrier(&mut self, path: &PciPath, carrier: Carrier) {
        let Some(device) = self.devices.get_mut(path) else {
            return;
        };
        device.plugged.carrier = carrier;
        if let DeviceState::Driven(link) = device.state {
            self.set_carrier_of(link, carrier);
        }
    }

    /// Somebody in the guest ejects a device (`echo 0 > /sys/bus/pci/slots/…/power`).
    ///
    /// # Errors
    /// `ENODEV` when there is none.
    pub fn eject(&mut self, path: &PciPath) -> Answer<()> {
        self.devices.get(path).ok_or(Errno::NODEV)?;
        self.drop_link_of(path);
        self.devices.remove(path);
        self.outputs.push(Output::Ejected(path.clone()));
        Ok(())
    }

    /// Somebody in the guest will eject a device so much later.
    pub fn eject_later(&mut self, path: &PciPath, later: Duration) {
        if let Some(device) = self.devices.get(path) {
            let timer = Timer::LetGo(path.clone(), device.number);
            self.after(later, timer);
        }
    }

    /// Somebody in the guest takes a device out of the kernel's books (`echo 1 >
    /// /sys/bus/pci/devices/…/remove`): the host is not told.
    ///
    /// # Errors
    /// `ENODEV` when there is none.
    pub fn sysfs_remove(&mut self, path: &PciPath) -> Answer<()> {
        self.devices.get(path).ok_or(Errno::NODEV)?;
        self.drop_link_of(path);
        self.set_state(path, DeviceState::Removed);
        Ok(())
    }

    /// Somebody in the guest has the kernel look for devices (`echo 1 > /sys/bus/pci/rescan`).
    pub fn rescan(&mut self) {
        for device in self.devices.values_mut() {
            if device.state == DeviceState::Removed {
                device.state = DeviceState::Unseen;
            }
        }
        self.find_devices();
    }

    /// Whether the kernel knows of a device there.
    #[must_use]
    pub fn has_device(&self, path: &PciPath) -> bool {
        self.devices.get(path).is_some_and(|device| {
            matches!(device.state, DeviceState::Seen | DeviceState::Driven(_))
        })
    }

    /// Where the device of a link is.
    #[must_use]
    pub fn path_of_link(&self, netns: NetnsInode, index: LinkIndex) -> Option<PciPath> {
        let id = self.id_of(netns, index).ok()?;
        let mut devices = self.devices.iter();
        let found = devices.find(|(_, device)| device.state == DeviceState::Driven(id));
        found.map(|(path, _)| path.clone())
    }

    /// Where the virtio device of that name is.
    #[must_use]
    pub fn path_of_virtio(&self, name: &str) -> Option<PciPath> {
        let number: u64 = name.strip_prefix("virtio")?.parse().ok()?;
        let mut devices = self.devices.iter();
        let found = devices.find(|(_, device)| device.number == number);
        found.map(|(path, _)| path.clone())
    }

    pub(super) fn find_devices(&mut self) {
        let unseen = |device: &Device| device.state == DeviceState::Unseen;
        let devices = self.devices.iter().filter(|(_, device)| unseen(device));
        let paths: Vec<PciPath> = devices.map(|(path, _)| path.clone()).collect();
        for path in paths {
            self.find(&path);
        }
    }

    fn find(&mut self, path: &PciPath) {
        let Some(device) = self.devices.get_mut(path) else {
            return;
        };
        device.state = DeviceState::Seen;
        let timer = Timer::Probe(path.clone(), device.number);
        match device.handling {
            Handling::Usual => self.at_pace(self.settings.probe, timer),
            Handling::Late(late) => self.after(late, timer),
            Handling::Never | Handling::Refused => {}
        }
    }

    pub(super) fn probe(&mut self, path: &PciPath, number: u64) {
        let Some(device) = self.numbered(path, number) else {
            return;
        };
        if device.state == DeviceState::Seen {
            let plugged = device.plugged;
            let link = self.add_virtio_link(number, plugged);
            self.set_state(path, DeviceState::Driven(link));
            if let Some(delay) = self.settings.rename_after {
                self.after(delay, Timer::Rename(link));
            }
        }
    }

    /// udev names a link after its place, where it finds it and may rename it.
    pub(super) fn rename_by_udev(&mut self, link: LinkId) {
        let mut devices = self.devices.iter();
        let Some((path, _)) = devices.find(|(_, d)| d.state == DeviceState::Driven(link)) else {
            return;
        };
        let name = predictable_name(path);
        self.rename_in_own(link, &name);
    }

    pub(super) fn let_go(&mut self, path: &PciPath, number: u64) {
        if self.numbered(path, number).is_some() {
            self.drop_link_of(path);
            self.eject_numbered(path, number);
        }
    }

    pub(super) fn power_down(&mut self, path: &PciPath, number: u64) {
        let asked = |device: &&Device| device.unplug == UnplugState::Asked;
        if self.numbered(path, number).filter(asked).is_some() {
            self.drop_link_of(path);
            self.set_state(path, DeviceState::Removed);
            self.after(POWER_DRAINS, Timer::Eject(path.clone(), number));
        }
    }

    pub(super) fn eject_numbered(&mut self, path: &PciPath, number: u64) {
        if self.numbered(path, number).is_some() {
            self.devices.remove(path);
            self.outputs.push(Output::Ejected(path.clone()));
        }
    }

    /// No kernel runs any more that would know of a device or of a request.
    pub(super) fn forget_probes(&mut self) {
        for device in self.devices.values_mut() {
            device.state = DeviceState::Unseen;
            device.unplug = UnplugState::NotAsked;
        }
    }

    fn refuse(&mut self, path: &PciPath) {
        self.forget_request(path);
        self.outputs.push(Output::Refused(path.clone()));
    }

    fn forget_request(&mut self, path: &PciPath) {
        if let Some(device) = self.devices.get_mut(path) {
            device.unplug = UnplugState::NotAsked;
        }
    }

    pub(super) fn is_numbered(&self, path: &PciPath, number: u64) -> bool {
        self.numbered(path, number).is_some()
    }

    fn numbered(&self, path: &PciPath, number: u64) -> Option<&Device> {
        let device = self.devices.get(path)?;
        (device.number == number).then_some(device)
    }

    fn set_state(&mut self, path: &PciPath, state: DeviceState) {
        if let Some(device) = self.devices.get_mut(path) {
            device.state = state;
        }
    }

    fn drop_link_of(&mut self, path: &PciPath) {
        let state = self.devices.get(path).map(|device| device.state);
        if let Some(DeviceState::Driven(link)) = state {
            self.remove_link(link);
            self.set_state(path, DeviceState::Removed);
        }
    }
}

/// As systemd's `net_id` names a device by its bus and slot. The bus is the guest's to number; here
/// it is the number of the root port, from 1 on.
fn predictable_name(path: &PciPath) -> LinkName {
    let slots = path.slots();
    let (port, slot) = match slots {
        [port, .., slot] => (Some(port), slot),
        [slot] => (None, slot),
        [] => unreachable!("a path has a slot"),
    };
    let bus = port.map_or(0, |port| {
        u16::from(port.device()) * 8 + u16::from(port.function()) + 1
    });
    let name = format!("enp{bus}s{}", slot.device());
    name.parse().expect("it is short and plain")
}
