//! The ledger: every record of this host with the indexes that make limits and uniqueness cheap to
//! check. It only answers and remembers; whoever holds it journals what it admits.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use nic_model::{
    IpNet, MacAddr, NetworkName, NicId, SlotId, SlotOccupant, TenantId, VmClassName, VmHardware,
    VmId,
};

use crate::limits::{HostQuota, LimitName, LimitUse, VmClass};
use crate::record::{NicRecord, Placement};
use crate::subnet::Network;

/// What the operator configured for this host.
#[derive(Debug, Clone, Default)]
pub struct Site {
    /// Networks by name.
    pub networks: BTreeMap<NetworkName, Network>,
    /// Classes by name.
    pub classes: BTreeMap<VmClassName, VmClass>,
    /// Class of each VM; what is not listed has [`Self::default_class`].
    pub class_of: BTreeMap<VmId, VmClassName>,
    /// Class of VMs not listed.
    pub default_class: Option<VmClassName>,
    /// VMs that only one tenant may use.
    pub tenant_of: BTreeMap<VmId, TenantId>,
    /// Quotas.
    pub quota: HostQuota,
}

impl Site {
    /// The class of a VM. Configuration checks see to it that there always is one for VMs listed;
    /// a discovered VM without a default class has none.
    #[must_use]
    pub fn class(&self, vm: &VmId) -> Option<&VmClass> {
        let name = self.class_of.get(vm).or(self.default_class.as_ref())?;
        self.classes.get(name)
    }
}

/// Every record of this host, with what the VMs' hardware looked like last.
#[derive(Debug, Default)]
pub struct Ledger {
    pub(crate) site: Site,
    /// Shared with whoever looks at one: they are large, and replaced whole.
    nics: BTreeMap<NicId, Arc<NicRecord>>,
    macs: BTreeMap<MacAddr, NicId>,
    addresses: BTreeMap<NetworkName, BTreeSet<IpAddr>>,
    nics_of_tenant: BTreeMap<TenantId, u64>,
    addresses_of_tenant: BTreeMap<TenantId, u64>,
    nics_at_vm: BTreeMap<VmId, BTreeSet<NicId>>,
    /// Shared with the worker of each VM.
    hardware: BTreeMap<VmId, Arc<VmHardware>>,
    unanswered: BTreeSet<VmId>,
    /// Hypervisors that have yet to say which VMs they have.
    listings_awaited: usize,
    retired: BTreeSet<VmId>,
}

/// Whether a VM can be forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retirement {
    /// It is unknown from now on.
    Begun,
    /// A record reserves a place in it: somebody has to see to that first.
    Refused,
}

impl Ledger {
    /// An empty ledger for a site.
    #[must_use]
    pub fn new(site: Site) -> Self {
        Self {
            site,
            ..Self::default()
        }
    }

    /// What the operator configured.
    #[must_use]
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// One record.
    #[must_use]
    pub fn nic(&self, id: &NicId) -> Option<&NicRecord> {
        self.nics.get(id).map(Arc::as_ref)
    }

    /// The same, to be kept.
    #[must_use]
    pub fn shared(&self, id: &NicId) -> Option<&Arc<NicRecord>> {
        self.nics.get(id)
    }

    /// Every record, by id.
    pub fn nics(&self) -> impl Iterator<Item = &NicRecord> {
        self.nics.values().map(Arc::as_ref)
    }

    /// Records with a place in a VM, reserved or taken.
    pub fn nics_at(&self, vm: &VmId) -> impl Iterator<Item = &NicRecord> {
        self.shared_at(vm).map(Arc::as_ref)
    }

    /// The same, to be kept.
    pub fn shared_at(&self, vm: &VmId) -> impl Iterator<Item = &Arc<NicRecord>> {
        self.nics_at_vm
            .get(vm)
            .into_iter()
            .flatten()
            .filter_map(|id| self.nics.get(id))
    }

    /// Stores a record in place of its predecessor, which is returned.
    pub fn put(&mut self, record: impl Into<Arc<NicRecord>>) -> Option<Arc<NicRecord>> {
        let record = record.into();
        if let Some(known) = self.nics.get_mut(&record.id)
            && holds_the_same(known, &record)
        {
            return Some(std::mem::replace(known, record));
        }
        let before = self.remove(&record.id);
        self.macs.insert(record.mac, record.id.clone());
        let pool = self.addresses.entry(record.network.clone()).or_default();
        pool.extend(record.addressing.addresses().iter().map(IpNet::addr));
        *self
            .nics_of_tenant
            .entry(record.tenant.clone())
            .or_default() += 1;
        let addresses = self.addresses_of_tenant.entry(record.tenant.clone());
        *addresses.or_default() += address_count(&record);
        for placement in record.reserved() {
            let nics = self.nics_at_vm.entry(placement.vm.clone()).or_default();
            nics.insert(record.id.clone());
        }
        self.nics.insert(record.id.clone(), record);
        before
    }

    /// Forgets a record and everything reserved by it.
    pub fn remove(&mut self, id: &NicId) -> Option<Arc<NicRecord>> {
        let record = self.nics.remove(id)?;
        self.macs.remove(&record.mac);
        if let Some(pool) = self.addresses.get_mut(&record.network) {
            for address in record.addressing.addresses() {
                pool.remove(&address.addr());
            }
        }
        give_up(&mut self.nics_of_tenant, &record.tenant, 1);
        let addresses = address_count(&record);
        give_up(&mut self.addresses_of_tenant, &record.tenant, addresses);
        for placement in record.reserved() {
            self.leave(&placement.vm, id);
        }
        Some(record)
    }

    /// VMs come and go: one without NICs keeps no entry.
    fn leave(&mut self, vm: &VmId, nic: &NicId) {
        if let Some(nics) = self.nics_at_vm.get_mut(vm) {
            nics.remove(nic);
            if nics.is_empty() {
                self.nics_at_vm.remove(vm);
            }
        }
    }

    /// Notes what a VM's hardware looks like now, unless it is being forgotten.
    pub fn observe(&mut self, vm: &VmId, hardware: impl Into<Arc<VmHardware>>) {
        if self.retired.contains(vm) {
            return;
        }
        self.unanswered.remove(vm);
        self.hardware.insert(vm.clone(), hardware.into());
    }

    /// Notes that nobody could say what a VM's hardware looks like now. What is known of it stays:
    /// a request for it is admitted on that, and waits.
    pub fn not_observed(&mut self, vm: &VmId) {
        if !self.retired.contains(vm) {
            self.unanswered.insert(vm.clone());
        }
    }

    /// Notes that a hypervisor has yet to say which VMs it has.
    pub fn await_listing(&mut self) {
        self.listings_awaited += 1;
    }

    /// Notes that one that was waited for has said so.
    pub fn note_listing(&mut self) {
        self.listings_awaited = self.listings_awaited.saturating_sub(1);
    }

    /// Whether there may be a VM that has not been seen.
    #[must_use]
    pub fn may_exist(&self, vm: &VmId) -> bool {
        self.listings_awaited > 0 || self.unanswered.contains(vm)
    }

    /// Whether what is known of a VM's hardware is what it was when last asked for.
    #[must_use]
    pub fn is_up_to_date(&self, vm: &VmId) -> bool {
        self.hardware.contains_key(vm) && !self.unanswered.contains(vm)
    }

    /// Begins to forget a VM. Until [`Self::vm_gone`] nobody is admitted to it, also if somebody
    /// who has not heard of it yet still observes it.
    pub fn retire(&mut self, vm: &VmId) -> Retirement {
        if self.nics_at(vm).next().is_some() {
            return Retirement::Refused;
        }
        self.forget(vm);
        self.retired.insert(vm.clone());
        Retirement::Begun
    }

    /// Forgets a VM that nobody observes any more. Should it come back, it is a new one.
    pub fn vm_gone(&mut self, vm: &VmId) {
        self.forget(vm);
        self.retired.remove(vm);
    }

    fn forget(&mut self, vm: &VmId) {
        self.hardware.remove(vm);
        self.unanswered.remove(vm);
    }

    /// What a VM's hardware looked like last.
    #[must_use]
    pub fn hardware(&self, vm: &VmId) -> Option<&VmHardware> {
        self.hardware.get(vm).map(Arc::as_ref)
    }

    /// Every VM that has been seen.
    pub fn vms(&self) -> impl Iterator<Item = (&VmId, &VmHardware)> {
        let all = self.hardware.iter();
        all.map(|(vm, hardware)| (vm, hardware.as_ref()))
    }

    /// The NIC that has a MAC address.
    #[must_use]
    pub fn holder_of(&self, mac: MacAddr) -> Option<&NicId> {
        self.macs.get(&mac)
    }

    pub(crate) fn taken_addresses(&self, network: &NetworkName) -> &BTreeSet<IpAddr> {
        static NONE: BTreeSet<IpAddr> = BTreeSet::new();
        self.addresses.get(network).unwrap_or(&NONE)
    }

    /// Slots of a VM that a record has reserved, whatever the hardware shows.
    #[must_use]
    pub fn reserved_slots(&self, vm: &VmId) -> BTreeSet<SlotId> {
        self.nics_at(vm)
            .flat_map(NicRecord::reserved)
            .filter(|placement| placement.vm == *vm)
            .map(|placement| placement.slot.clone())
            .collect()
    }

    /// The limits that bind one VM, with their usage.
    #[must_use]
    pub fn vm_limits(&self, vm: &VmId) -> Vec<LimitUse> {
        let mut limits = Vec::new();
        let nics = self.nics_at(vm).count() as u64;
        if let Some(class) = self.site.class(vm) {
            limits.push(LimitUse {
                name: LimitName::NicsPerVm,
                value: Some(class.max_nics),
                usage: nics,
            });
        }
        if let Some(hardware) = self.hardware(vm) {
            limits.push(self.slot_use(vm, hardware));
        }
        limits
    }

    pub(crate) fn slot_use(&self, vm: &VmId, hardware: &VmHardware) -> LimitUse {
        let reserved = self.reserved_slots(vm);
        let used = hardware
            .slots
            .iter()
            .filter(|slot| slot.occupant != SlotOccupant::Empty || reserved.contains(&slot.id));
        LimitUse {
            name: LimitName::SlotsOfVm,
            value: Some(hardware.slots.len() as u64),
            usage: used.count() as u64,
        }
    }

    /// The limits of the host, with their usage.
    #[must_use]
    pub fn host_limits(&self) -> Vec<LimitUse> {
        vec![LimitUse {
            name: LimitName::NicsPerHost,
            value: self.site.quota.max_nics_per_host,
            usage: self.nics.len() as u64,
        }]
    }

    /// The limits of one tenant, with their usage.
    #[must_use]
    pub fn tenant_limits(&self, tenant: &TenantId) -> Vec<LimitUse> {
        let usage = |counts: &BTreeMap<TenantId, u64>| counts.get(tenant).copied().unwrap_or(0);
        vec![
            LimitUse {
                name: LimitName::NicsPerTenant,
                value: self.site.quota.max_nics_per_tenant,
                usage: usage(&self.nics_of_tenant),
            },
            LimitUse {
                name: LimitName::AddressesPerTenant,
                value: self.site.quota.max_addresses_per_tenant,
                usage: usage(&self.addresses_of_tenant),
            },
        ]
    }

    /// Tenants that have NICs.
    pub fn tenants(&self) -> impl Iterator<Item = &TenantId> {
        self.nics_of_tenant.keys()
    }

    /// Whether another NIC of the same VM has reserved the same link name in the same target.
    pub(crate) fn link_name_taken(&self, nic: &NicId, wanted: &Placement) -> Option<&NicId> {
        self.nics_at(&wanted.vm)
            .filter(|other| other.id != *nic)
            .find(|other| {
                other.reserved().any(|placement| {
                    placement.vm == wanted.vm
                        && placement.target == wanted.target
                        && placement.link_name == wanted.link_name
                })
            })
            .map(|other| &other.id)
    }
}

/// Operators name tenants as they like: one that has nothing keeps no entry.
fn give_up(counts: &mut BTreeMap<TenantId, u64>, tenant: &TenantId, given_up: u64) {
    if let Some(count) = counts.get_mut(tenant) {
        *count -= given_up;
        if *count == 0 {
            counts.remove(tenant);
        }
    }
}

/// Whether every index has the same entries for both. Most changes of a record are of its state.
fn holds_the_same(one: &NicRecord, other: &NicRecord) -> bool {
    let mut places = one.reserved().zip(other.reserved());
    one.mac == other.mac
        && one.network == other.network
        && one.tenant == other.tenant
        && one.addressing == other.addressing
        && one.reserved().count() == other.reserved().count()
        && places.all(|(one, other)| one.vm == other.vm)
}

fn address_count(record: &NicRecord) -> u64 {
    record.addressing.addresses().len() as u64
}
