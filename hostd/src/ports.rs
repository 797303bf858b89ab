//! The host ends of NICs: which provider makes them, and what becomes of those left over.
//!
//! ```text
//!   worker:  detached ──► leave(nic) ──► janitor: remove ──► gone
//!   client:  delete ────► remove, then the record goes
//!   worker:  attach ────► until_settled(nic) ──► make: finds what is there, or makes it
//! ```
//!
//! A detach is answered when the port passes no frames. Its objects take the kernel tens of
//! milliseconds to remove, and nobody has to wait for that but the next attach of the same NIC.
//! Only a port whose NIC has no place is ever removed, and that is looked at after the removal has
//! been announced: a NIC is given its place before its worker looks for announcements, so one of
//! the two sees the other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nic_model::{NetworkName, NicId};
use port::{IsolatePortError, ListPortsError, PortProvider, PortView, RemovePortError};
use tokio::sync::watch;

use crate::failpoint::{self, Side};
use crate::store::Store;

/// What failpoints call the removal of a port.
const REMOVAL: (&str, &str) = ("detach", "remove-port");

/// The providers of this host, and the ports that are on their way out.
#[derive(Default)]
pub struct HostPorts {
    networks: BTreeMap<NetworkName, Arc<dyn PortProvider>>,
    /// To be removed by the janitor; what is forgotten here in a crash it finds by looking.
    left: watch::Sender<BTreeSet<NicId>>,
    /// Being isolated or removed just now because their NICs have no place.
    claimed: watch::Sender<BTreeSet<NicId>>,
}

/// A port that nobody makes meanwhile.
struct Claim<'a> {
    nic: &'a NicId,
    claimed: &'a watch::Sender<BTreeSet<NicId>>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.claimed.send_modify(|claimed| {
            claimed.remove(self.nic);
        });
    }
}

impl HostPorts {
    /// Ports of these networks.
    #[must_use]
    pub fn new(networks: BTreeMap<NetworkName, Arc<dyn PortProvider>>) -> Self {
        Self {
            networks,
            left: watch::Sender::default(),
            claimed: watch::Sender::default(),
        }
    }

    /// Who makes the ports of a network, if that is configured.
    #[must_use]
    pub fn of(&self, network: &NetworkName) -> Option<&Arc<dyn PortProvider>> {
        self.networks.get(network)
    }

    /// Every port on this host. Each provider sees those of all, so one of them is asked.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn list(&self) -> Result<Vec<PortView>, ListPortsError> {
        match self.networks.values().next() {
            Some(any) => any.ports().await,
            None => Ok(Vec::new()),
        }
    }

    /// The NIC has no place any more: its port is removed when nobody waits for anything.
    pub fn leave(&self, nic: NicId) {
        self.left.send_modify(|left| {
            left.insert(nic);
        });
    }

    /// Waits for a port that was left; it is given once.
    pub async fn next_left(&self) -> NicId {
        let mut changes = self.left.subscribe();
        loop {
            let mut next = None;
            self.left.send_if_modified(|left| {
                next = left.pop_first();
                false
            });
            match next {
                Some(nic) => return nic,
                // Never an error: the other end is in `self`.
                None => drop(changes.changed().await),
            }
        }
    }

    /// Waits until nobody removes the port of a NIC, which has a place: nobody will begin to.
    pub async fn until_settled(&self, nic: &NicId) {
        let mut claimed = self.claimed.subscribe();
        drop(claimed.wait_for(|claimed| !claimed.contains(nic)).await);
    }

    /// Removes the port of a NIC, unless the NIC has a place.
    ///
    /// # Errors
    /// When the kernel refuses; a part of the port is still there then.
    pub async fn remove(&self, store: &Store, nic: &NicId) -> Result<(), RemovePortError> {
        let Some((_claim, provider)) = self.claim(store, nic).await else {
            return Ok(());
        };
        failpoint::hit(REMOVAL.0, REMOVAL.1, Side::Before);
        provider.remove(nic).await?;
        failpoint::hit(REMOVAL.0, REMOVAL.1, Side::After);
        Ok(())
    }

    /// Cuts off the port of a NIC, unless the NIC has a place.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn isolate(&self, store: &Store, nic: &NicId) -> Result<(), IsolatePortError> {
        match self.claim(store, nic).await {
            Some((_claim, provider)) => provider.isolate(nic).await,
            None => Ok(()),
        }
    }

    /// The right to touch the port of a NIC that has no place, and who does it. Every provider
    /// cuts off and removes by name, so one of them stands in for a network that is unknown.
    async fn claim<'a>(
        &'a self,
        store: &Store,
        nic: &'a NicId,
    ) -> Option<(Claim<'a>, &'a Arc<dyn PortProvider>)> {
        while !self
            .claimed
            .send_if_modified(|claimed| claimed.insert(nic.clone()))
        {
            self.until_settled(nic).await;
        }
        let claim = Claim {
            nic,
            claimed: &self.claimed,
        };
        let record = store.nic(nic);
        if record
            .as_ref()
            .is_some_and(|record| record.placement.is_some())
        {
            return None;
        }
        let own = record.and_then(|record| self.of(&record.network));
        Some((claim, own.or_else(|| self.networks.values().next())?))
    }
}
