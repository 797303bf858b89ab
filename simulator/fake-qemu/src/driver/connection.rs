//! One client of one monitor, from its greeting to its end.
//!
//! ```text
//!   greeting ──► receive ──► read messages ──► carry out, one at a time ──► receive …
//!                  │                             │ delayed: wait, and read on only for
//!                  │                             │ commands that run out of band
//!                  └ sending goes on meanwhile   └ the rules cut, stall, crash: the end
//! ```

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, Sleep, sleep_until};

use super::effects::Carried;
use super::state::Fate;
use super::{FakeQemu, MonitorStream, Surroundings};
use crate::json::{JsonError, MessageReader};
use crate::machine::MonitorId;

/// Commands that wait behind a delayed one where commands run out of band
/// (`QMP_REQ_QUEUE_LEN_MAX` in QEMU's `include/monitor/monitor.h`).
const QUEUE_LEN_MAX: usize = 8;

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The client closed it, or it broke.
    Client,
    /// The machine cut it and goes on.
    Cut,
    /// The machine has ended.
    Machine,
}

/// A conversation with one client; a future that ends with it.
#[must_use = "a conversation is held by polling it"]
pub struct Serve<D, S: Surroundings<D>, M> {
    qemu: FakeQemu<D, S>,
    monitor: MonitorId,
    stream: M,
    reader: MessageReader,
    queue: VecDeque<Result<Value, JsonError>>,
    delayed: Option<Delayed>,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    New,
    Open,
    Over,
}

struct Delayed {
    message: Result<Value, JsonError>,
    until: Duration,
    sleep: Pin<Box<Sleep>>,
}

impl<D, S: Surroundings<D>, M> fmt::Debug for Serve<D, S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve")
            .field("monitor", &self.monitor)
            .finish_non_exhaustive()
    }
}

/// Whether a look led to something, so that another may.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Made,
    None,
}

impl<D, S: Surroundings<D>, M: MonitorStream<Descriptor = D>> Serve<D, S, M> {
    pub(super) fn new(qemu: FakeQemu<D, S>, monitor: MonitorId, stream: M) -> Self {
        Self {
            qemu,
            monitor,
            stream,
            reader: MessageReader::default(),
            queue: VecDeque::new(),
            delayed: None,
            stage: Stage::New,
        }
    }

    fn poll_conversation(&mut self, context: &mut Context<'_>) -> Poll<Ending> {
        if self.stage == Stage::New {
            self.stage = Stage::Open;
            let mut state = self.qemu.lock();
            if state.has_ended() {
                return Poll::Ready(Ending::Machine);
            }
            state.connect(self.monitor);
        }
        loop {
            if let Some(ending) = self.ending(context) {
                return Poll::Ready(ending);
            }
            let progress = [
                self.send(context),
                self.resume(context),
                self.carry_out_next(),
                self.receive(context),
            ];
            for step in &progress {
                if step.is_err() {
                    return Poll::Ready(Ending::Client);
                }
            }
            let made = |step: &Result<Progress, Closed>| matches!(step, Ok(Progress::Made));
            if !progress.iter().any(made) {
                return Poll::Pending;
            }
        }
    }

    /// What was decided about this connection, here or elsewhere.
    fn ending(&mut self, context: &Context<'_>) -> Option<Ending> {
        let mut state = self.qemu.lock();
        let dead = state.is_dead();
        let ended = state.has_ended();
        let client = state.client(self.monitor)?;
        client.wait(context.waker());
        match client.fate {
            Fate::Cut if dead => Some(Ending::Machine),
            Fate::Cut => Some(Ending::Cut),
            Fate::Ends if !client.unsent().is_empty() => None,
            Fate::Ends if ended => Some(Ending::Machine),
            Fate::Ends => Some(Ending::Cut),
            Fate::Lives | Fate::Stalls => None,
        }
    }

    fn fate(&self) -> Fate {
        let mut state = self.qemu.lock();
        state
            .client(self.monitor)
            .map_or(Fate::Cut, |client| client.fate)
    }

    fn send(&mut self, context: &mut Context<'_>) -> Result<Progress, Closed> {
        let mut state = self.qemu.lock();
        let Some(client) = state.client(self.monitor) else {
            return Ok(Progress::None);
        };
        if client.unsent().is_empty() || client.fate == Fate::Stalls {
            return Ok(Progress::None);
        }
        match self.stream.poll_send(context, client.unsent()) {
            Poll::Ready(sent) => {
                client.sent(sent?);
                Ok(Progress::Made)
            }
            Poll::Pending => Ok(Progress::None),
        }
    }

    /// Carries a delayed command out once its time has come. The machine's clock may have changed
    /// its speed meanwhile.
    fn resume(&mut self, context: &mut Context<'_>) -> Result<Progress, Closed> {
        let Some(delayed) = &mut self.delayed else {
            return Ok(Progress::None);
        };
        let mut state = self.qemu.lock();
        let instant = state.instant_of(delayed.until);
        let due = instant.is_some_and(|instant| instant <= Instant::now());
        if !due {
            let Some(instant) = instant else {
                return Ok(Progress::None);
            };
            delayed.sleep.as_mut().reset(instant);
            if delayed.sleep.as_mut().poll(context).is_pending() {
                return Ok(Progress::None);
            }
        }
        state.carry_out(self.monitor, &delayed.message);
        drop(state);
        self.delayed = None;
        Ok(Progress::Made)
    }

    fn carry_out_next(&mut self) -> Result<Progress, Closed> {
        if self.delayed.is_some() || self.fate() != Fate::Lives {
            return Ok(Progress::None);
        }
        let Some(message) = self.queue.pop_front() else {
            return Ok(Progress::None);
        };
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
        let carried = self.qemu.lock().command(self.monitor, &message);
        if let Carried::Later(until) = carried {
            let sleep = Box::pin(sleep_until(Instant::now()));
            self.delayed = Some(Delayed {
                message,
                until,
                sleep,
            });
        }
        Ok(Progress::Made)
    }

    fn receive(&mut self, context: &mut Context<'_>) -> Result<Progress, Closed> {
        match self.fate() {
            Fate::Lives if self.reads_on() => {}
            // A client that hangs up is noticed all the same.
            Fate::Stalls => return self.await_end(context),
            Fate::Lives | Fate::Ends | Fate::Cut => return Ok(Progress::None),
        }
        let parcel = match self.stream.poll_receive(context) {
            Poll::Pending => return Ok(Progress::None),
            Poll::Ready(parcel) => parcel?.ok_or(Closed)?,
        };
        let mut messages = Vec::new();
        self.reader.feed(&parcel.bytes, &mut messages);
        let mut state = self.qemu.lock();
        state.machine.arrived(self.monitor, parcel.descriptors);
        let out_of_band = state.machine.runs_out_of_band(self.monitor);
        for message in messages {
            if out_of_band && is_out_of_band(&message) {
                state.carry_out(self.monitor, &message);
            } else {
                self.queue.push_back(message);
            }
        }
        Ok(Progress::Made)
    }

    /// Without out-of-band commands QEMU reads the next command when it is done with the last.
    fn reads_on(&self) -> bool {
        let waiting = self.queue.len() + usize::from(self.delayed.is_some());
        match self.qemu.lock().machine.runs_out_of_band(self.monitor) {
            true => waiting < QUEUE_LEN_MAX,
            false => waiting == 0,
        }
    }

    fn await_end(&mut self, context: &mut Context<'_>) -> Result<Progress, Closed> {
        match self.stream.poll_receive(context) {
            Poll::Ready(parcel) => parcel?.ok_or(Closed).map(|_| Progress::Made),
            Poll::Pending => Ok(Progress::None),
        }
    }
}

/// The client is gone.
struct Closed;

impl From<io::Error> for Closed {
    fn from(_: io::Error) -> Self {
        // A broken stream is a client that is gone; nothing else can be done about it here.
        Self
    }
}

/// Whether a message is to be run at once (`qmp_is_oob` in QEMU's `qapi/qmp-dispatch.c`).
fn is_out_of_band(message: &Result<Value, JsonError>) -> bool {
    let has = |member: &str| {
        message
            .as_ref()
            .is_ok_and(|message| message.get(member).is_some())
    };
    has("exec-oob") && !has("execute")
}

impl<D, S: Surroundings<D>, M: MonitorStream<Descriptor = D>> Future for Serve<D, S, M> {
    type Output = Ending;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Ending> {
        let this = self.get_mut();
        let ending = ready!(this.poll_conversation(context));
        this.hang_up();
        Poll::Ready(ending)
    }
}

impl<D, S: Surroundings<D>, M> Serve<D, S, M> {
    fn hang_up(&mut self) {
        if self.stage == Stage::Open {
            self.stage = Stage::Over;
            self.qemu.lock().disconnect(self.monitor);
        }
    }
}

impl<D, S: Surroundings<D>, M> Drop for Serve<D, S, M> {
    fn drop(&mut self) {
        self.hang_up();
    }
}
