//! What a DHCP lease adds to a wish: its address and its routes, for as long as it lasts.

use agent_protocol::{BindError, Binding};
use nic_model::{IpNet, Ipv4Net, Route};

use super::{Announced, NicBinding, Progress};
use crate::action::Action;
use crate::sight::{Lease, LeaseSight, LinkPlace, LinkSeen};

impl NicBinding {
    /// Takes what the DHCP client says.
    pub fn see_lease(&mut self, lease: LeaseSight) {
        let active = matches!(self.progress, Progress::Working | Progress::Bound { .. });
        if let LeaseSight::Refused { waited_ms } = lease
            && active
        {
            self.fail(BindError::NoLease { waited_ms });
        }
        let bound = matches!(self.progress, Progress::Bound { .. });
        if bound && self.uses_lease() && lease != self.lease {
            self.progress = Progress::Working;
            self.announced = Announced::NotYet;
        }
        self.lease = lease;
    }

    /// Whether the client is stopped before `action`, and so is not running after it even when the
    /// link could not be moved. A link that only gets another name where it is keeps its client.
    pub(super) fn stops_client(&self, action: &Action) -> bool {
        match action {
            Action::Hold | Action::Disarm | Action::Release => true,
            Action::Enter { .. } => !matches!(self.place(), Some(LinkPlace::Target(_))),
            Action::StartLease
            | Action::DropLease(_)
            | Action::SetAddresses(_)
            | Action::Announce(_)
            | Action::SetMtu(_)
            | Action::SetUp
            | Action::SetRoutes(_)
            | Action::Wait
            | Action::Look
            | Action::Report(_)
            | Action::Verify => false,
        }
    }

    pub(super) fn uses_lease(&self) -> bool {
        use nic_model::Addressing::{Dhcp, Static};
        match self.binding().map(|binding| &binding.addressing) {
            Some(Dhcp { .. }) => true,
            Some(Static { .. }) | None => false,
        }
    }

    pub(super) fn granted(&self) -> Option<&Lease> {
        match &self.lease {
            LeaseSight::Granted(lease) => self.uses_lease().then_some(lease),
            LeaseSight::Idle | LeaseSight::Pending | LeaseSight::Refused { .. } => None,
        }
    }

    /// An address that a lease of an earlier life of the agent left on the link, when the server
    /// grants another one now.
    pub(super) fn left_over_lease(&self, binding: &Binding, link: &LinkSeen) -> Option<Ipv4Net> {
        if self.granted().is_none() || self.applied_lease.is_some() {
            return None;
        }
        let wanted = self.wanted_addresses(binding);
        let unwanted = link
            .addresses
            .iter()
            .find(|address| !wanted.contains(address));
        unwanted.and_then(|address| match address {
            IpNet::V4(address) => Some(*address),
            IpNet::V6(_) => None,
        })
    }

    pub(super) fn wanted_addresses(&self, binding: &Binding) -> Vec<IpNet> {
        let leased = self.granted().map(|lease| IpNet::V4(lease.address));
        let fixed = binding.addressing.addresses().iter().copied();
        fixed.chain(leased).collect()
    }

    pub(super) fn wanted_routes(&self, binding: &Binding) -> Vec<Route> {
        let leased = self.granted().map(|lease| lease.routes.iter());
        let fixed = binding.routes.iter();
        fixed.chain(leased.into_iter().flatten()).cloned().collect()
    }
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
