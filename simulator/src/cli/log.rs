//! The log of a part of a cloud, on its standard error.
//!
//! ```text
//!   event ──► queue ──► thread ──► standard error
//!               └ full: the line is lost, and how many are is told once there is room
//! ```
//!
//! What a sandbox logs goes wherever the standard error of whoever started it goes, and that may
//! be a pipe that nobody reads: 64 KiB later (pipe(7)) a write waits for ever. The one thread that
//! does everything for a cloud must not be the one that waits.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait: all that a cloud says while a hundred VMs start, several times over.
const LINES_MAX: usize = 1000;
/// How long an end waits for what is yet to be written.
const END_DEADLINE: Duration = Duration::from_secs(1);

/// Logs to standard error, which is a file: nobody has to read it.
pub(crate) fn to_file() {
    start(io::stderr);
}

/// Logs to standard error, and never waits for whoever reads it. What is in the queue is written
/// when the guard is dropped.
///
/// # Errors
/// When the thread cannot be started.
pub(crate) fn to_anybody() -> io::Result<Unwritten> {
    let (queue, unwritten) = queue_to(io::stderr())?;
    start(queue);
    Ok(unwritten)
}

fn start<W>(writer: W)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(false)
        .init();
}

enum Entry {
    Line(Vec<u8>),
    /// Everything before it has been written once this is told.
    End(SyncSender<()>),
}

/// Where lines are put that a thread writes.
#[derive(Clone)]
struct Queue {
    entries: SyncSender<Entry>,
    lost: Arc<AtomicU64>,
}

/// What is in a queue and yet to be written.
pub(crate) struct Unwritten(SyncSender<Entry>);

fn queue_to(target: impl Write + Send + 'static) -> io::Result<(Queue, Unwritten)> {
    let (entries, received) = sync_channel(LINES_MAX);
    let lost = Arc::new(AtomicU64::new(0));
    let counted = lost.clone();
    std::thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || write_all(target, &received, &counted))?;
    let unwritten = Unwritten(entries.clone());
    Ok((Queue { entries, lost }, unwritten))
}

/// A reader who has gone away is no reason to stop: another part may say when to.
fn write_all(mut target: impl Write, entries: &Receiver<Entry>, lost: &AtomicU64) {
    while let Ok(entry) = entries.recv() {
        match entry {
            Entry::Line(line) => target.write_all(&line).unwrap_or_default(),
            Entry::End(told) => told.send(()).unwrap_or_default(),
        }
        let lost = lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            writeln!(
                target,
                "{lost} lines of this log are lost: nobody has read it"
            )
            .unwrap_or_default();
        }
    }
}

impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.entries.try_send(Entry::Line(line.to_vec())).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Queue {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Drop for Unwritten {
    fn drop(&mut self) {
        let (told, written) = sync_channel(1);
        if self.0.try_send(Entry::End(told)).is_ok() {
            // Who reads nothing misses the end.
            written.recv_timeout(END_DEADLINE).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn what_nobody_reads_holds_nobody_up_and_is_told_to_be_lost() {
        let (mut reader, writer) = io::pipe().expect("there is a pipe");
        let (mut queue, unwritten) = queue_to(writer).expect("there is a thread");
        let line = [[b'x'; 1023].as_slice(), b"\n"].concat();

        for _ in 0..2 * LINES_MAX {
            queue.write_all(&line).expect("it takes all there is");
        }
        drop(queue);
        let read = std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).map(|_| text)
        });
        drop(unwritten);

        let text = read.join().expect("it ends").expect("it is text");
        let (whole, told): (Vec<&str>, Vec<&str>) =
            text.lines().partition(|line| line.starts_with('x'));
        let lost = told
            .iter()
            .filter_map(|line| line.split(' ').next()?.parse::<usize>().ok());
        assert_eq!(whole.len() + lost.sum::<usize>(), 2 * LINES_MAX);
        assert!(
            told.iter().all(|line| line.ends_with("nobody has read it")),
            "{told:?}"
        );
        assert!(whole.iter().all(|line| line.len() == 1023));
    }
}
