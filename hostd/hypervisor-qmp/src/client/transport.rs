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
use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use hypervisor::Descriptor;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::{mpsc, oneshot};

use super::EventSink;
use super::dial::MonitorStream;
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
    pub(super) descriptor: Option<Descriptor>,
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
    stream: Box<dyn MonitorStream>,
    requests: mpsc::Receiver<Box<Request>>,
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
    /// Goes with the first byte.
    descriptor: Option<Descriptor>,
}

impl Transport {
    pub(super) fn new(
        stream: Box<dyn MonitorStream>,
        requests: mpsc::Receiver<Box<Request>>,
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

    /// Commands and writing come first: they end by themselves, at the latest when so many are in
    /// flight that only reading helps, while a QEMU may report events without end.
    async fn turn(&mut self) -> Result<(), Broken> {
        let room = self.outgoing.is_none() && self.in_flight.len() < MAX_IN_FLIGHT;
        let (stream, outgoing, lines) = (&mut self.stream, &mut self.outgoing, &mut self.lines);
        tokio::select! {
            biased;
            request = self.requests.recv(), if room => {
                self.take(*request.ok_or(Broken::Abandoned)?);
                Ok(())
            }
            moved = poll_fn(|context| poll_stream(stream, outgoing, lines, context)) => {
                match moved? {
                    Moved::Out => Ok(()),
                    Moved::In => self.dispatch_lines(),
                }
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

    fn dispatch_lines(&mut self) -> Result<(), Broken> {
        while let Some(line) = self.lines.next_line()? {
            if !line.is_empty() {
                let message = decode(line)?;
                self.dispatch(message);
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

/// Which way bytes went.
enum Moved {
    Out,
    In,
}

fn poll_stream(
    stream: &mut Box<dyn MonitorStream>,
    outgoing: &mut Option<Outgoing>,
    lines: &mut LineBuffer,
    context: &mut Context<'_>,
) -> Poll<Result<Moved, Broken>> {
    if let Some(line) = outgoing
        && let Poll::Ready(sent) = line.poll_send(stream, context)
    {
        line.written += sent.map_err(Broken::Io)?;
        if line.written == line.line.len() {
            *outgoing = None;
        }
        return Poll::Ready(Ok(Moved::Out));
    }
    poll_read(stream, lines, context).map_ok(|()| Moved::In)
}

fn poll_read(
    stream: &mut Box<dyn MonitorStream>,
    lines: &mut LineBuffer,
    context: &mut Context<'_>,
) -> Poll<Result<(), Broken>> {
    // On the stack, so that a connection on which nothing happens holds no room for it.
    let mut chunk = [MaybeUninit::uninit(); CHUNK_BYTES];
    let mut chunk = ReadBuf::uninit(&mut chunk);
    let read = Pin::new(stream).poll_read(context, &mut chunk);
    read.map(|read| {
        read.map_err(Broken::Io)?;
        match chunk.filled() {
            [] => Err(Broken::Closed),
            filled => {
                lines.push(filled);
                Ok(())
            }
        }
    })
}

impl Outgoing {
    fn poll_send(
        &mut self,
        stream: &mut Box<dyn MonitorStream>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<usize>> {
        let rest = &self.line[self.written..];
        Pin::new(&mut **stream).poll_send(context, rest, &mut self.descriptor)
    }
}
