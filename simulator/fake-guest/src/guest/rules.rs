//! What is to go wrong in a guest: the rulebook it shares with everything else that is simulated.

use std::sync::{Arc, Mutex, PoisonError};

use misbehaviour::{Effect, Occasion, Rulebook};
use nic_model::{NicId, VmId};

/// The rules in force, for all that is simulated together.
#[derive(Debug, Clone)]
pub struct SharedRules(Arc<Mutex<Rulebook>>);

/// A rulebook that others ask as well.
impl From<Arc<Mutex<Rulebook>>> for SharedRules {
    fn from(book: Arc<Mutex<Rulebook>>) -> Self {
        Self(book)
    }
}

impl SharedRules {
    /// Shares a rulebook.
    #[must_use]
    pub fn new(book: Rulebook) -> Self {
        Self(Arc::new(Mutex::new(book)))
    }

    /// Does something with the rulebook.
    pub fn with<T>(&self, work: impl FnOnce(&mut Rulebook) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is to happen instead of an operation's simply being done.
    #[must_use]
    pub fn consult(&self, operation: &str, vm: &VmId, nic: Option<&NicId>) -> Option<Effect> {
        let occasion = Occasion {
            operation,
            vm: Some(vm),
            nic,
        };
        self.with(|book| {
            if book.is_empty() {
                return None;
            }
            book.consult(&occasion)
        })
    }
}
