//! What a monitor is reached over.

use std::io;
use std::task::{Context, Poll};

/// What arrives at once: bytes, and the descriptors that came with the first of them.
#[derive(Debug)]
pub struct Parcel<D> {
    /// At least one byte.
    pub bytes: Vec<u8>,
    /// Most often none.
    pub descriptors: Vec<D>,
}

/// A stream of bytes in both directions, in which descriptors travel to the monitor.
pub trait MonitorStream: Unpin {
    /// What a descriptor is here.
    type Descriptor;

    /// The next bytes, or `None` when the client has closed.
    ///
    /// # Errors
    /// When the stream is broken.
    fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<Option<Parcel<Self::Descriptor>>>>;

    /// Sends some bytes and says how many.
    ///
    /// # Errors
    /// When the stream is broken.
    fn poll_send(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;
}
