//! Bytes to and from a guest, as they come: a frame leaves in as many parts as the guest takes, and
//! what the guest says is handed on from the stack. So an idle line holds no buffer, and neither
//! direction waits for the other.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::surroundings::ChannelStream;

/// Bytes read at once: a few frames.
const READ_BYTES: usize = 16 * 1024;
/// How long a guest may leave a frame unread: as for pings that nobody answers, the connection is
/// over then.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// A frame on its way out: writing goes on where it stopped, however often it is interrupted.
pub(super) struct Outgoing {
    frame: Vec<u8>,
    written: usize,
    pub(super) overdue_at: Instant,
}

impl Outgoing {
    pub(super) fn new(frame: Vec<u8>) -> Self {
        Self {
            frame,
            written: 0,
            overdue_at: Instant::now() + WRITE_TIMEOUT,
        }
    }

    pub(super) fn is_overdue(&self) -> bool {
        Instant::now() >= self.overdue_at
    }

    fn poll_write(
        &mut self,
        stream: &mut Box<dyn ChannelStream>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<Written>> {
        let rest = &self.frame[self.written..];
        self.written += ready!(Pin::new(stream).poll_write(context, rest))?;
        Poll::Ready(Ok(if self.written == self.frame.len() {
            Written::Whole
        } else {
            Written::InPart
        }))
    }
}

/// How much of a frame has been written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    Whole,
    InPart,
}

/// Waits until something has been read or written. Reading comes first, so that what a guest has
/// said before it hung up is heard; it ends by itself, since the session allows so many bytes. What
/// is read goes to `receive` at once, from the stack: a line on which nothing happens holds no room
/// for it.
pub(super) async fn move_bytes(
    stream: &mut Box<dyn ChannelStream>,
    outgoing: &mut Option<Outgoing>,
    mut receive: impl FnMut(&[u8]),
) -> io::Result<()> {
    poll_fn(|context| {
        if let Poll::Ready(read) = poll_read(stream, context, &mut receive) {
            return Poll::Ready(read);
        }
        let Some(frame) = outgoing else {
            return Poll::Pending;
        };
        if ready!(frame.poll_write(stream, context))? == Written::Whole {
            *outgoing = None;
        }
        Poll::Ready(Ok(()))
    })
    .await
}

fn poll_read(
    stream: &mut Box<dyn ChannelStream>,
    context: &mut Context<'_>,
    receive: &mut impl FnMut(&[u8]),
) -> Poll<io::Result<()>> {
    let mut buffer = [MaybeUninit::uninit(); READ_BYTES];
    let mut buffer = ReadBuf::uninit(&mut buffer);
    ready!(Pin::new(stream).poll_read(context, &mut buffer))?;
    Poll::Ready(match buffer.filled() {
        [] => Err(io::ErrorKind::UnexpectedEof.into()),
        filled => {
            receive(filled);
            Ok(())
        }
    })
}
