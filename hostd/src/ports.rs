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
//! the two sees the other. The announcement stands until the kernel has really ended, even if
//! nobody waits for that any more; meanwhile the port is neither made nor removed once more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use nic_model::{NetworkName, NicId};
use port::{IsolatePortError, ListPortsError, PortProvider, PortView, RemovePortError};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::failpoint::{self, Side};
use crate::sabotage::{self, Sabotage};
use crate::store::Store;
use crate::watched::Watched;

/// What failpoints call the removal of a port.
const REMOVAL: (&str, &str) = ("detach", "remove-port");

/// How long a removal under way is waited for; the kernel needs 15 ms for a link, more when busy.
const DEADLINE: Duration = Duration::from_secs(5);

/// A port that is not touched because the kernel has yet to end what it was asked for before.
#[derive(Debug, thiserror::Error)]
#[error("the port of {0} is still being removed after {DEADLINE:?}")]
pub struct StillBeingRemoved(NicId);

/// The providers of this host, and the ports that are on their way out.
#[derive(Default)]
pub struct HostPorts {
    networks: BTreeMap<NetworkName, Arc<dyn PortProvider>>,
    /// To be removed by the janitor; what is forgotten here in a crash it finds by looking.
    left: watch::Sender<BTreeSet<NicId>>,
    /// Being isolated or removed just now because their NICs have no place.
    claimed: Arc<Watched<BTreeSet<NicId>>>,
    last_listing: tokio::sync::Mutex<Option<(Instant, Arc<Listing>)>>,
}

/// Ports by NIC.
pub type Listing = BTreeMap<NicId, PortView>;

/// A port that nobody makes meanwhile.
struct Claim {
    nic: NicId,
    claimed: Arc<Watched<BTreeSet<NicId>>>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claimed.modify(|claimed| claimed.remove(&self.nic));
    }
}

impl HostPorts {
    /// Ports of these networks.
    #[must_use]
    pub fn new(networks: BTreeMap<NetworkName, Arc<dyn PortProvider>>) -> Self {
        Self {
            networks,
            left: watch::Sender::default(),
            claimed: Arc::default(),
            last_listing: tokio::sync::Mutex::default(),
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

    /// Every port on this host by NIC, as it was at most so long ago: for those who look at many
    /// things often, and look anew at what strikes them.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn recently(&self, at_most: Duration) -> Result<Arc<Listing>, ListPortsError> {
        let mut last = self.last_listing.lock().await;
        if let Some((at, listing)) = &*last
            && at.elapsed() <= at_most
        {
            return Ok(Arc::clone(listing));
        }
        let ports = self.list().await?.into_iter();
        let listing: Listing = ports.map(|port| (port.nic.clone(), port)).collect();
        let listing = Arc::new(listing);
        *last = Some((Instant::now(), Arc::clone(&listing)));
        Ok(listing)
    }

    /// One port on this host, if it has any object.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn find(&self, nic: &NicId) -> Result<Option<PortView>, ListPortsError> {
        match self.networks.values().next() {
            Some(any) => any.port(nic).await,
            None => Ok(None),
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
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn until_settled(&self, nic: &NicId) -> Result<(), StillBeingRemoved> {
        let mut claimed = self.claimed.follow();
        let settled = async {
            while claimed.look(|claimed| claimed.contains(nic)) {
                claimed.changed().await.ok()?;
            }
            // Never none: the other end is in `self`.
            Some(())
        };
        let waited = tokio::time::timeout(DEADLINE, settled).await;
        waited
            .map(drop)
            .map_err(|_elapsed| StillBeingRemoved(nic.clone()))
    }

    /// Removes the port of a NIC, unless the NIC has a place.
    ///
    /// # Errors
    /// When the kernel refuses or takes too long; a part of the port is still there then.
    pub async fn remove(&self, store: &Store, nic: &NicId) -> Result<(), RemovePortError> {
        let claimed = self.claim(store, nic).await;
        let claimed = claimed.map_err(|still| RemovePortError {
            nic: nic.clone(),
            cause: still.into(),
        })?;
        let Some((claim, provider)) = claimed else {
            return Ok(());
        };
        if sabotage::is(Sabotage::LeakPort) {
            return Ok(());
        }
        failpoint::hit(REMOVAL.0, REMOVAL.1, Side::Before);
        provider.remove(nic, Box::new(claim)).await?;
        failpoint::hit(REMOVAL.0, REMOVAL.1, Side::After);
        Ok(())
    }

    /// Cuts off the port of a NIC, unless the NIC has a place.
    ///
    /// # Errors
    /// When the kernel refuses, or is still removing the port.
    pub async fn isolate(&self, store: &Store, nic: &NicId) -> Result<(), IsolatePortError> {
        match self.claim(store, nic).await {
            Ok(Some((_claim, provider))) => provider.isolate(nic).await,
            Ok(None) => Ok(()),
            Err(still) => Err(IsolatePortError {
                nic: nic.clone(),
                cause: still.into(),
            }),
        }
    }

    /// The right to touch the port of a NIC that has no place, and who does it. Every provider
    /// cuts off and removes by name, so one of them stands in for a network that is unknown.
    async fn claim(
        &self,
        store: &Store,
        nic: &NicId,
    ) -> Result<Option<(Claim, &Arc<dyn PortProvider>)>, StillBeingRemoved> {
        while !self.claimed.modify(|claimed| claimed.insert(nic.clone())) {
            self.until_settled(nic).await?;
        }
        let claim = Claim {
            nic: nic.clone(),
            claimed: self.claimed.clone(),
        };
        let record = store.nic(nic);
        if record
            .as_ref()
            .is_some_and(|record| record.placement.is_some())
        {
            return Ok(None);
        }
        let own = record.and_then(|record| self.of(&record.network));
        let provider = own.or_else(|| self.networks.values().next());
        Ok(provider.map(|provider| (claim, provider)))
    }
}
