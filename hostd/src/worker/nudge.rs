//! How others wake a worker: a bell, and a note whether the world outside may have changed.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// The bell of one worker. Ringing it twice before it is heard is ringing it once.
#[derive(Debug, Default)]
pub struct Nudge {
    bell: Notify,
    world_changed: AtomicBool,
}

/// Whether the hardware has to be looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum World {
    MayHaveChanged,
    AsBefore,
}

impl Nudge {
    /// A record changed.
    pub fn notify(&self) {
        self.bell.notify_one();
    }

    /// The hypervisor says that something changed.
    pub fn world_changed(&self) {
        self.world_changed.store(true, Ordering::Release);
        self.bell.notify_one();
    }

    pub(super) async fn wait(&self) -> World {
        self.bell.notified().await;
        if self.world_changed.swap(false, Ordering::AcqRel) {
            World::MayHaveChanged
        } else {
            World::AsBefore
        }
    }
}
