//! A monitor of one VM: clients one after the other, each command of theirs counted as a look.

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};

use fake_qemu::MonitorId;
use fake_qemu::driver::unix::UnixMonitor;
use fake_qemu::driver::{MonitorStream, Parcel};
use tokio::net::UnixListener;
use tokio::sync::watch;

use super::commands::Commands;
use super::hardware::Qemu;
use crate::netns::trouble::{Doing, Trouble};

/// Hostd's.
pub(super) const MONITOR: MonitorId = MonitorId(0);
/// The one that hostd leaves to others.
pub(super) const SPARE: MonitorId = MonitorId(1);

/// A client whose looks are counted, and who is read command by command: what a command brings
/// about knows how many there were before it.
struct Counted<'a> {
    client: UnixMonitor,
    commands: Commands,
    /// What has come behind the command that was read last.
    rest: Vec<u8>,
    polls: &'a watch::Sender<u64>,
}

impl MonitorStream for Counted<'_> {
    type Descriptor = OwnedFd;

    fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<Option<Parcel<OwnedFd>>>> {
        let received = match std::mem::take(&mut self.rest) {
            rest if rest.is_empty() => self.client.poll_receive(context),
            bytes => Poll::Ready(Ok(Some(Parcel {
                bytes,
                descriptors: Vec::new(),
            }))),
        };
        let Poll::Ready(Ok(Some(mut parcel))) = received else {
            return received;
        };
        if let Some(end) = self.commands.end(&parcel.bytes) {
            self.rest = parcel.bytes.split_off(end);
            self.polls.send_modify(|polls| *polls += 1);
        }
        Poll::Ready(Ok(Some(parcel)))
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
        let client = Counted {
            client,
            commands: Commands::default(),
            rest: Vec::new(),
            polls,
        };
        qemu.serve(monitor, client).await;
    }
}
