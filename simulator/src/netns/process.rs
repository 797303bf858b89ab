//! Processes of a simulated cloud: started in a namespace, ended together, buried by one.
//!
//! ```text
//!   spawn_in(netns) ──► runs ──► ends ──► Undertaker: whose, how ──► Watch of whoever cares
//! ```
//!
//! The first process of a pid namespace inherits every orphan in it, so it waits for all children
//! at once, and tells by their ids whose end it was.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use linux_network::Netns;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::trouble::{Doing, Trouble};

/// Lines at the end of a log that are told of: what went wrong last, and what led to it.
const TAIL_LINES: usize = 20;
/// Bytes that they may have together.
const TAIL_BYTES: u64 = 16 * 1024;

/// Where ends of processes are told.
#[derive(Debug, Clone, Default)]
pub(crate) struct Undertaker {
    ends: Arc<Mutex<Ends>>,
}

#[derive(Debug, Default)]
struct Ends {
    awaited: BTreeMap<i32, oneshot::Sender<WaitStatus>>,
    /// How many are being started just now.
    starting: usize,
    /// Of processes that ended while some were being started: one of them may be meant. At any
    /// other time they are orphans, and their numbers may be given to others.
    unclaimed: BTreeMap<i32, WaitStatus>,
}

/// Ends are kept while this is.
struct Starting<'a>(&'a Undertaker);

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        let mut ends = self.0.lock();
        ends.starting -= 1;
        if ends.starting == 0 {
            ends.unclaimed.clear();
        }
    }
}

/// A process that was started here.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    ended: oneshot::Receiver<WaitStatus>,
}

impl Undertaker {
    /// Waits for children until the future is dropped.
    ///
    /// # Errors
    /// When signals cannot be had.
    pub(crate) async fn run(self) -> Result<(), Trouble> {
        let mut told = signal(SignalKind::child()).doing("listen to SIGCHLD")?;
        loop {
            self.bury();
            told.recv().await;
        }
    }

    fn bury(&self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let mut ends = self.lock();
            match ends.awaited.remove(&pid.as_raw_nonzero().get()) {
                // Refused when nobody waits any more.
                Some(awaited) => awaited.send(status).unwrap_or_default(),
                None if ends.starting > 0 => {
                    ends.unclaimed.insert(pid.as_raw_nonzero().get(), status);
                }
                None => {}
            }
        }
    }

    /// Ends a process that nobody waits for, or somebody does, and waits until it is gone.
    pub(crate) async fn kill_and_wait(&self, pid: Pid) {
        const POLL: Duration = Duration::from_millis(1);
        const TRIES: u32 = 2000;
        rustix::process::kill_process(pid, Signal::KILL).unwrap_or_default();
        // Whoever waits for its end is told of it; here its number's becoming free is enough.
        for _ in 0..TRIES {
            if rustix::process::test_kill_process(pid).is_err() {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn await_end(&self, pid: Pid) -> oneshot::Receiver<WaitStatus> {
        let (sender, receiver) = oneshot::channel();
        let mut ends = self.lock();
        let number = pid.as_raw_nonzero().get();
        match ends.unclaimed.remove(&number) {
            Some(status) => sender.send(status).unwrap_or_default(),
            None => drop(ends.awaited.insert(number, sender)),
        }
        receiver
    }

    /// Starts a program in the namespace `netns`, or in that of this process.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the program not be started.
    pub(crate) async fn spawn(
        &self,
        mut command: Command,
        netns: Option<&Netns>,
    ) -> Result<Process, Trouble> {
        let doing = format!("start {}", Path::new(command.get_program()).display());
        self.lock().starting += 1;
        let _starting = Starting(self);
        let child = match netns {
            Some(netns) => {
                let spawned = netns.run("spawn", move || command.spawn()).await;
                spawned.doing(&doing)?.doing(&doing)?
            }
            None => command.spawn().doing(&doing)?,
        };
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or(rustix::io::Errno::SRCH).doing(&doing)?;
        Ok(Process {
            pid,
            ended: self.await_end(pid),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Process {
    /// Waits until it has ended.
    pub(crate) async fn ended(&mut self) -> Option<WaitStatus> {
        (&mut self.ended).await.ok()
    }

    /// Ends it as a power failure would; that it has ended is fine.
    pub(crate) fn kill(&self) {
        rustix::process::kill_process(self.pid, Signal::KILL).unwrap_or_default();
    }
}

/// How a process ended, for people.
pub(crate) fn described(status: Option<WaitStatus>) -> String {
    match status.map(|status| (status.exit_status(), status.terminating_signal())) {
        Some((Some(code), _)) => format!("exit status {code}"),
        Some((None, Some(signal))) => format!("signal {signal}"),
        _ => "an unknown end".to_owned(),
    }
}

/// Has a program write its output to the end of a file.
///
/// # Errors
/// When the file cannot be opened.
pub(crate) fn log_to(command: &mut Command, log: &Path) -> Result<(), Trouble> {
    let doing = format!("open {}", log.display());
    let file = OpenOptions::new().create(true).append(true).open(log);
    let file = file.doing(&doing)?;
    let copy = file.try_clone().doing(&doing)?;
    command.stdin(Stdio::null()).stdout(copy).stderr(file);
    Ok(())
}

/// What a log ends with, for people: with a cloud that does not start, its logs go.
pub(crate) fn end_of(log: &Path) -> String {
    let name = log.file_name().unwrap_or(log.as_os_str()).display();
    let text = match read_end(log) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => return format!("{name} cannot be read: {error}"),
    };
    let lines: Vec<&str> = text.lines().collect();
    let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    match tail.is_empty() {
        true => format!("{name} is empty"),
        false => format!("{name} ends with:\n  {}", tail.join("\n  ")),
    }
}

fn read_end(log: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(log)?;
    let before = file.metadata()?.len().saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(before))?;
    let mut end = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut end)?;
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_its_last_lines_however_long_it_is() {
        let base = tempfile::tempdir().unwrap();
        let log = base.path().join("vm1.log");
        let lines = |numbers: std::ops::Range<u32>| -> String {
            numbers.map(|number| format!("line {number}\n")).collect()
        };
        let endless = "x".repeat(1 << 20);

        for (content, expected) in [
            (String::new(), "vm1.log is empty".to_owned()),
            (
                lines(0..2),
                "vm1.log ends with:\n  line 0\n  line 1".to_owned(),
            ),
            (
                lines(0..9999),
                format!(
                    "vm1.log ends with:\n{}",
                    lines(9979..9999).replace("line", "  line")
                ),
            ),
            (
                endless,
                format!("vm1.log ends with:\n  {}", "x".repeat(16 * 1024)),
            ),
        ] {
            std::fs::write(&log, content).unwrap();

            assert_eq!(end_of(&log), expected.trim_end());
        }
        assert!(end_of(&base.path().join("none")).starts_with("none cannot be read"));
    }
}
