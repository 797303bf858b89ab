//! The virtio-serial port between a guest and its host: two lanes of bytes and no connections.
//!
//! What the host writes waits until an agent reads it; what is left when an agent ends is thrown
//! away, as Linux does when a port is closed (`discard_port_data` in
//! drivers/char/virtio_console.c). A guest that writes while no host is there waits. A host that
//! connects anew takes the place of the one before, whose stream ends.
//!
//! ```text
//!   HostEnd ──write──► [ to guest, 32 KiB ] ──read──► GuestEnd ─► the agent's channel
//!           ◄──read─── [ to host,  32 KiB ] ◄─write──
//! ```

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that wait in one lane: a ring of eight pages.
const ROOM: usize = 32 * 1024;

/// The port of one guest.
#[derive(Debug, Clone, Default)]
pub(super) struct Port(Arc<Mutex<Lanes>>);

#[derive(Debug, Default)]
struct Lanes {
    to_guest: Lane,
    to_host: Lane,
    /// The ends that are open, by number; each opening has a new one.
    host: Option<u64>,
    guest: Option<u64>,
    openings: u64,
    /// Whether the guest reads and writes nothing, because its CPUs stand still.
    stalled: Stalled,
}

/// Whether nothing moves at the guest's end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Stalled {
    /// It does.
    #[default]
    No,
    /// Nothing does.
    Yes,
}

#[derive(Debug, Default)]
struct Lane {
    bytes: VecDeque<u8>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// Who holds an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Host,
    Guest,
}

/// One end, open until it is dropped or somebody else opens it.
#[derive(Debug)]
pub struct PortEnd {
    port: Port,
    whose: Whose,
    number: u64,
}

impl Port {
    /// Opens the host's end.
    pub(super) fn connect(&self) -> PortEnd {
        self.open(Whose::Host)
    }

    /// Opens the guest's end.
    pub(super) fn listen(&self) -> PortEnd {
        self.open(Whose::Guest)
    }

    /// Lets bytes wait at the guest's end, or go on.
    pub(super) fn stall(&self, stalled: Stalled) {
        let mut lanes = self.lanes();
        lanes.stalled = stalled;
        lanes.to_guest.wake();
        lanes.to_host.wake();
    }

    /// The machine is gone, and both ends with it.
    pub(super) fn unplug(&self) {
        let mut lanes = self.lanes();
        lanes.host = None;
        lanes.guest = None;
        lanes.to_guest = lanes.to_guest.emptied();
        lanes.to_host = lanes.to_host.emptied();
    }

    fn open(&self, whose: Whose) -> PortEnd {
        let mut lanes = self.lanes();
        lanes.openings += 1;
        let number = lanes.openings;
        *lanes.holder(whose) = Some(number);
        // Whoever held the end reads that it is over; whoever waited to write can.
        lanes.to_guest.wake();
        lanes.to_host.wake();
        drop(lanes);
        PortEnd {
            port: self.clone(),
            whose,
            number,
        }
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lanes {
    fn holder(&mut self, whose: Whose) -> &mut Option<u64> {
        match whose {
            Whose::Host => &mut self.host,
            Whose::Guest => &mut self.guest,
        }
    }

    fn waits(&self, whose: Whose) -> bool {
        whose == Whose::Guest && self.stalled == Stalled::Yes
    }

    fn incoming(&mut self, whose: Whose) -> &mut Lane {
        match whose {
            Whose::Host => &mut self.to_host,
            Whose::Guest => &mut self.to_guest,
        }
    }

    fn outgoing(&mut self, whose: Whose) -> &mut Lane {
        match whose {
            Whose::Host => &mut self.to_guest,
            Whose::Guest => &mut self.to_host,
        }
    }
}

impl Lane {
    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()]
            .into_iter()
            .flatten()
        {
            waker.wake();
        }
    }

    fn emptied(&mut self) -> Self {
        self.wake();
        Self::default()
    }
}

impl AsyncRead for PortEnd {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut lanes = self.port.lanes();
        if *lanes.holder(self.whose) != Some(self.number) {
            return Poll::Ready(Ok(()));
        }
        let waits = lanes.waits(self.whose);
        let lane = lanes.incoming(self.whose);
        if waits || lane.bytes.is_empty() {
            lane.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        let (first, _) = lane.bytes.as_slices();
        let length = first.len().min(buffer.remaining());
        buffer.put_slice(&first[..length]);
        lane.bytes.drain(..length);
        if lane.bytes.is_empty() {
            // Quiet for most of its life, it need not keep its buffer.
            lane.bytes = VecDeque::new();
        }
        if let Some(writer) = lane.writer.take() {
            writer.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for PortEnd {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut lanes = self.port.lanes();
        if *lanes.holder(self.whose) != Some(self.number) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let nobody_reads = self.whose == Whose::Guest && lanes.host.is_none();
        let waits = nobody_reads || lanes.waits(self.whose);
        let lane = lanes.outgoing(self.whose);
        let room = ROOM - lane.bytes.len();
        if waits || room == 0 {
            lane.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let length = room.min(bytes.len());
        lane.bytes.extend(&bytes[..length]);
        if let Some(reader) = lane.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for PortEnd {
    fn drop(&mut self) {
        let mut lanes = self.port.lanes();
        if *lanes.holder(self.whose) == Some(self.number) {
            *lanes.holder(self.whose) = None;
            let left = lanes.incoming(self.whose);
            *left = left.emptied();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn read(end: &mut PortEnd) -> Vec<u8> {
        let mut bytes = [0; 64];
        let length = end.read(&mut bytes).await.unwrap();
        bytes[..length].to_vec()
    }

    #[tokio::test]
    async fn bytes_of_an_earlier_host_are_read_and_those_of_an_earlier_agent_are_not() {
        let port = Port::default();
        let mut agent = port.listen();
        let mut host = port.connect();
        host.write_all(b"old").await.unwrap();
        agent.write_all(b"old").await.unwrap();
        drop(host);

        let mut host = port.connect();
        host.write_all(b"new").await.unwrap();
        agent.write_all(b"new").await.unwrap();

        assert_eq!(read(&mut agent).await, b"oldnew");
        assert_eq!(read(&mut host).await, b"new");
        host.write_all(b"unread").await.unwrap();
        drop(agent);
        host.write_all(b"later").await.unwrap();
        assert_eq!(read(&mut port.listen()).await, b"later");
    }

    #[tokio::test]
    async fn a_new_host_ends_the_stream_of_the_one_before() {
        let port = Port::default();
        let mut first = port.connect();
        let _second = port.connect();

        assert_eq!(read(&mut first).await, b"");
        assert!(first.write_all(b"x").await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_writes_more_than_there_is_room_for() {
        let port = Port::default();
        let mut host = port.connect();
        let too_much = vec![0; ROOM + 1];

        let written = host.write_all(&too_much);

        let in_vain = tokio::time::timeout(std::time::Duration::from_secs(1), written).await;
        assert!(in_vain.is_err());
    }
}
