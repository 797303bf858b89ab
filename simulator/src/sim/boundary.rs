//! The ends of streams that a simulated hostd holds: each line out and each byte in is an effect or
//! an answer, noted, and may be the last.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hypervisor::Descriptor;
use hypervisor_qmp::client::MonitorStream;
use misbehaviour::{Effect, Side};
use nic_model::{VmId, VmRunId};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::life::Life;
use super::stage::Stage;
use super::stream::StreamEnd;

/// Whose end it is, and of what.
#[derive(Debug, Clone)]
pub(crate) struct Boundary {
    pub(crate) life: Life,
    pub(crate) stage: Stage,
    pub(crate) vm: Arc<VmId>,
}

impl Boundary {
    fn note(&self, what: &'static str, bytes: &[u8]) {
        self.stage.note(self.vm.as_str(), what, bytes);
    }

    fn note_read(&self, what: &'static str, buffer: &ReadBuf<'_>, before: usize) {
        self.note(what, &buffer.filled()[before..]);
    }
}

/// hostd's end of a monitor's stream.
#[derive(Debug)]
pub(crate) struct MonitorEnd {
    pub(crate) end: StreamEnd,
    pub(crate) run: VmRunId,
    pub(crate) boundary: Boundary,
}

impl AsyncRead for MonitorEnd {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.boundary.life.is_over() {
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(self.end.poll_read_into(context, buffer))?;
        self.boundary.note_read("qmp<", buffer, before);
        Poll::Ready(Ok(()))
    }
}

impl MonitorStream for MonitorEnd {
    fn poll_send(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
        descriptor: &mut Option<Descriptor>,
    ) -> Poll<io::Result<usize>> {
        let Boundary { life, .. } = &self.boundary;
        ready!(self.end.poll_room(context));
        let Some(number) = life.begins_effect("qmp") else {
            return Poll::Pending;
        };
        let sent = ready!(StreamEnd::poll_send(&self.end, context, bytes, descriptor))?;
        self.boundary.note("qmp>", &bytes[..sent]);
        match life.ends_effect(number, "qmp") {
            true => Poll::Ready(Ok(sent)),
            false => Poll::Pending,
        }
    }

    fn run(&self) -> io::Result<VmRunId> {
        Ok(self.run.clone())
    }
}

/// hostd's end of a client's connection. While the tasks of a life that is over are ended, one may
/// still learn that another has gone, and answer.
#[derive(Debug)]
pub(crate) struct ApiEnd {
    pub(crate) end: StreamEnd,
    pub(crate) life: Life,
}

impl ApiEnd {
    fn while_alive(&mut self) -> Poll<Pin<&mut StreamEnd>> {
        match self.life.is_over() {
            true => Poll::Pending,
            false => Poll::Ready(Pin::new(&mut self.end)),
        }
    }
}

impl AsyncRead for ApiEnd {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.while_alive()).poll_read(context, buffer)
    }
}

impl AsyncWrite for ApiEnd {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.while_alive()).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.while_alive()).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.while_alive()).poll_shutdown(context)
    }
}

/// hostd's end of an agent's channel, on which bytes can be lost, late, twice or other ones.
#[derive(Debug)]
pub(crate) struct ChannelEnd<S> {
    stream: S,
    boundary: Boundary,
    /// What is to become of the bytes that wait to be written: rules are asked once.
    decided: Option<Option<Effect>>,
    /// What waits for a delay to pass before it is written.
    delay: Option<Pin<Box<Sleep>>>,
    state: State,
    /// What is written a second time.
    again: Vec<u8>,
    /// What has been read and is heard later.
    late: Option<Late>,
}

#[derive(Debug)]
struct Late {
    delay: Pin<Box<Sleep>>,
    bytes: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Works,
    Stalled,
    Cut,
}

impl<S> ChannelEnd<S> {
    pub(crate) fn new(stream: S, boundary: Boundary) -> Self {
        Self {
            stream,
            boundary,
            decided: None,
            delay: None,
            state: State::Works,
            again: Vec::new(),
            late: None,
        }
    }

    /// Whether bytes go through at all; pending for good where nothing ever will.
    fn poll_state(&self) -> Poll<io::Result<()>> {
        match self.state {
            State::Works if self.boundary.life.is_over() => Poll::Pending,
            State::Works => Poll::Ready(Ok(())),
            State::Stalled => Poll::Pending,
            State::Cut => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }

    fn consult(&mut self, operation: &str) -> Option<Effect> {
        let vm = Arc::clone(&self.boundary.vm);
        let effect = self.boundary.stage.consult(operation, Some(&vm), None)?;
        if effect == Effect::Stall {
            self.state = State::Stalled;
        } else if effect == Effect::Cut(Side::Before) {
            self.state = State::Cut;
        }
        Some(effect)
    }
}

/// One byte that is another: what a checksum is there for.
fn corrupted(bytes: &[u8]) -> Vec<u8> {
    let mut other = bytes.to_vec();
    let middle = other.len() / 2;
    if let Some(byte) = other.get_mut(middle) {
        *byte ^= 0x01;
    }
    other
}

impl<S: AsyncWrite + Unpin> ChannelEnd<S> {
    fn poll_rest_of_repetition(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.again.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, &self.again))?;
            self.again.drain(..written);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_under(
        &mut self,
        effect: &mut Option<Effect>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match effect {
            None => self.poll_through(context, bytes),
            Some(Effect::Lose) => Poll::Ready(Ok(bytes.len())),
            Some(Effect::Cut(Side::After)) => {
                let written = ready!(self.poll_through(context, bytes))?;
                self.state = State::Cut;
                Poll::Ready(Ok(written))
            }
            Some(Effect::Corrupt) => self.poll_through(context, &corrupted(bytes)),
            Some(Effect::Duplicate) => {
                let written = ready!(self.poll_through(context, bytes))?;
                self.again = bytes[..written].to_vec();
                Poll::Ready(Ok(written))
            }
            Some(Effect::Delay(span)) => {
                let delay = self.delay.get_or_insert_with(|| Box::pin(sleep(span.0)));
                ready!(delay.as_mut().poll(context));
                self.delay = None;
                *effect = None;
                self.poll_through(context, bytes)
            }
            Some(_) => {
                ready!(self.poll_state())?;
                self.poll_through(context, bytes)
            }
        }
    }

    fn poll_through(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Boundary { life, .. } = &self.boundary;
        let Some(number) = life.begins_effect("frame") else {
            return Poll::Pending;
        };
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        self.boundary.note("agent>", &bytes[..written]);
        match self.boundary.life.ends_effect(number, "frame") {
            true => Poll::Ready(Ok(written)),
            false => Poll::Pending,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ChannelEnd<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_state())?;
        ready!(this.poll_rest_of_repetition(context))?;
        let mut effect = match this.decided.take() {
            Some(effect) => effect,
            None => this.consult("channel.to-guest"),
        };
        let done = this.poll_under(&mut effect, context, bytes);
        if done.is_pending() {
            this.decided = Some(effect);
        }
        done
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ChannelEnd<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_state())?;
        loop {
            let before = buffer.filled().len();
            if let Some(late) = &mut this.late {
                ready!(late.delay.as_mut().poll(context));
                // Read into a buffer of this size before, so there is room.
                buffer.put_slice(&late.bytes);
                this.late = None;
                this.boundary.note_read("agent<", buffer, before);
                return Poll::Ready(Ok(()));
            }
            ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
            if buffer.filled().len() == before {
                return Poll::Ready(Ok(()));
            }
            match this.consult("channel.to-host") {
                Some(Effect::Lose) => {
                    buffer.set_filled(before);
                    continue;
                }
                Some(Effect::Delay(span)) => {
                    this.late = Some(Late {
                        delay: Box::pin(sleep(span.0)),
                        bytes: buffer.filled()[before..].to_vec(),
                    });
                    buffer.set_filled(before);
                    continue;
                }
                Some(Effect::Corrupt) => {
                    let other = corrupted(&buffer.filled()[before..]);
                    buffer.filled_mut()[before..].copy_from_slice(&other);
                }
                Some(Effect::Duplicate) => {
                    let twice = buffer.filled()[before..].to_vec();
                    let room = buffer.remaining().min(twice.len());
                    buffer.put_slice(&twice[..room]);
                }
                Some(Effect::Cut(Side::After)) => this.state = State::Cut,
                Some(Effect::Cut(Side::Before) | Effect::Stall) => {
                    buffer.set_filled(before);
                    return this.poll_state();
                }
                Some(_) | None => {}
            }
            this.boundary.note_read("agent<", buffer, before);
            return Poll::Ready(Ok(()));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use misbehaviour::Rulebook;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::sim::stream::pair;
    use crate::sim::trace::Keeping;

    #[tokio::test]
    async fn a_life_that_is_over_hears_and_answers_no_client() {
        let stage = Stage::new(1, Rulebook::new(1), Keeping::Hash);
        let life = Life::begin("host1", &stage);
        let (mut client, end) = pair();
        let mut hostd = ApiEnd {
            end,
            life: life.clone(),
        };
        client.write_all(b"ask").await.unwrap();

        life.end("for a test");

        let mut heard = [0; 3];
        assert!(hostd.read_exact(&mut heard).now_or_never().is_none());
        assert!(hostd.write_all(b"no").now_or_never().is_none());
        drop(hostd);
        assert_eq!(client.read(&mut heard).await.unwrap(), 0);
    }
}
