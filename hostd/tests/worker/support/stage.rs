//! The stage that scripted hypervisor, ports and journal play on: what they did, which calls fail,
//! where the daemon "dies", and every breach of the order that no plan may break.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nic_model::{NicId, VmId};
use tokio::sync::watch;
use tokio::time::Instant;

/// How long a scripted call that hangs takes until its own deadline ends it.
pub(crate) const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// What hostd calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    List,
    Inspect,
    Plug,
    Unplug,
    SetLink,
    MakePort,
    IsolatePort,
    RemovePort,
    Commit,
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Refused,
    TimedOut(Effect),
    Disconnected(Effect),
    /// No answer until the call's own deadline.
    Hangs,
    /// A bug.
    Panics,
}

/// Whether a call that failed did its work all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    Happened,
    Missing,
}

impl Fault {
    pub(crate) fn happened(self) -> bool {
        matches!(
            self,
            Self::TimedOut(Effect::Happened) | Self::Disconnected(Effect::Happened)
        )
    }
}

/// How often a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Times {
    Once,
    Always,
}

/// Something that became so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    PortMade,
    PortIsolated,
    PortRemoved,
    /// Somebody else removed it, or the descriptors to be passed went with a failed plug.
    PortLost,
    Plugged,
    CarrierDown,
    AskedToLetGo,
    DeviceGone,
    BackendGone,
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) nic: NicId,
    pub(crate) deed: Deed,
    pub(crate) at: Instant,
}

#[derive(Debug)]
struct Scripted {
    call: Call,
    vm: Option<VmId>,
    fault: Fault,
    times: Times,
}

#[derive(Debug, Default)]
struct Inner {
    entries: Vec<Entry>,
    breaches: Vec<String>,
    faults: Vec<Scripted>,
    passages: u64,
    dies_at: Option<u64>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Stage {
    inner: Mutex<Inner>,
    changes: watch::Sender<u64>,
    dead: watch::Sender<Life>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    Alive,
    Dead,
}

impl Default for Stage {
    fn default() -> Self {
        Self {
            inner: Mutex::default(),
            changes: watch::channel(0).0,
            dead: watch::channel(Life::Alive).0,
        }
    }
}

impl Stage {
    /// Makes calls fail, for one VM or for everybody.
    pub(crate) fn fail(&self, call: Call, vm: Option<&str>, fault: Fault, times: Times) {
        let vm = vm.map(|vm| vm.parse().unwrap());
        let scripted = Scripted {
            call,
            vm,
            fault,
            times,
        };
        self.lock().faults.push(scripted);
    }

    /// Ends every scripted fault.
    pub(crate) fn heal(&self) {
        self.lock().faults.clear();
    }

    /// The daemon stops for good at its n-th passage from now; `None`: never.
    pub(crate) fn die_at(&self, passage: Option<u64>) {
        let mut inner = self.lock();
        inner.passages = 0;
        inner.dies_at = passage;
        drop(inner);
        self.dead.send_replace(Life::Alive);
    }

    /// Waits until the daemon has stopped where [`Self::die_at`] said.
    pub(crate) async fn died(&self) {
        let mut dead = self.dead.subscribe();
        dead.wait_for(|life| *life == Life::Dead).await.unwrap();
    }

    /// A place at which the daemon may die.
    pub(crate) async fn pass(&self) {
        let dies = {
            let mut inner = self.lock();
            inner.passages += 1;
            inner.dies_at.is_some_and(|at| inner.passages >= at)
        };
        if dies {
            self.dead.send_replace(Life::Dead);
            std::future::pending::<()>().await;
        }
    }

    /// The fault that strikes a call now, if any.
    pub(crate) fn fault(&self, call: Call, vm: Option<&VmId>) -> Option<Fault> {
        let mut inner = self.lock();
        let index = inner.faults.iter().position(|scripted| {
            scripted.call == call && scripted.vm.as_ref().is_none_or(|only| Some(only) == vm)
        })?;
        let fault = inner.faults[index].fault;
        if inner.faults[index].times == Times::Once {
            inner.faults.remove(index);
        }
        Some(fault)
    }

    pub(crate) fn note(&self, nic: &NicId, deed: Deed) {
        self.lock().entries.push(Entry {
            nic: nic.clone(),
            deed,
            at: Instant::now(),
        });
        self.changes.send_modify(|version| *version += 1);
    }

    pub(crate) fn breach(&self, what: String) {
        self.lock().breaches.push(what);
    }

    pub(crate) fn breaches(&self) -> Vec<String> {
        self.lock().breaches.clone()
    }

    /// What became of one NIC so far, in order.
    pub(crate) fn deeds(&self, nic: &NicId) -> Vec<Deed> {
        self.entries(nic).iter().map(|entry| entry.deed).collect()
    }

    /// What was last done to a NIC's port.
    pub(crate) fn last_port_deed(&self, nic: &NicId) -> Option<Deed> {
        let of_port = [
            Deed::PortMade,
            Deed::PortIsolated,
            Deed::PortRemoved,
            Deed::PortLost,
        ];
        let deeds = self.deeds(nic);
        deeds.into_iter().rev().find(|deed| of_port.contains(deed))
    }

    pub(crate) fn entries(&self, nic: &NicId) -> Vec<Entry> {
        let inner = self.lock();
        let of_nic = inner.entries.iter().filter(|entry| entry.nic == *nic);
        of_nic.cloned().collect()
    }

    /// Waits until a deed has been done as often as said.
    pub(crate) async fn until_done(&self, nic: &NicId, deed: Deed, times: usize) {
        let count = || self.deeds(nic).iter().filter(|done| **done == deed).count();
        super::within("a deed", self.until(|| count() >= times)).await;
    }

    /// Waits until something holds, looking after each deed.
    pub(crate) async fn until(&self, holds: impl Fn() -> bool) {
        let mut changes = self.changes.subscribe();
        while !holds() {
            changes.changed().await.unwrap();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
