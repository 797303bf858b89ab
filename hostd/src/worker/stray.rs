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
/// How soon a stray device that could not be cut off is tried again.
const CUT_OFF_AGAIN: Duration = Duration::from_secs(1);

/// Devices under quarantine.
#[derive(Debug)]
pub(super) struct Strays {
    quarantine: Duration,
    found: BTreeMap<NicId, Stray>,
}

#[derive(Debug, Clone, Copy)]
struct Stray {
    /// The next try to remove it.
    remove_at: Instant,
    /// The next try to cut it off; `None` once that is done.
    cut_off_at: Option<Instant>,
}

impl Strays {
    pub(super) fn new(quarantine: Duration) -> Self {
        Self {
            quarantine,
            found: BTreeMap::new(),
        }
    }

    pub(super) fn next_wake(&self) -> Option<Instant> {
        let due = |stray: &Stray| stray.cut_off_at.unwrap_or(stray.remove_at);
        self.found.values().map(due).min()
    }
}

impl VmWorker {
    pub(super) async fn deal_with_strays(&mut self) {
        let strays = self.find_strays();
        self.strays.found.retain(|nic, _| strays.contains(nic));
        for nic in strays {
            let now = Instant::now();
            let stray = match self.strays.found.get(&nic) {
                Some(known) => *known,
                None => {
                    tracing::warn!(vm = %self.vm, %nic, "device without a record: quarantined");
                    Stray {
                        remove_at: now + self.strays.quarantine,
                        cut_off_at: Some(now),
                    }
                }
            };
            self.strays.found.insert(nic.clone(), stray);
            if stray.cut_off_at.is_some_and(|at| now >= at) {
                self.cut_off_stray(&nic).await;
            }
            if now >= stray.remove_at {
                self.remove_stray(&nic).await;
            }
        }
    }

    async fn cut_off_stray(&mut self, nic: &NicId) {
        let down = self.hypervisor.set_link(&self.vm, nic, Carrier::Down).await;
        if let Err(error) = &down {
            tracing::warn!(%nic, error = chain(error), "cannot cut off a stray device");
        }
        if let Some(stray) = self.strays.found.get_mut(nic) {
            stray.cut_off_at = down.is_err().then(|| Instant::now() + CUT_OFF_AGAIN);
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

    async fn remove_stray(&mut self, nic: &NicId) {
        self.stale = true;
        match self.hypervisor.unplug(&self.vm, nic).await {
            Ok(progress) => {
                tracing::info!(vm = %self.vm, %nic, ?progress, "removing a stray device")
            }
            Err(error) => {
                tracing::warn!(%nic, error = chain(&error), "cannot remove a stray device")
            }
        }
        if let Some(stray) = self.strays.found.get_mut(nic) {
            stray.remove_at = Instant::now() + ASK_AGAIN;
        }
    }
}
