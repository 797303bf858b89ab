//! The task that owns a connection's socket: commands out, replies to whom they belong.
//!
//! ```text
//!   queue (bounded) ──► outgoing (one line) ──► in flight, by id ──► reply ──► its caller
//!                          │ caller gone: never sent       │ caller gone: dropped and counted
//!   socket broken ─────────┴───────────────────────────────┴──► every caller learns why
//! ```
//!
//! Reading goes on while writing is stuck, so a QEMU that blocks on its own output is still heard.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use super::EventSink;
use super::error::Broken;
use super::wire::{Incoming, LineBuffer, Outcome, QemuVersion, decode};

/// Most commands sent and not answered. Abandoned ones count until QEMU answers them, so a QEMU
/// that hangs costs this much and no more. QEMU itself queues 8 (`QMP_REQ_QUEUE_LEN_MAX` in
/// `include/monitor/monitor.h`) and leaves the rest in the socket.
const MAX_IN_FLIGHT: usize = 64;

/// How much is read at a time, in bytes.
const CHUNK_BYTES: usize = 16 * 1024;

/// One command on its way.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) id: u64,
    pub(super) line: Vec<u8>,
    pub(super) descriptor: Option<OwnedFd>,
    pub(super) reply: oneshot::Sender<Outcome>,
}

/// What a connection tells besides replies.
#[derive(Debug, Default)]
pub(super) struct Fate {
    /// Why it broke, once it has.
    pub(super) broken: OnceLock<Arc<Broken>>,
    /// Replies that came after their caller had given up.
    pub(super) late_replies: AtomicU64,
    /// Messages that belong to no command.
    pub(super) unmatched: AtomicU64,
}

/// Everything the task owns.
pub(super) struct Transport {
    stream: UnixStream,
    requests: mpsc::Receiver<Request>,
    outgoing: Option<Outgoing>,
    in_flight: BTreeMap<u64, oneshot::Sender<Outcome>>,
    lines: LineBuffer,
    greeting: Option<oneshot::Sender<QemuVersion>>,
    events: EventSink,
    fate: Arc<Fate>,
}

/// The line being written.
struct Outgoing {
    line: Vec<u8>,
    written: usize,
    /// Goes with the first byte; closed here once the kernel holds a copy.
    descriptor: Option<OwnedFd>,
}

impl Transport {
    pub(super) fn new(
        stream: UnixStream,
        requests: mpsc::Receiver<Request>,
        greeting: oneshot::Sender<QemuVersion>,
        events: EventSink,
        fate: Arc<Fate>,
    ) -> Self {
        Self {
            stream,
            requests,
            outgoing: None,
            in_flight: BTreeMap::new(),
            lines: LineBuffer::default(),
            greeting: Some(greeting),
            events,
            fate,
        }
    }

    /// Runs until the connection breaks. Every caller still waiting learns of it by its reply
    /// channel closing, after the reason has been left in `fate`.
    pub(super) async fn run(mut self) {
        let broken = loop {
            if let Err(broken) = self.turn().await {
                break broken;
            }
        };
        tracing::debug!(%broken, in_flight = self.in_flight.len(), "QMP connection ended");
        self.fate.broken.get_or_init(|| Arc::new(broken));
    }

    async fn turn(&mut self) -> Result<(), Broken> {
        let room = self.outgoing.is_none() && self.in_flight.len() < MAX_IN_FLIGHT;
        tokio::select! {
            request = self.requests.recv(), if room => {
                self.take(request.ok_or(Broken::Abandoned)?);
                Ok(())
            }
            ready = self.stream.writable(), if self.outgoing.is_some() => {
                ready.map_err(Broken::Io)?;
                self.write()
            }
            ready = self.stream.readable() => {
                ready.map_err(Broken::Io)?;
                self.read()
            }
        }
    }

    /// A command whose caller has given up is never sent: nobody would look at what it did.
    fn take(&mut self, request: Request) {
        if request.reply.is_closed() {
            return;
        }
        self.in_flight.insert(request.id, request.reply);
        self.outgoing = Some(Outgoing {
            line: request.line,
            written: 0,
            descriptor: request.descriptor,
        });
    }

    fn write(&mut self) -> Result<(), Broken> {
        let Some(outgoing) = &mut self.outgoing else {
            return Ok(());
        };
        match outgoing.send(&self.stream) {
            Ok(sent) => {
                outgoing.descriptor = None;
                outgoing.written += sent;
                if outgoing.written == outgoing.line.len() {
                    self.outgoing = None;
                }
                Ok(())
            }
            Err(error) => not_ready_is_fine(error),
        }
    }

    fn read(&mut self) -> Result<(), Broken> {
        let mut chunk = [0; CHUNK_BYTES];
        match self.stream.try_read(&mut chunk) {
            Ok(0) => return Err(Broken::Closed),
            Ok(count) => self.lines.push(&chunk[..count]),
            Err(error) => return not_ready_is_fine(error),
        }
        while let Some(line) = self.lines.next_line()? {
            if !line.is_empty() {
                self.dispatch(decode(&line)?);
            }
        }
        Ok(())
    }

    fn dispatch(&mut self, message: Incoming) {
        match message {
            Incoming::Event(event) => (self.events)(event),
            Incoming::Reply(Some(id), outcome) => self.deliver(id, outcome),
            Incoming::Greeting(version) => {
                // A second greeting, or nobody left to hear the first, changes nothing.
                let heard = self.greeting.take().map(|greeting| greeting.send(version));
                tracing::trace!(?heard, "QMP greeting");
            }
            Incoming::Reply(None, _) | Incoming::Unknown => {
                self.fate.unmatched.fetch_add(1, Ordering::Relaxed);
                tracing::debug!("a QMP message that belongs to no command");
            }
        }
    }

    fn deliver(&mut self, id: u64, outcome: Outcome) {
        let Some(reply) = self.in_flight.remove(&id) else {
            self.fate.unmatched.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(id, "a QMP reply to a command that was not sent");
            return;
        };
        if let Err(outcome) = reply.send(outcome) {
            self.fate.late_replies.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(id, ?outcome, "a QMP reply came too late");
        }
    }
}

impl Outgoing {
    fn send(&self, stream: &UnixStream) -> io::Result<usize> {
        let descriptor = self.descriptor.as_ref().map(AsFd::as_fd);
        stream.try_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !control.push(SendAncillaryMessage::ScmRights(descriptor.as_slice())) {
                return Err(io::Error::other("no room for a file descriptor"));
            }
            let rest = IoSlice::new(&self.line[self.written..]);
            Ok(sendmsg(stream, &[rest], &mut control, SendFlags::NOSIGNAL)?)
        })
    }
}

fn not_ready_is_fine(error: io::Error) -> Result<(), Broken> {
    let passing = [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted];
    if passing.contains(&error.kind()) {
        return Ok(());
    }
    Err(Broken::Io(error))
}
