//! How others wake a worker: a bell, and what they have to tell.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nic_model::NicId;
use tokio::sync::Notify;

/// The bell of one worker. Ringing it twice before it is heard is ringing it once.
#[derive(Debug, Default)]
pub struct Nudge {
    bell: Notify,
    news: Mutex<News>,
}

/// What has been told since the worker last listened.
#[derive(Debug, Default)]
pub(super) struct News {
    pub(super) world: World,
    /// Devices that the hypervisor says are gone: no more than one VM has.
    pub(super) gone: BTreeSet<NicId>,
}

/// Whether the hardware has to be looked at again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum World {
    MayHaveChanged,
    #[default]
    AsBefore,
}

impl Nudge {
    /// A record changed.
    pub fn notify(&self) {
        self.bell.notify_one();
    }

    /// The hypervisor says that something changed.
    pub fn world_changed(&self) {
        self.lock().world = World::MayHaveChanged;
        self.bell.notify_one();
    }

    /// The hypervisor says that a device is gone.
    pub fn device_gone(&self, nic: NicId) {
        self.lock().gone.insert(nic);
        self.bell.notify_one();
    }

    pub(super) async fn wait(&self) -> News {
        self.bell.notified().await;
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, News> {
        // Nothing panics while holding it.
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
