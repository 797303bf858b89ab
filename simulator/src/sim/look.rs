//! A host as it is seen from outside, for the judge.

use std::collections::{BTreeMap, BTreeSet};

use hostd::http::{limit_views, nic_view};
use oracle::{
    DeviceView, GuestLink, GuestView, HostView, JournalView, Moment, Place, Sight, SystemView,
    Violation, VmView,
};

use super::host::Host;
use super::vm::SimVm;

impl Host {
    /// Everything on this host; `None` while no hostd runs, since only it knows what it has
    /// promised.
    #[must_use]
    pub fn view(&self) -> Option<SystemView> {
        self.view_with(Some(self.disk().view()))
    }

    fn view_with(&self, journal: Option<JournalView>) -> Option<SystemView> {
        let service = self.service()?;
        let records = service.nics(&hostd::service::Caller::Operator);
        let nics = records.iter().map(|record| nic_view(&service, record));
        Some(SystemView {
            nics: nics.map(|nic| (nic.id.clone(), nic)).collect(),
            limits: limit_views(&service),
            journal,
            host: HostView {
                ports: self.links().view(),
                disturbed: Vec::new(),
            },
            vms: self
                .vms()
                .iter()
                .map(|(id, vm)| (id.clone(), vm_view(vm)))
                .collect(),
        })
    }

    /// Whether a hostd runs, and every NIC has come to rest.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.service().is_some_and(|service| {
            let records = service.nics(&hostd::service::Caller::Operator);
            records.iter().all(|record| record.state.is_settled())
        })
    }

    /// Everything that is wrong with it now, what has ever been done that may never be, and every
    /// end of hostd that nobody asked for.
    #[must_use]
    pub fn violations(&self, moment: Moment) -> Vec<Violation> {
        let mut found = self.links().breaches();
        found.extend(self.failures());
        // Before everything has come to rest nothing is asked of the journal, which is long.
        let journal = (moment == Moment::AtRest).then(|| self.disk().view());
        if let Some(view) = self.view_with(journal) {
            found.extend(oracle::violations(&view, moment));
        }
        found
    }
}

impl Host {
    /// The same with the host's name, and with what has not come to rest.
    pub(crate) fn told(&self, moment: Moment) -> Vec<Violation> {
        let at = |violation: Violation| format!("{}: {violation}", self.name());
        let mut found: Vec<_> = self.violations(moment).into_iter().map(at).collect();
        if moment == Moment::AtRest && !self.is_at_rest() {
            found.push(format!("{}: not everything has come to rest", self.name()));
        }
        found
    }
}

fn vm_view(vm: &SimVm) -> VmView {
    VmView {
        power: vm.power(),
        devices: vm.devices(),
        netdevs: vm.netdevs(),
        guest: vm.guest().map(|guest| guest_view(&guest)),
    }
}

fn guest_view(guest: &fake_guest::kernel::GuestView) -> GuestView {
    let mut links = Vec::new();
    let mut named = BTreeSet::new();
    let mut processes = BTreeMap::new();
    for (number, namespace) in guest.namespaces.iter().enumerate() {
        named.extend(namespace.names.iter().map(ToString::to_string));
        let place = match (namespace.names.first(), namespace.processes.first()) {
            // The guest's own comes first.
            _ if number == 0 => Place::Own,
            (Some(name), _) => Place::Named(name.to_string()),
            (None, Some(process)) => Place::Process(process.pid),
            (None, None) => Place::Process(0),
        };
        let here = namespace.processes.iter();
        processes.extend(here.map(|process| (process.pid, place.clone())));
        links.extend(namespace.links.iter().map(|link| GuestLink {
            place: place.clone(),
            name: link.name.clone(),
            mac: Some(link.mac),
        }));
    }
    GuestView {
        devices: Some(
            guest
                .devices
                .iter()
                .map(|device| device.path.clone())
                .collect(),
        ),
        links,
        named,
        processes,
        sight: Sight::Whole,
    }
}

/// Devices by id.
pub(crate) type Devices = BTreeMap<String, DeviceView>;
