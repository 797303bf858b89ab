//! Processes, as far as they live in a namespace and end.

use std::time::Duration;

use guest_agent::kernel::Errno;
use nic_model::{NetnsInode, ProcessStart};

use super::namespace::Held;
use super::{Answer, Kernel, Output};

/// Ticks of the clock that process starts are counted in, in a second (`USER_HZ`).
const TICKS_PER_SECOND: u128 = 100;

/// The highest number of a process, after which the lowest free one follows (`kernel.pid_max`).
const LAST_PID: u32 = 32_768;

/// A process, told apart from an earlier and a later one of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProcessKey(u64);

/// One process.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) key: ProcessKey,
    pub(super) started: ProcessStart,
    pub(super) netns: NetnsInode,
}

impl Kernel {
    /// Starts a process in a namespace, or in a new one of its own.
    ///
    /// # Errors
    /// `ENOENT` when there is no such namespace, `EAGAIN` when there are too many processes.
    pub fn spawn(&mut self, netns: Option<NetnsInode>) -> Answer<u32> {
        let is_free = |pid: &u32| !self.processes.contains_key(pid);
        let mut pids = (self.last_pid + 1..=LAST_PID).chain(2..=self.last_pid);
        let pid = pids.find(is_free).ok_or(Errno::AGAIN)?;
        self.last_pid = pid;
        self.spawn_as(pid, netns)?;
        Ok(pid)
    }

    /// The same with a number of one's choice: that of one that has ended, for instance.
    ///
    /// # Errors
    /// Also `EEXIST` when a process has the number.
    pub fn spawn_as(&mut self, pid: u32, netns: Option<NetnsInode>) -> Answer<ProcessKey> {
        if self.processes.contains_key(&pid) {
            return Err(Errno::EXIST);
        }
        let netns = match netns {
            Some(netns) if self.can_be_entered(netns) => netns,
            Some(_) => return Err(Errno::NOENT),
            None => self.new_namespace(),
        };
        let key = ProcessKey(self.next_number());
        let started = ProcessStart(ticks(self.now.saturating_sub(self.booted_at)));
        let process = Process {
            key,
            started,
            netns,
        };
        self.processes.insert(pid, process);
        self.hold(netns, Held::Anew);
        Ok(key)
    }

    /// Ends a process.
    ///
    /// # Errors
    /// `ESRCH` when there is none of that number.
    pub fn exit(&mut self, pid: u32) -> Answer<()> {
        let process = self.processes.remove(&pid).ok_or(Errno::SRCH)?;
        self.outputs.push(Output::ProcessEnded(process.key));
        self.hold(process.netns, Held::NoMore);
        Ok(())
    }

    /// The process of that number: what tells it apart, when it started and where it is.
    #[must_use]
    pub fn process(&self, pid: u32) -> Option<(ProcessKey, ProcessStart, NetnsInode)> {
        let process = self.processes.get(&pid)?;
        Some((process.key, process.started, process.netns))
    }

    /// The first process, in the guest's own namespace.
    pub(super) fn start_init(&mut self) {
        self.last_pid = 1;
        self.spawn_as(1, Some(self.own))
            .expect("nothing else runs yet");
    }
}

fn ticks(uptime: Duration) -> u64 {
    let ticks = uptime.as_millis() * TICKS_PER_SECOND / 1000;
    u64::try_from(ticks).unwrap_or(u64::MAX)
}
