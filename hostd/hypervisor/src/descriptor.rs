//! What is handed over with a command: an open descriptor, or what stands for one.
//!
//! Between two processes only the kernel carries descriptors. Where both ends of a stream are in
//! one process, a value goes from hand to hand, and its being dropped is the descriptor's being
//! closed.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// An open descriptor with one owner; dropping it closes it.
pub struct Descriptor(Box<dyn AsFd + Send + Sync>);

impl Descriptor {
    /// One that is more than a number: whoever made it is told by its being dropped when the last
    /// holder is gone.
    pub fn new(opened: impl AsFd + Send + Sync + 'static) -> Self {
        Self(Box::new(opened))
    }
}

impl From<OwnedFd> for Descriptor {
    fn from(opened: OwnedFd) -> Self {
        Self::new(opened)
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl fmt::Debug for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Descriptor").finish_non_exhaustive()
    }
}
