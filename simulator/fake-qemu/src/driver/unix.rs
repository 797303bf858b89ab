//! Monitors on unix sockets, with descriptors in `SCM_RIGHTS`, and taps of the host.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::task::{Context, Poll, ready};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};

use super::stream::{MonitorStream, Parcel};
use super::{FakeQemu, Surroundings};
use crate::machine::{Host, MonitorId, TapError};

/// How much is read at a time, in bytes.
const CHUNK_BYTES: usize = 16 * 1024;

/// Most descriptors taken with one read (`TCP_MAX_FDS` in QEMU's `chardev/char-socket.c`).
const DESCRIPTORS_MAX: usize = 16;

/// A client on a unix socket.
#[derive(Debug)]
pub struct UnixMonitor(UnixStream);

impl UnixMonitor {
    /// Over an accepted stream.
    #[must_use]
    pub fn new(stream: UnixStream) -> Self {
        Self(stream)
    }

    fn receive(&self) -> io::Result<Parcel<OwnedFd>> {
        let mut bytes = vec![0; CHUNK_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = self.0.try_io(Interest::READABLE, || {
            let mut into = [IoSliceMut::new(&mut bytes)];
            Ok(recvmsg(
                &self.0,
                &mut into,
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            )?)
        })?;
        bytes.truncate(received.bytes);
        bytes.shrink_to_fit();
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        Ok(Parcel { bytes, descriptors })
    }
}

impl MonitorStream for UnixMonitor {
    type Descriptor = OwnedFd;

    fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<Option<Parcel<OwnedFd>>>> {
        loop {
            ready!(self.0.poll_read_ready(context))?;
            match self.receive() {
                Ok(parcel) if parcel.bytes.is_empty() => return Poll::Ready(Ok(None)),
                Ok(parcel) => return Poll::Ready(Ok(Some(parcel))),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_send(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(context))?;
            match self.0.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return Poll::Ready(outcome),
            }
        }
    }
}

/// Taps as the kernel knows them.
#[derive(Debug, Clone, Copy, Default)]
pub struct KernelTaps;

impl Host<OwnedFd> for KernelTaps {
    /// The kernel says of a tap's descriptor which link it is a queue of (`tun_chr_show_fdinfo` in
    /// Linux' `drivers/net/tun.c`).
    fn check_tap(&mut self, descriptor: &OwnedFd) -> Result<(), TapError> {
        let path = format!("/proc/self/fdinfo/{}", descriptor.as_raw_fd());
        let info = std::fs::read_to_string(path).map_err(|error| TapError(error.to_string()))?;
        match info.lines().any(|line| line.starts_with("iff:")) {
            true => Ok(()),
            false => Err(TapError("Inappropriate ioctl for device".to_owned())),
        }
    }

    fn open_tap(&mut self, name: &str) -> Result<(), TapError> {
        let path = Path::new("/sys/class/net").join(name);
        let known = !name.is_empty() && path.exists();
        known
            .then_some(())
            .ok_or_else(|| TapError("Operation not permitted".to_owned()))
    }
}

/// Serves one monitor on a socket, one client after the other, until the machine has ended.
///
/// # Errors
/// When the socket cannot be listened on any more.
pub async fn listen<S: Surroundings<OwnedFd>>(
    qemu: &FakeQemu<OwnedFd, S>,
    monitor: MonitorId,
    listener: &UnixListener,
) -> io::Result<()> {
    while !qemu.has_ended() {
        let (stream, _) = listener.accept().await?;
        qemu.serve(monitor, UnixMonitor::new(stream)).await;
    }
    Ok(())
}
