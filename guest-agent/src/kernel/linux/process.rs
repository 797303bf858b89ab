//! Processes and names that are watched for their end: a process by its pidfd, a name by inotify on
//! its directory.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use linux_network::{Netns, OpenNetnsError};
use nic_model::ProcessStart;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::process::{Pid, PidfdFlags};
use tokio::net::unix::pipe;

use crate::kernel::{HeldProcess, NameEvents};

/// A process, held by a pidfd.
#[derive(Debug)]
pub struct LinuxProcess {
    pid: u32,
    pidfd: OwnedFd,
}

impl LinuxProcess {
    pub(super) fn hold(pid: u32) -> Option<Self> {
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
        let pidfd = rustix::process::pidfd_open(number, PidfdFlags::empty()).ok()?;
        Some(Self { pid, pidfd })
    }
}

impl HeldProcess for LinuxProcess {
    type Netns = Netns;

    fn started(&self) -> Option<ProcessStart> {
        let stat = std::fs::read(format!("/proc/{}/stat", self.pid)).ok()?;
        start_in_stat(&String::from_utf8_lossy(&stat))
    }

    fn netns(&self) -> Result<Netns, OpenNetnsError> {
        Netns::open_pid(self.pid)
    }

    fn has_ended(&self) -> bool {
        has_ended(&self.pidfd)
    }

    fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let watched = self.pidfd.try_clone().and_then(pollable);
        async move {
            let ended = match watched {
                Ok(watched) => watched.readable().await,
                Err(error) => Err(error),
            };
            if let Err(error) = ended {
                tracing::info!(%error, "the end of a process is not told of");
                std::future::pending().await
            }
        }
    }
}

/// Field 22 of proc_pid_stat(5). Field 2 is the program's name in parentheses, which may be cut
/// amid a character and contain spaces and parentheses, so fields are counted from the last one on.
fn start_in_stat(stat: &str) -> Option<ProcessStart> {
    let (_, from_state) = stat.rsplit_once(')')?;
    let ticks = from_state.split_ascii_whitespace().nth(22 - 3)?;
    ticks.parse().ok().map(ProcessStart)
}

/// A pidfd becomes readable when its process ends (pidfd_open(2)).
fn has_ended(pidfd: &impl AsFd) -> bool {
    let mut polled = [PollFd::new(pidfd, PollFlags::IN)];
    poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// Names under `/run/netns`.
#[derive(Debug)]
pub struct LinuxNameEvents {
    watch: pipe::Receiver,
}

impl LinuxNameEvents {
    pub(super) fn subscribe() -> io::Result<Self> {
        let flags = inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC;
        let watch = inotify::init(flags)?;
        let gone = inotify::WatchFlags::DELETE | inotify::WatchFlags::MOVED_FROM;
        inotify::add_watch(&watch, "/run/netns", gone)?;
        let watch = pollable(watch)?;
        Ok(Self { watch })
    }
}

impl NameEvents for LinuxNameEvents {
    async fn name_gone(&mut self) {
        let mut buffer = [0; 4096];
        while self.watch.readable().await.is_ok() {
            // What exactly is gone is looked up; the events only have to be taken away.
            if self.watch.try_read(&mut buffer).is_ok() {
                return;
            }
        }
        std::future::pending().await
    }
}

/// The reading end of a pipe is what tokio has for any descriptor that becomes readable.
fn pollable(descriptor: OwnedFd) -> std::io::Result<pipe::Receiver> {
    pipe::Receiver::from_owned_fd_unchecked(descriptor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_name_does_not_shift_the_fields() {
        let fields = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        for name in ["sh", "a b", ") 1 2 3", "(("] {
            let stat = format!("42 ({name}) {fields}");

            assert_eq!(start_in_stat(&stat), Some(ProcessStart(4711)), "{name}");
        }
    }
}
