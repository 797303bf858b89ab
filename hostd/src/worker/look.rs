//! What a worker knows of its VM's hardware, and how it comes to know it.
//!
//! ```text
//!   something may have changed, or long not looked ──► inspect ──► all of it, or out of sight
//!   the hypervisor has answered a plug, or an unplug ──► that one NIC
//! ```
//!
//! A look at everything takes several commands, each about 0.25 ms of QEMU's time (7.2.22). What
//! hostd has just been told about one NIC is as good.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hypervisor::{InspectError, Trouble};
use nic_lifecycle::NicRecord;
use nic_model::{
    Backend, HotplugMode, NicId, PluggedNic, PowerState, SlotId, SlotOccupant, VmHardware,
};
use port::Holder;
use tokio::time::Instant;

use super::act::chain;
use super::{Rest, VmWorker};
use crate::board::Happening;
use crate::pace::FULL_LOOK;

/// How soon a hypervisor that does not answer is asked again.
const INSPECT_RETRY: Duration = Duration::from_secs(1);
/// First wait before a VM that looks off although a process holds its taps is looked at again: a
/// process that is killed closes its sockets some milliseconds before its taps.
const DOUBT_RETRY: Duration = Duration::from_millis(10);

impl VmWorker {
    pub(super) async fn look_if_due(&mut self) {
        let allowed = self.inspect_again_at.is_none_or(|at| Instant::now() >= at);
        if allowed && (self.stale || self.full_look_is_due()) {
            self.look().await;
        }
    }

    /// Reads the hardware; whatever it says becomes the ledger's knowledge too.
    async fn look(&mut self) {
        let looked = self.hypervisor.inspect(&self.vm).await;
        self.looked_at = Some(Instant::now());
        let hardware = match looked {
            Ok(hardware) => hardware,
            Err(InspectError {
                trouble: Trouble::NoSuchVm | Trouble::NotRunning,
                ..
            }) => switched_off(self.hardware.as_deref()),
            Err(error) => return self.lose_sight(chain(&error), INSPECT_RETRY),
        };
        if hardware.power == PowerState::Off
            && let Some(doubt) = self.doubt_that_it_is_off().await
        {
            let pause = (DOUBT_RETRY * 2_u32.saturating_pow(self.doubts)).min(INSPECT_RETRY);
            self.doubts = self.doubts.saturating_add(1);
            return self.lose_sight(doubt, pause);
        }
        self.take_in(hardware).await;
    }

    fn lose_sight(&mut self, why: String, retry_after: Duration) {
        if self.out_of_sight.as_ref() != Some(&why) {
            tracing::warn!(vm = %self.vm, why, "cannot look");
        }
        self.hardware = None;
        self.stale = true;
        self.tools
            .store
            .observe(|ledger| ledger.not_observed(&self.vm));
        self.inspect_again_at = Some(Instant::now() + retry_after);
        self.out_of_sight = Some(why);
    }

    async fn take_in(&mut self, hardware: VmHardware) {
        self.stale = false;
        self.inspect_again_at = None;
        self.out_of_sight = None;
        self.doubts = 0;
        let channel = match hardware.power {
            PowerState::Off => None,
            PowerState::Running | PowerState::Paused | PowerState::Migrating => {
                hardware.channel.clone()
            }
        };
        self.agent.set_channel(channel).await;
        if self.last_power != Some(hardware.power) {
            self.last_power = Some(hardware.power);
            let power = format!("{:?}", hardware.power).to_lowercase();
            self.tools
                .board
                .vm_event(&self.vm, Happening::VmChanged(power));
        }
        self.hardware = Some(Arc::new(hardware));
        self.tell_ledger();
    }

    /// The hypervisor has just made a device as it was asked to: what is known of the hardware
    /// follows, without another look at all of it.
    pub(super) fn put_in(&mut self, record: &NicRecord, slot: &SlotId) {
        let Some(hardware) = self.hardware.as_mut().map(Arc::make_mut) else {
            return;
        };
        hardware.nics.retain(|plugged| plugged.nic != record.id);
        hardware.nics.push(PluggedNic {
            nic: record.id.clone(),
            slot: Some(slot.clone()),
            mac: Some(record.mac),
            backend: Backend::Present,
        });
        let place = hardware.slots.iter_mut().find(|place| place.id == *slot);
        if let Some(place) = place {
            place.occupant = SlotOccupant::Nic(record.id.clone());
        }
        self.tell_ledger();
    }

    /// The hypervisor has just said that nothing of a NIC is left, having looked: what is known of
    /// the hardware follows, and its slot is free, without another look at all of it.
    pub(super) fn take_out(&mut self, nic: &NicId) {
        let Some(hardware) = self.hardware.as_mut().map(Arc::make_mut) else {
            return;
        };
        hardware.nics.retain(|plugged| plugged.nic != *nic);
        for slot in &mut hardware.slots {
            if slot.occupant == SlotOccupant::Nic(nic.clone()) {
                slot.occupant = SlotOccupant::Empty;
            }
        }
        self.tell_ledger();
    }

    fn tell_ledger(&self) {
        if let Some(hardware) = self.hardware.clone() {
            let store = &self.tools.store;
            store.observe(|ledger| ledger.observe(&self.vm, hardware));
        }
    }

    /// Why a VM that looks off may not be: a process holds the tap of a NIC in it, and may be a
    /// QEMU that only cannot be reached (its socket unlinked, the VM taken out of the
    /// configuration). What its guest uses must not be given to others.
    async fn doubt_that_it_is_off(&self) -> Option<String> {
        let placed: BTreeSet<NicId> = self.tools.store.read(|ledger| {
            let here = |record: &&NicRecord| {
                let place = record.placement.as_ref();
                place.is_some_and(|place| place.vm == self.vm)
            };
            let nics = ledger.nics_at(&self.vm).filter(here);
            nics.map(|record| record.id.clone())
                .filter(|nic| !self.holds_tap_of(nic))
                .collect()
        });
        for nic in &placed {
            let tap = nic.tap_name();
            match self.tools.ports.find(nic).await {
                Ok(Some(port)) if port.holder == Holder::Somebody => {
                    return Some(format!(
                        "the VM looks off, but a process still holds tap {tap}"
                    ));
                }
                Ok(_) => {}
                Err(error) => {
                    return Some(format!(
                        "the VM looks off, but who holds {tap} is not known: {}",
                        chain(&error)
                    ));
                }
            }
        }
        None
    }

    fn holds_tap_of(&self, nic: &NicId) -> bool {
        let progress = self.nics.get(nic);
        let port = progress.and_then(|progress| progress.unplugged_port.as_ref());
        port.is_some_and(|port| !port.queues.is_empty())
    }

    pub(super) fn full_look_is_due(&self) -> bool {
        self.is_due(self.looked_at)
    }

    pub(super) fn is_due(&self, last: Option<Instant>) -> bool {
        last.is_none_or(|at| at.elapsed() >= self.full_look())
    }

    /// A VM that is out of sight, or in which anything is under way, is looked at often.
    pub(super) fn full_look(&self) -> Duration {
        let at_rest = self.rest == Rest::Yes && self.hardware.is_some();
        match at_rest {
            true => self.pace.full_look(),
            false => FULL_LOOK,
        }
    }
}

fn switched_off(last: Option<&VmHardware>) -> VmHardware {
    VmHardware {
        power: PowerState::Off,
        run: None,
        hotplug: last.map_or(HotplugMode::Acpi, |hardware| hardware.hotplug),
        slots: Vec::new(),
        nics: Vec::new(),
        channel: None,
    }
}
