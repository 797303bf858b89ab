//! Streams within one process: bytes both ways, and descriptors with them.
//!
//! A descriptor stays with the bytes it was sent with: a read ends before the next one's, so that
//! whoever reads knows to which line it belongs, as with `SCM_RIGHTS` on a unix socket. Nothing is
//! held by a stream on which nothing is under way.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use fake_qemu::driver::{MonitorStream, Parcel};
use hypervisor::Descriptor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stage::lock;

/// Bytes under way in one direction before whoever sends has to wait: a unix socket's buffer.
const ROOM: usize = 208 * 1024;

/// One end; dropping it closes both directions.
#[derive(Debug)]
pub struct StreamEnd {
    incoming: Way,
    outgoing: Way,
}

type Way = Arc<Mutex<Direction>>;

#[derive(Debug, Default)]
struct Direction {
    pieces: VecDeque<Piece>,
    len: usize,
    state: State,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    Closed,
}

#[derive(Debug)]
struct Piece {
    bytes: Vec<u8>,
    read: usize,
    descriptor: Option<Descriptor>,
}

/// Both ends of a new stream.
#[must_use]
pub fn pair() -> (StreamEnd, StreamEnd) {
    let (one, other) = (Way::default(), Way::default());
    let here = StreamEnd {
        incoming: one.clone(),
        outgoing: other.clone(),
    };
    let there = StreamEnd {
        incoming: other,
        outgoing: one,
    };
    (here, there)
}

impl StreamEnd {
    /// Sends the first of `bytes`, as many as there is room for, and `descriptor` with them.
    pub fn poll_send(
        &self,
        context: &Context<'_>,
        bytes: &[u8],
        descriptor: &mut Option<Descriptor>,
    ) -> Poll<io::Result<usize>> {
        let mut way = lock(&self.outgoing);
        if way.state == State::Closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if way.len >= ROOM {
            way.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let count = bytes.len().min(ROOM - way.len);
        way.push(&bytes[..count], descriptor.take());
        Poll::Ready(Ok(count))
    }

    /// Waits until something could be sent, or nothing ever can.
    pub fn poll_room(&self, context: &Context<'_>) -> Poll<()> {
        let mut way = lock(&self.outgoing);
        if way.state == State::Open && way.len >= ROOM {
            way.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// The next piece that was sent at once, with the descriptor that came with it; `None` at the
    /// end.
    pub fn poll_take(&self, context: &Context<'_>) -> Poll<Option<(Vec<u8>, Option<Descriptor>)>> {
        let mut way = lock(&self.incoming);
        if way.pieces.is_empty() {
            return match way.state {
                State::Closed => Poll::Ready(None),
                State::Open => {
                    way.reader = Some(context.waker().clone());
                    Poll::Pending
                }
            };
        }
        Poll::Ready(way.take())
    }

    /// Reads what there is, at most up to the bytes that came with the next descriptor; with the
    /// descriptor that came with the first of them.
    pub fn poll_read_into(
        &self,
        context: &Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<Option<Descriptor>>> {
        let mut way = lock(&self.incoming);
        if way.pieces.is_empty() {
            return match way.state {
                State::Closed => Poll::Ready(Ok(None)),
                State::Open => {
                    way.reader = Some(context.waker().clone());
                    Poll::Pending
                }
            };
        }
        Poll::Ready(Ok(way.pull(buffer)))
    }
}

impl Direction {
    fn push(&mut self, bytes: &[u8], descriptor: Option<Descriptor>) {
        self.len += bytes.len();
        self.pieces.push_back(Piece {
            bytes: bytes.to_vec(),
            read: 0,
            descriptor,
        });
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    fn take(&mut self) -> Option<(Vec<u8>, Option<Descriptor>)> {
        let Piece {
            mut bytes,
            read,
            descriptor,
        } = self.pieces.pop_front()?;
        bytes.drain(..read);
        self.len -= bytes.len();
        self.make_room();
        Some((bytes, descriptor))
    }

    fn pull(&mut self, buffer: &mut ReadBuf<'_>) -> Option<Descriptor> {
        let mut received = None;
        let mut first = true;
        while let Some(piece) = self.pieces.front_mut() {
            if !first && piece.descriptor.is_some() {
                break;
            }
            received = received.or(piece.descriptor.take());
            first = false;
            let rest = &piece.bytes[piece.read..];
            let count = rest.len().min(buffer.remaining());
            buffer.put_slice(&rest[..count]);
            piece.read += count;
            self.len -= count;
            if piece.read < piece.bytes.len() {
                break;
            }
            self.pieces.pop_front();
        }
        self.make_room();
        received
    }

    fn make_room(&mut self) {
        if self.pieces.is_empty() {
            self.pieces = VecDeque::new();
        }
        if self.len < ROOM
            && let Some(writer) = self.writer.take()
        {
            writer.wake();
        }
    }

    fn close(&mut self) {
        self.state = State::Closed;
        for waker in [self.reader.take(), self.writer.take()]
            .into_iter()
            .flatten()
        {
            waker.wake();
        }
    }
}

impl Drop for StreamEnd {
    fn drop(&mut self) {
        lock(&self.outgoing).close();
        let mut incoming = lock(&self.incoming);
        incoming.close();
        // Nobody will read what is still under way; descriptors among it are closed, after the
        // lock is given back, since that may wake others.
        let unread = std::mem::take(&mut incoming.pieces);
        drop(incoming);
        drop(unread);
    }
}

impl MonitorStream for StreamEnd {
    type Descriptor = Descriptor;

    fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<Option<Parcel<Descriptor>>>> {
        self.poll_take(context).map(|taken| {
            Ok(taken.map(|(bytes, descriptor)| Parcel {
                bytes,
                descriptors: descriptor.into_iter().collect(),
            }))
        })
    }

    fn poll_send(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        StreamEnd::poll_send(self, context, bytes, &mut None)
    }
}

impl AsyncRead for StreamEnd {
    /// A descriptor that comes to a reader of mere bytes is closed, as the kernel does.
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_read_into(context, buffer).map_ok(drop)
    }
}

impl AsyncWrite for StreamEnd {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(context, bytes, &mut None)
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.outgoing).close();
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::os::fd::OwnedFd;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn descriptor() -> Descriptor {
        let opened = std::fs::File::open("/dev/null").unwrap();
        OwnedFd::from(opened).into()
    }

    async fn send(end: &StreamEnd, bytes: &[u8], mut descriptor: Option<Descriptor>) {
        poll_fn(|context| end.poll_send(context, bytes, &mut descriptor))
            .await
            .unwrap();
    }

    async fn receive(end: &StreamEnd) -> (String, bool) {
        let mut bytes = [0; 64];
        let mut buffer = ReadBuf::new(&mut bytes);
        let descriptor = poll_fn(|context| end.poll_read_into(context, &mut buffer))
            .await
            .unwrap();
        let text = String::from_utf8_lossy(buffer.filled()).into_owned();
        (text, descriptor.is_some())
    }

    #[tokio::test]
    async fn a_descriptor_arrives_with_the_bytes_it_was_sent_with() {
        let (here, there) = pair();

        send(&here, b"a", None).await;
        send(&here, b"b", Some(descriptor())).await;
        send(&here, b"c", None).await;
        send(&here, b"d", Some(descriptor())).await;

        assert_eq!(receive(&there).await, ("a".to_owned(), false));
        assert_eq!(receive(&there).await, ("bc".to_owned(), true));
        assert_eq!(receive(&there).await, ("d".to_owned(), true));
    }

    #[tokio::test]
    async fn what_was_sent_before_the_end_is_read_before_it() {
        let (mut here, mut there) = pair();
        here.write_all(b"last words").await.unwrap();

        drop(here);

        let mut heard = String::new();
        there.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "last words");
        assert!(there.write_all(b"?").await.is_err());
    }

    #[tokio::test]
    async fn who_sends_without_end_waits_for_the_reader() {
        let (mut here, mut there) = pair();
        let sent = tokio::spawn(async move { here.write_all(&vec![7; 2 * ROOM]).await });
        let mut heard = vec![0; 2 * ROOM];

        there.read_exact(&mut heard).await.unwrap();

        sent.await.unwrap().unwrap();
    }
}
