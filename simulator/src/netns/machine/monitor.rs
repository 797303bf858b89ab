//! A monitor of one VM: clients one after the other, each thing they ask counted as a look.

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};

use fake_qemu::MonitorId;
use fake_qemu::driver::unix::UnixMonitor;
use fake_qemu::driver::{MonitorStream, Parcel};
use tokio::net::UnixListener;
use tokio::sync::watch;

use super::hardware::Qemu;
use crate::netns::trouble::{Doing, Trouble};

/// Hostd's.
pub(super) const MONITOR: MonitorId = MonitorId(0);
/// The one that hostd leaves to others.
pub(super) const SPARE: MonitorId = MonitorId(1);

/// A client whose looks are counted.
struct Counted<'a> {
    client: UnixMonitor,
    polls: &'a watch::Sender<u64>,
}

impl MonitorStream for Counted<'_> {
    type Descriptor = OwnedFd;

    fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<Option<Parcel<OwnedFd>>>> {
        let received = self.client.poll_receive(context);
        if matches!(received, Poll::Ready(Ok(Some(_)))) {
            self.polls.send_modify(|polls| *polls += 1);
        }
        received
    }

    fn poll_send(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.client.poll_send(context, bytes)
    }
}

/// Serves for as long as the machine lives. A second client waits until the first is gone.
///
/// # Errors
/// When the socket cannot be listened on any more.
pub(super) async fn serve(
    qemu: &Qemu,
    monitor: MonitorId,
    listener: &UnixListener,
    polls: &watch::Sender<u64>,
) -> Result<(), Trouble> {
    loop {
        let (stream, _address) = listener.accept().await.doing("serve the monitor")?;
        let client = UnixMonitor::new(stream);
        qemu.serve(monitor, Counted { client, polls }).await;
    }
}
