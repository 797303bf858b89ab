//! Ways to be wrong on purpose, so that the net of tests can be seen to catch them.
//!
//! Compiled in with the feature `sabotage` only; without it nothing is ever wrong on purpose. One
//! thing at a time is wrong in a thread: a simulated world runs on one.

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// A record that comes to rest is not journalled.
    SkipJournalWrite,
    /// A request is answered, and acted upon, before its intent is durable.
    AnswerBeforeDurable,
    /// The ledger is looked at as it was before requests that are being journalled.
    AdmitOnStaleLedger,
    /// Client tokens are not remembered.
    ForgetTokens,
    /// The port of a NIC that leaves goes on passing frames.
    LeavePortOpen,
    /// The port of a NIC that has left is never removed.
    LeakPort,
    /// A device is taken to be gone as soon as the guest has been asked to let go.
    ReuseSlotEarly,
    /// Nobody looks when QEMU tells that a device is gone.
    IgnoreDeviceGone,
    /// Nobody looks at what has changed while the connection to a hypervisor was lost.
    ForgetLookAfterReconnect,
    /// An agent's report that a NIC is bound counts until it is told to forget that NIC, whatever
    /// it reports later on.
    TrustOldReports,
    /// A failed attach is not undone.
    SkipUndo,
    /// One VM's worker holds up all others while its guest takes its time.
    WaitWithLockHeld,
}

impl Sabotage {
    /// Every one.
    pub const ALL: [Self; 12] = [
        Self::SkipJournalWrite,
        Self::AnswerBeforeDurable,
        Self::AdmitOnStaleLedger,
        Self::ForgetTokens,
        Self::LeavePortOpen,
        Self::LeakPort,
        Self::ReuseSlotEarly,
        Self::IgnoreDeviceGone,
        Self::ForgetLookAfterReconnect,
        Self::TrustOldReports,
        Self::SkipUndo,
        Self::WaitWithLockHeld,
    ];
}

#[cfg(feature = "sabotage")]
mod active {
    use std::cell::Cell;
    use std::time::Duration;

    use tokio::sync::{Mutex, MutexGuard};

    use super::Sabotage;

    thread_local! {
        static ACTIVE: Cell<Option<Sabotage>> = const { Cell::new(None) };
    }

    /// Held by whichever worker acts, when one is to hold up all others.
    static TURN: Mutex<()> = Mutex::const_new(());
    /// How long a worker that should not wait for its guest does so.
    const WAIT: Duration = Duration::from_secs(60);

    /// Has one thing be wrong in this thread, or nothing.
    pub fn set(sabotage: Option<Sabotage>) {
        ACTIVE.set(sabotage);
    }

    pub(crate) fn is(sabotage: Sabotage) -> bool {
        ACTIVE.get() == Some(sabotage)
    }

    pub(crate) async fn turn() -> Option<MutexGuard<'static, ()>> {
        if !is(Sabotage::WaitWithLockHeld) {
            return None;
        }
        Some(TURN.lock().await)
    }

    pub(crate) async fn wait_for_guest() {
        if is(Sabotage::WaitWithLockHeld) {
            tokio::time::sleep(WAIT).await;
        }
    }
}

#[cfg(feature = "sabotage")]
pub use active::set;
#[cfg(feature = "sabotage")]
pub(crate) use active::{is, turn, wait_for_guest};

/// Never: this build does what it should.
#[cfg(not(feature = "sabotage"))]
pub(crate) const fn is(_sabotage: Sabotage) -> bool {
    false
}

/// Nobody waits for a turn.
#[cfg(not(feature = "sabotage"))]
pub(crate) fn turn() -> std::future::Ready<()> {
    std::future::ready(())
}

/// Nobody waits for a guest.
#[cfg(not(feature = "sabotage"))]
pub(crate) fn wait_for_guest() -> std::future::Ready<()> {
    std::future::ready(())
}
