//! A system as it is seen from outside, in plain data.

use std::collections::{BTreeMap, BTreeSet};

use host_api::{Limit, Nic, NicState};
use nic_model::{MacAddr, NicId, PciPath, PowerState, VmId};
use serde_json::Value;

/// One host with all that is on it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SystemView {
    /// What hostd's API tells of NICs.
    pub nics: BTreeMap<NicId, Nic>,
    /// What hostd's API tells of limits.
    pub limits: Vec<Limit>,
    /// hostd's journal as it stands on the disk; absent where it was not read.
    pub journal: Option<JournalView>,
    /// Links of the host.
    pub host: HostView,
    /// VMs, running or not.
    pub vms: BTreeMap<VmId, VmView>,
}

/// The host's part.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostView {
    /// Host ends of NICs, by the name of the link: everything that bears our prefix.
    pub ports: BTreeMap<String, PortView>,
    /// Things on the host that changed although they are none of ours: a sentence each.
    pub disturbed: Vec<String>,
}

/// One host end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortView {
    /// The bridge it is a port of.
    pub bridge: Option<String>,
    /// Whether frames can pass: it is switched on and in its network.
    pub passes: Reachability,
    /// What stands between the VM and the network; absent where it was not looked at.
    pub filters: Option<Filters>,
    /// Whether a QEMU holds it; absent where it was not looked at.
    pub holder: Option<Holder>,
}

/// Whether frames get through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reachability {
    /// They do.
    Open,
    /// They do not.
    Closed,
}

/// The filters of a host end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filters {
    /// All of them are in force.
    On,
    /// Some are not.
    Missing,
}

/// Whether a process holds a host end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// One does.
    Somebody,
    /// None does.
    Nobody,
}

/// One VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmView {
    /// What its virtual CPUs do.
    pub power: PowerState,
    /// Network devices, by id.
    pub devices: BTreeMap<String, DeviceView>,
    /// Network backends, by id.
    pub netdevs: BTreeSet<String>,
    /// Its guest; absent where nobody could look inside.
    pub guest: Option<GuestView>,
}

/// One network device of a QEMU.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceView {
    /// The slot it sits in; absent where it was not looked at.
    pub slot: Option<String>,
    /// Its address; absent where it was not looked at.
    pub mac: Option<MacAddr>,
}

/// One guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuestView {
    /// Where the guest's kernel has network devices; absent where links have no devices.
    pub devices: Option<BTreeSet<PciPath>>,
    /// Every link but loopbacks.
    pub links: Vec<GuestLink>,
    /// Namespaces that have a name.
    pub named: BTreeSet<String>,
    /// In which namespace each process is; of all only where sight is whole.
    pub processes: BTreeMap<u32, Place>,
    /// Whether there can be links that are not among these.
    pub sight: Sight,
}

/// How far somebody has looked into a guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sight {
    /// Namespaces without a name, and addresses, were left out.
    #[default]
    Named,
    /// Into every namespace, at every address.
    Whole,
}

/// One link of a guest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GuestLink {
    /// In which namespace.
    pub place: Place,
    /// Its name there.
    pub name: String,
    /// Its address; absent where it was not looked at.
    pub mac: Option<MacAddr>,
}

/// A namespace of a guest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The guest's own.
    Own,
    /// One with a name.
    Named(String),
    /// One without a name, by the first process in it.
    Process(u32),
}

/// One row of hostd's journal.
#[derive(Debug, Clone, PartialEq)]
pub struct JournalRow {
    /// `nic`, `token` or `meta`.
    pub kind: String,
    /// The NIC's id, or `TENANT/TOKEN`.
    pub key: String,
    /// What it says; nothing when it is no JSON.
    pub body: Option<Value>,
}

/// What a record holds so that no other one can.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct JournalClaim {
    /// Of which record, by kind and key.
    pub owner: (String, String),
    /// `mac`, `address/NETWORK` or `slot/VM`.
    pub scope: String,
    /// What is held.
    pub value: String,
}

/// hostd's journal at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JournalView {
    /// Every record.
    pub rows: Vec<JournalRow>,
    /// Every claim.
    pub claims: BTreeSet<JournalClaim>,
}

impl JournalView {
    /// What one record claims, as scope and value.
    pub fn claims_of<'a>(
        &'a self,
        kind: &'a str,
        key: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.claims
            .iter()
            .filter(move |claim| claim.owner.0 == kind && claim.owner.1 == key)
            .map(|claim| (claim.scope.as_str(), claim.value.as_str()))
    }
}

impl SystemView {
    /// Every place that is reserved for a NIC: its own, and during a move the next one.
    pub(crate) fn places(&self) -> impl Iterator<Item = (&Nic, &host_api::Placement)> {
        self.nics.values().flat_map(|nic| {
            let places = nic.placement.iter().chain(&nic.moving_to);
            places.map(move |place| (nic, place))
        })
    }

    /// The same by VM.
    pub(crate) fn places_by_vm(&self) -> BTreeMap<&VmId, Vec<(&Nic, &host_api::Placement)>> {
        let mut by_vm: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (nic, place) in self.places() {
            by_vm.entry(&place.vm).or_default().push((nic, place));
        }
        by_vm
    }

    /// NICs that are said to be in use.
    pub(crate) fn in_use(&self) -> impl Iterator<Item = (&Nic, &host_api::Placement)> {
        let in_use = self
            .nics
            .values()
            .filter(|nic| nic.state == NicState::InUse);
        in_use.filter_map(|nic| Some((nic, nic.placement.as_ref()?)))
    }
}

impl VmView {
    /// Ids of NICs of which anything is plugged, and of objects of ours that belong to none.
    pub(crate) fn plugged(&self) -> BTreeSet<NicId> {
        let devices = self.devices.keys().map(|id| NicId::from_device_id(id));
        let netdevs = self.netdevs.iter().map(|id| NicId::from_netdev_id(id));
        devices.chain(netdevs).flatten().collect()
    }
}
