//! Devices that bear our names in a VM although no record places them there: a crash between two
//! worlds, a restored backup, a record removed by hand. They are cut off at once and removed after
//! a time in quarantine, which leaves room for whoever owns them to say so.

use std::collections::BTreeMap;
use std::time::Duration;

use hypervisor::Carrier;
use nic_model::NicId;
use tokio::time::Instant;

use super::VmWorker;
use super::act::chain;

/// How often a stray device is asked to go once its quarantine is over.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// Devices under quarantine, with the time of the next try to remove them.
#[derive(Debug)]
pub(super) struct Strays {
    quarantine: Duration,
    remove_at: BTreeMap<NicId, Instant>,
}

impl Strays {
    pub(super) fn new(quarantine: Duration) -> Self {
        Self {
            quarantine,
            remove_at: BTreeMap::new(),
        }
    }

    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.remove_at.values().min().copied()
    }
}

impl VmWorker {
    pub(super) async fn deal_with_strays(&mut self) {
        let strays = self.find_strays();
        self.strays.remove_at.retain(|nic, _| strays.contains(nic));
        for nic in strays {
            match self.strays.remove_at.get(&nic) {
                None => {
                    tracing::warn!(vm = %self.vm, %nic, "device without a record: quarantined");
                    self.strays
                        .remove_at
                        .insert(nic.clone(), Instant::now() + self.strays.quarantine);
                    let down = self
                        .hypervisor
                        .set_link(&self.vm, &nic, Carrier::Down)
                        .await;
                    if let Err(error) = down {
                        let error = chain(&error);
                        tracing::warn!(%nic, error, "cannot cut off a stray device");
                    }
                }
                Some(at) if Instant::now() >= *at => self.remove_stray(nic).await,
                Some(_) => {}
            }
        }
    }

    /// A record that places the NIC here owns the device, in whatever state it is.
    fn find_strays(&self) -> Vec<NicId> {
        let Some(hardware) = &self.hardware else {
            return Vec::new();
        };
        self.tools.store.read(|ledger| {
            let owned = |nic: &NicId| {
                ledger
                    .nic(nic)
                    .is_some_and(|record| record.reserved().any(|place| place.vm == self.vm))
            };
            let plugged = hardware.nics.iter().map(|plugged| plugged.nic.clone());
            plugged.filter(|nic| !owned(nic)).collect()
        })
    }

    async fn remove_stray(&mut self, nic: NicId) {
        self.stale = true;
        match self.hypervisor.unplug(&self.vm, &nic).await {
            Ok(progress) => {
                tracing::info!(vm = %self.vm, %nic, ?progress, "removing a stray device")
            }
            Err(error) => {
                tracing::warn!(%nic, error = chain(&error), "cannot remove a stray device")
            }
        }
        self.strays
            .remove_at
            .insert(nic, Instant::now() + ASK_AGAIN);
    }
}
