//! A hypervisor in memory: VMs with slots, devices and backends, guests that let go or do not, and
//! errors as the stage says.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hypervisor::{
    Carrier, EventKind, Hypervisor, HypervisorEvent, InspectError, ListError, PlugError,
    PlugRequest, Plugged, SetLinkError, Trouble, UnplugError, Unplugging,
};
use nic_model::{
    Backend, HotplugMode, MacAddr, NicId, PciPath, PluggedNic, PowerState, Slot, SlotId,
    SlotOccupant, VmHardware, VmId, VmRunId,
};
use port::TapAccess;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use super::stage::{CALL_DEADLINE, Call, Deed, Fault, Stage};

/// What the guest kernel does when it is asked to let go of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kernel {
    LetsGo,
    Refuses,
    IsSilent,
}

/// Whether the hypervisor tells what changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Events {
    Sent,
    Lost,
}

#[derive(Debug)]
struct Vm {
    hardware: VmHardware,
    kernel: Kernel,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct ScriptedHypervisor {
    stage: Arc<Stage>,
    access: TapAccess,
    vms: Mutex<BTreeMap<VmId, Vm>>,
    events: broadcast::Sender<HypervisorEvent>,
    changes: watch::Sender<u64>,
}

impl ScriptedHypervisor {
    pub(crate) fn new(stage: Arc<Stage>) -> Self {
        Self {
            stage,
            access: TapAccess::Descriptors,
            vms: Mutex::default(),
            events: broadcast::channel(64).0,
            changes: watch::channel(0).0,
        }
    }

    /// One that comes to taps in another way.
    pub(crate) fn with_access(self, access: TapAccess) -> Self {
        Self { access, ..self }
    }

    pub(crate) fn add_vm(&self, vm: &VmId, slots: u8, hotplug: HotplugMode, channel: PathBuf) {
        let slot = |number: u8| Slot {
            id: SlotId(format!("rp{number}")),
            path: format!("{:02x}.{}/00.0", number / 8, number % 8)
                .parse()
                .unwrap(),
            occupant: SlotOccupant::Empty,
        };
        let hardware = VmHardware {
            power: PowerState::Running,
            run: Some(VmRunId("first".to_owned())),
            hotplug,
            slots: (1..=slots).map(slot).collect(),
            nics: Vec::new(),
            channel: Some(channel),
        };
        let kernel = Kernel::LetsGo;
        self.lock().insert(vm.clone(), Vm { hardware, kernel });
    }

    /// The VM is undefined: nothing of it is left, and it is not listed any more.
    pub(crate) fn remove_vm(&self, vm: &VmId, events: Events) {
        self.lock().remove(vm);
        if events == Events::Sent {
            self.tell_of_the_list();
        }
    }

    /// VMs appeared or disappeared.
    pub(crate) fn tell_of_the_list(&self) {
        let kind = EventKind::VmsChanged;
        drop(self.events.send(HypervisorEvent { vm: None, kind }));
    }

    pub(crate) fn set_kernel(&self, vm: &VmId, kernel: Kernel) {
        self.change(vm, |vm| vm.kernel = kernel);
    }

    pub(crate) fn hardware(&self, vm: &VmId) -> VmHardware {
        self.lock()[vm].hardware.clone()
    }

    /// Changes the hardware behind hostd's back.
    pub(crate) fn change_hardware(&self, vm: &VmId, change: impl FnOnce(&mut VmHardware)) {
        self.change(vm, |vm| change(&mut vm.hardware));
    }

    /// The guest kernel lets go of a device now, asked or not.
    pub(crate) fn let_go(&self, vm: &VmId, nic: &NicId, events: Events) {
        self.take_device(vm, nic);
        if events == Events::Sent {
            self.tell(vm, EventKind::DeviceGone(nic.clone()));
        }
    }

    /// Puts a device and its backend into a slot without hostd's asking.
    pub(crate) fn put_device(&self, vm: &VmId, nic: &NicId, slot: usize) {
        self.change_hardware(vm, |hardware| {
            let slot = &mut hardware.slots[slot];
            slot.occupant = SlotOccupant::Nic(nic.clone());
            hardware.nics.push(PluggedNic {
                nic: nic.clone(),
                slot: Some(slot.id.clone()),
                mac: None,
                backend: Backend::Present,
            });
        });
    }

    pub(crate) fn tell(&self, vm: &VmId, kind: EventKind) {
        let vm = Some(vm.clone());
        drop(self.events.send(HypervisorEvent { vm, kind }));
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// What the guest's kernel sees.
    pub(crate) fn devices(&self, vm: &VmId) -> BTreeMap<PciPath, Option<MacAddr>> {
        let hardware = self.hardware(vm);
        let path = |id: &SlotId| {
            let slot = hardware.slots.iter().find(|slot| slot.id == *id);
            slot.map(|slot| slot.path.clone())
        };
        let devices = hardware.nics.iter().filter_map(|plugged| {
            let slot = plugged.slot.as_ref()?;
            Some((path(slot)?, plugged.mac))
        });
        devices.collect()
    }

    /// Whether device or backend of a NIC is anywhere.
    pub(crate) fn uses(&self, nic: &NicId) -> bool {
        self.lock()
            .values()
            .any(|vm| vm.hardware.nic(nic).is_some())
    }

    fn change<T>(&self, vm: &VmId, change: impl FnOnce(&mut Vm) -> T) -> T {
        let changed = change(self.lock().get_mut(vm).unwrap());
        self.changes.send_modify(|version| *version += 1);
        changed
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<VmId, Vm>> {
        self.vms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn strike(&self, call: Call, vm: &VmId) -> Option<Fault> {
        let fault = self.stage.fault(call, Some(vm));
        if fault == Some(Fault::Hangs) {
            // tidy: sleep because paused time passes at once
            tokio::time::sleep(CALL_DEADLINE).await;
        }
        fault
    }

    fn insert_device(&self, vm: &VmId, request: &PlugRequest) -> Result<Plugged, Trouble> {
        let nic = &request.nic;
        self.change(vm, |vm| {
            let hardware = &mut vm.hardware;
            if hardware.nic(nic).is_some_and(|nic| nic.slot.is_some()) {
                return Ok(Plugged::Before);
            }
            let wanted = hardware
                .slots
                .iter_mut()
                .find(|slot| slot.id == request.slot);
            let slot = wanted.filter(|slot| slot.occupant == SlotOccupant::Empty);
            let slot = slot.ok_or_else(|| Trouble::Refused {
                message: format!("slot {} is not free", request.slot),
            })?;
            if self.access == TapAccess::Descriptors && request.tap.queues.is_empty() {
                let message = "no descriptors were passed".to_owned();
                return Err(Trouble::Refused { message });
            }
            slot.occupant = SlotOccupant::Nic(nic.clone());
            hardware.nics.retain(|plugged| plugged.nic != *nic);
            hardware.nics.push(PluggedNic {
                nic: nic.clone(),
                slot: Some(request.slot.clone()),
                mac: Some(request.mac),
                backend: Backend::Present,
            });
            if self.stage.last_port_deed(nic) != Some(Deed::PortMade) {
                self.stage.breach(format!("{nic} plugged without a port"));
            }
            self.stage.note(nic, Deed::Plugged);
            Ok(Plugged::Now {
                device_asked_at: Instant::now(),
            })
        })
    }

    fn take_device(&self, vm: &VmId, nic: &NicId) {
        self.change(vm, |vm| {
            for slot in &mut vm.hardware.slots {
                if slot.occupant == SlotOccupant::Nic(nic.clone()) {
                    slot.occupant = SlotOccupant::Empty;
                }
            }
            for plugged in &mut vm.hardware.nics {
                if plugged.nic == *nic {
                    plugged.slot = None;
                }
            }
        });
        self.stage.note(nic, Deed::DeviceGone);
    }

    fn ask_or_clean_up(&self, vm: &VmId, nic: &NicId) -> Unplugging {
        let (plugged, kernel) = {
            let vms = self.lock();
            (vms[vm].hardware.nic(nic).cloned(), vms[vm].kernel)
        };
        let Some(plugged) = plugged else {
            return Unplugging::Gone;
        };
        if plugged.slot.is_none() {
            self.change_hardware(vm, |hardware| {
                hardware.nics.retain(|other| other.nic != *nic)
            });
            self.stage.note(nic, Deed::BackendGone);
            return Unplugging::Gone;
        }
        if self.stage.last_port_deed(nic) == Some(Deed::PortMade) {
            self.stage
                .breach(format!("{nic} unplugged while frames could pass"));
        }
        self.stage.note(nic, Deed::AskedToLetGo);
        match kernel {
            Kernel::LetsGo => self.let_go(vm, nic, Events::Sent),
            Kernel::Refuses => self.tell(vm, EventKind::UnplugRefused(nic.clone())),
            Kernel::IsSilent => {}
        }
        Unplugging::Asked
    }
}

fn trouble(fault: Fault) -> Trouble {
    match fault {
        Fault::Refused => Trouble::Refused {
            message: "no, for a test".to_owned(),
        },
        Fault::TimedOut(_) | Fault::Hangs => Trouble::TimedOut {
            waited_ms: u64::try_from(CALL_DEADLINE.as_millis()).unwrap(),
        },
        Fault::Panics => panic!("for a test"),
        Fault::Disconnected(_) => Trouble::Connection("gone, for a test".into()),
    }
}

#[async_trait]
impl Hypervisor for ScriptedHypervisor {
    async fn vms(&self) -> Result<Vec<VmId>, ListError> {
        assert_ne!(self.stage.fault(Call::List, None), Some(Fault::Panics));
        Ok(self.lock().keys().cloned().collect())
    }

    async fn inspect(&self, vm: &VmId) -> Result<VmHardware, InspectError> {
        let failed = |trouble| InspectError {
            vm: vm.clone(),
            trouble,
        };
        if let Some(fault) = self.strike(Call::Inspect, vm).await {
            return Err(failed(trouble(fault)));
        }
        let hardware = self.lock().get(vm).map(|vm| vm.hardware.clone());
        hardware.ok_or_else(|| failed(Trouble::NoSuchVm))
    }

    async fn plug(&self, vm: &VmId, request: PlugRequest) -> Result<Plugged, PlugError> {
        self.stage.pass().await;
        let fault = self.strike(Call::Plug, vm).await;
        let result = match fault {
            Some(fault) => {
                if fault.happened() {
                    drop(self.insert_device(vm, &request));
                }
                Err(trouble(fault))
            }
            None => self.insert_device(vm, &request),
        };
        if result.is_err() && !request.tap.queues.is_empty() && !self.uses(&request.nic) {
            self.stage.note(&request.nic, Deed::PortLost);
        }
        self.stage.pass().await;
        result.map_err(|trouble| PlugError {
            vm: vm.clone(),
            nic: request.nic,
            slot: request.slot,
            trouble,
        })
    }

    async fn unplug(&self, vm: &VmId, nic: &NicId) -> Result<Unplugging, UnplugError> {
        self.stage.pass().await;
        let fault = self.strike(Call::Unplug, vm).await;
        let result = match fault {
            Some(fault) => {
                if fault.happened() {
                    self.ask_or_clean_up(vm, nic);
                }
                Err(trouble(fault))
            }
            None => Ok(self.ask_or_clean_up(vm, nic)),
        };
        self.stage.pass().await;
        result.map_err(|trouble| UnplugError {
            vm: vm.clone(),
            nic: nic.clone(),
            trouble,
        })
    }

    async fn set_link(&self, vm: &VmId, nic: &NicId, carrier: Carrier) -> Result<(), SetLinkError> {
        self.stage.pass().await;
        let fault = self.strike(Call::SetLink, vm).await;
        if fault.is_none_or(Fault::happened) && carrier == Carrier::Down {
            self.stage.note(nic, Deed::CarrierDown);
        }
        self.stage.pass().await;
        fault.map_or(Ok(()), |fault| {
            Err(SetLinkError {
                vm: vm.clone(),
                nic: nic.clone(),
                trouble: trouble(fault),
            })
        })
    }

    fn events(&self) -> broadcast::Receiver<HypervisorEvent> {
        self.events.subscribe()
    }
}

/// Longer than any pause hostd makes between two looks.
pub(crate) const LONGER_THAN_ANY_LOOK: Duration = Duration::from_secs(40);
