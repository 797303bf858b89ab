//! Processes of a simulated cloud: started in a namespace, ended together, buried by one.
//!
//! ```text
//!   spawn_in(netns) ──► runs ──► ends ──► Undertaker: whose, how ──► Watch of whoever cares
//! ```
//!
//! The first process of a pid namespace inherits every orphan in it, so it waits for all children
//! at once, and tells by their ids whose end it was.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use linux_network::Netns;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::trouble::{Doing, Trouble};

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
