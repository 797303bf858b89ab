//! Who stands for what the model numbers: NICs by the ids hostd gave them, containers by their
//! processes, VMs by their names.

use std::collections::BTreeMap;

use fake_guest::kernel::Unplug;
use nic_model::{NetnsInode, NicId, Target, VmId};
use oracle::model::{Happening, NicKey, Spot, VmKey};

use crate::sim::{Host, SimVm};

/// A process id that no container ever gets.
const NOBODY: u32 = 999_999;

/// See the module.
#[derive(Debug)]
pub(crate) struct Cast {
    host: Host,
    vms: Vec<VmId>,
    nics: BTreeMap<NicKey, NicId>,
    containers: BTreeMap<Spot, Container>,
    /// What a guest that lets go of devices does.
    lets_go: Unplug,
}

/// A container that lives, or has lived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Container {
    pub(crate) pid: u32,
    pub(crate) netns: NetnsInode,
}

impl Cast {
    pub(crate) fn new(host: &Host, lets_go: Unplug) -> Self {
        Self {
            host: host.clone(),
            vms: host.vms().keys().cloned().collect(),
            nics: BTreeMap::new(),
            containers: BTreeMap::new(),
            lets_go,
        }
    }

    pub(crate) fn vm_id(&self, vm: VmKey) -> &VmId {
        &self.vms[usize::from(vm.0)]
    }

    pub(crate) fn vm(&self, vm: VmKey) -> &SimVm {
        &self.host.vms()[self.vm_id(vm)]
    }

    pub(crate) fn vm_key(&self, id: &VmId) -> Option<VmKey> {
        let index = self.vms.iter().position(|vm| vm == id)?;
        u8::try_from(index).ok().map(VmKey)
    }

    /// The id of a NIC; one that never was where there is none.
    pub(crate) fn nic_id(&self, nic: NicKey) -> NicId {
        let unknown = || {
            let id = "nic-0000000000".parse();
            id.expect("it has the form of an id")
        };
        self.nics.get(&nic).cloned().unwrap_or_else(unknown)
    }

    pub(crate) fn enter(&mut self, nic: NicKey, id: NicId) {
        self.nics.insert(nic, id);
    }

    pub(crate) fn leave(&mut self, nic: NicKey) {
        self.nics.remove(&nic);
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = (NicKey, &NicId)> {
        self.nics.iter().map(|(key, id)| (*key, id))
    }

    /// Where a client means a NIC to go: also when nobody is there.
    pub(crate) fn target(&self, spot: Spot) -> Target {
        let container = self.containers.get(&spot);
        Target::Pid {
            pid: container.map_or(NOBODY, |container| container.pid),
            netns_inode: container.map(|container| container.netns),
        }
    }

    pub(crate) fn container(&self, spot: Spot) -> Option<Container> {
        self.containers.get(&spot).copied()
    }

    /// Has something happen.
    pub(crate) fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::StartContainer(spot) => self.start_container(spot),
            Happening::KillContainer(spot) => self.kill_container(spot),
            Happening::StopAgent(vm) => self.in_guest(vm, |guest| guest.kill_agent()),
            Happening::StartAgent(vm) => self.in_guest(vm, |guest| guest.start_agent()),
            Happening::KeepDevices(vm) => self.set_unplug(vm, Unplug::Ignores),
            Happening::LetGo(vm) => self.set_unplug(vm, self.lets_go),
            Happening::Eject(nic) => self.eject(nic),
            Happening::Reset(vm) => {
                self.forget_containers(vm);
                self.vm(vm).reset();
            }
            Happening::PowerOff(vm) => {
                self.forget_containers(vm);
                self.vm(vm).kill();
            }
            Happening::PowerOn(vm) => self.vm(vm).power_on(),
        }
    }

    /// Nothing that ran in a VM runs any more.
    pub(crate) fn forget_containers(&mut self, vm: VmKey) {
        self.containers.retain(|spot, _| spot.vm != vm);
    }

    fn in_guest(&self, vm: VmKey, act: impl FnOnce(&fake_guest::FakeGuest)) {
        if let Some(guest) = self.vm(vm).guest_handle() {
            act(&guest);
        }
    }

    fn start_container(&mut self, spot: Spot) {
        let guest = self.vm(spot.vm).guest_handle();
        let started = guest.and_then(|guest| guest.start_container().ok());
        if let Some(started) = started {
            let (pid, netns) = (started.pid, started.netns);
            self.containers.insert(spot, Container { pid, netns });
        }
    }

    /// Clients go on naming it.
    fn kill_container(&mut self, spot: Spot) {
        if let Some(container) = self.containers.get(&spot) {
            self.in_guest(spot.vm, |guest| {
                // One that has gone with its guest is as dead as it can be.
                let _dead = guest.kill(container.pid);
            });
        }
    }

    fn set_unplug(&self, vm: VmKey, unplug: Unplug) {
        let vm = self.vm(vm);
        vm.change(|settings| settings.kernel.unplug = unplug);
        if let Some(guest) = vm.guest_handle() {
            guest.with_kernel(|kernel| kernel.settings_mut().unplug = unplug);
        }
    }

    fn eject(&self, nic: NicKey) {
        let id = self.nic_id(nic);
        let Some(service) = self.host.service() else {
            return;
        };
        let place = service.store.nic(&id).and_then(|record| record.placement);
        let Some(place) = place else {
            return;
        };
        if let Some(guest) = self.host.vms()[&place.vm].guest_handle() {
            // A device that has gone in the meantime is out as well.
            let _gone = guest.eject(&place.path);
        }
    }
}
