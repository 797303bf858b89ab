//! How a monitor is reached: over a unix socket, unless somebody brings another way.
//!
//! ```text
//!   Dialer ── dial(address) ──► MonitorStream: bytes, a descriptor with a line, whose it is
//! ```

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use hypervisor::Descriptor;
use nic_model::VmRunId;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::{AsyncRead, Interest};
use tokio::net::UnixStream;

use crate::process;

/// Reaches monitors. The caller sets the deadline.
#[async_trait]
pub trait Dialer: Debug + Send + Sync + 'static {
    /// A new stream to the monitor at `address`.
    ///
    /// # Errors
    /// `NotFound` or `ConnectionRefused` where there is no process; `WouldBlock` where there is one
    /// that others queue for already; anything else where it cannot be told.
    async fn dial(&self, address: &Path) -> io::Result<Box<dyn MonitorStream>>;
}

/// A byte stream to one monitor. Dropping it closes it.
pub trait MonitorStream: AsyncRead + Send + Unpin + 'static {
    /// Sends the first of `bytes`, as many as there is room for, and `descriptor` with them, which
    /// is taken then.
    fn poll_send(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
        descriptor: &mut Option<Descriptor>,
    ) -> Poll<io::Result<usize>>;

    /// Which life of which process is at the other end.
    ///
    /// # Errors
    /// When that cannot be found out.
    fn run(&self) -> io::Result<VmRunId>;
}

/// Over unix sockets that QEMU itself listens on.
#[derive(Debug, Clone, Copy, Default)]
pub struct UnixDialer;

#[async_trait]
impl Dialer for UnixDialer {
    async fn dial(&self, address: &Path) -> io::Result<Box<dyn MonitorStream>> {
        Ok(Box::new(UnixStream::connect(address).await?))
    }
}

impl MonitorStream for UnixStream {
    fn poll_send(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
        descriptor: &mut Option<Descriptor>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_write_ready(context))?;
            let sent = self.try_io(Interest::WRITABLE, || send(&self, bytes, descriptor));
            match sent {
                Ok(sent) => {
                    // The kernel holds a copy.
                    *descriptor = None;
                    return Poll::Ready(Ok(sent));
                }
                Err(error) if not_ready(&error) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn run(&self) -> io::Result<VmRunId> {
        let pid = self.peer_cred()?.pid().filter(|pid| *pid > 0);
        // The kernel tells no process id across process namespaces (unix(7), SO_PEERCRED).
        process::run_id(pid.ok_or(io::ErrorKind::NotFound)?)
    }
}

fn not_ready(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

fn send(stream: &UnixStream, bytes: &[u8], descriptor: &Option<Descriptor>) -> io::Result<usize> {
    let descriptor = descriptor.as_ref().map(AsFd::as_fd);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(descriptor.as_slice())) {
        return Err(io::Error::other("no room for a file descriptor"));
    }
    let flags = SendFlags::NOSIGNAL;
    Ok(sendmsg(
        stream,
        &[IoSlice::new(bytes)],
        &mut control,
        flags,
    )?)
}
