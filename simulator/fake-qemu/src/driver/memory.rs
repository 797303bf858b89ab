//! A monitor's stream in memory: for many machines in one process, and for tests.
//!
//! Both directions are bounded; who writes into a full one waits for the reader.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::stream::{MonitorStream, Parcel};
use super::wake;

/// Most bytes on their way in one direction: what a unix socket holds by default
/// (`net.core.wmem_default`).
const CAPACITY_BYTES: usize = 212_992;

/// The machine's end.
#[derive(Debug)]
pub struct MonitorEnd<D>(Arc<Mutex<Pipes<D>>>);

/// The client's end.
#[derive(Debug)]
pub struct ClientEnd<D>(Arc<Mutex<Pipes<D>>>);

#[derive(Debug)]
struct Pipes<D> {
    to_monitor: Pipe<D>,
    to_client: Pipe<D>,
}

#[derive(Debug)]
struct Pipe<D> {
    parcels: VecDeque<Parcel<D>>,
    bytes: usize,
    open: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl<D> Default for Pipe<D> {
    fn default() -> Self {
        Self {
            parcels: VecDeque::new(),
            bytes: 0,
            open: true,
            reader: None,
            writer: None,
        }
    }
}

/// Two ends of one stream.
#[must_use]
pub fn pair<D>() -> (ClientEnd<D>, MonitorEnd<D>) {
    let pipes = Arc::new(Mutex::new(Pipes {
        to_monitor: Pipe::default(),
        to_client: Pipe::default(),
    }));
    (ClientEnd(Arc::clone(&pipes)), MonitorEnd(pipes))
}

fn lock<D>(pipes: &Mutex<Pipes<D>>) -> MutexGuard<'_, Pipes<D>> {
    // Nothing panics while holding it.
    pipes.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<D> Pipe<D> {
    fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
        descriptors: &mut Vec<D>,
    ) -> Poll<io::Result<usize>> {
        if !self.open {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let count = bytes.len().min(CAPACITY_BYTES - self.bytes);
        if count == 0 && !bytes.is_empty() {
            self.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        self.bytes += count;
        self.parcels.push_back(Parcel {
            bytes: bytes[..count].to_vec(),
            descriptors: std::mem::take(descriptors),
        });
        wake(&mut self.reader);
        Poll::Ready(Ok(count))
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<Parcel<D>>>> {
        if let Some(parcel) = self.parcels.pop_front() {
            self.bytes -= parcel.bytes.len();
            if self.parcels.is_empty() {
                self.parcels = VecDeque::new();
            }
            wake(&mut self.writer);
            return Poll::Ready(Ok(Some(parcel)));
        }
        if !self.open {
            return Poll::Ready(Ok(None));
        }
        self.reader = Some(context.waker().clone());
        Poll::Pending
    }

    fn close(&mut self) {
        self.open = false;
        wake(&mut self.reader);
        wake(&mut self.writer);
    }
}

impl<D> Pipes<D> {
    fn close(&mut self) {
        self.to_monitor.close();
        self.to_client.close();
    }
}

impl<D> MonitorStream for MonitorEnd<D> {
    type Descriptor = D;

    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<Parcel<D>>>> {
        lock(&self.0).to_monitor.poll_read(context)
    }

    fn poll_send(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        lock(&self.0)
            .to_client
            .poll_write(context, bytes, &mut Vec::new())
    }
}

impl<D> ClientEnd<D> {
    /// The next bytes from the machine, or `None` when it has closed.
    ///
    /// # Errors
    /// Never; the type is that of other streams.
    pub fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<Vec<u8>>>> {
        let parcel = lock(&self.0).to_client.poll_read(context);
        parcel.map(|parcel| parcel.map(|parcel| parcel.map(|parcel| parcel.bytes)))
    }

    /// Sends some bytes and says how many; `descriptors` go with them.
    ///
    /// # Errors
    /// When the machine has closed.
    pub fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
        descriptors: &mut Vec<D>,
    ) -> Poll<io::Result<usize>> {
        lock(&self.0)
            .to_monitor
            .poll_write(context, bytes, descriptors)
    }
}

impl<D> Drop for MonitorEnd<D> {
    fn drop(&mut self) {
        lock(&self.0).close();
    }
}

impl<D> Drop for ClientEnd<D> {
    fn drop(&mut self) {
        lock(&self.0).close();
    }
}
