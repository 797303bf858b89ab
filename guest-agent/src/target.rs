//! The namespace a NIC is wanted in, and how its end is noticed.
//!
//! The agent holds a target open from the moment it is wished, so that nothing but the move is left
//! to do when the link arrives. Holding it also keeps a dead container's namespace from being torn
//! down, so its end has to be watched for: a process by its pidfd, a name by inotify on its
//! directory. Then the agent takes the link out itself and lets go.
//!
//! A pid alone does not say which process is meant. What the host has learned of it comes with the
//! wish: the boot it was asked in, and once the NIC was bound, when that process started and in
//! which namespace it was. A process that is another one by this is taken for no process at all.

use std::os::fd::{AsFd, OwnedFd};

use agent_protocol::{KnownTarget, WantedNic};
use linux_network::Netns;
use linux_network::OpenNetnsError;
use linux_network::announce::Announcer;
use nic_binding::TargetSight;
use nic_model::{BootId, NetnsInode, NetnsName, NicId, ProcessStart, Target, TargetIdentity};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::process::{Pid, PidfdFlags};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::guest::{Guest, Space, in_full};

/// Something about targets has to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TargetNews {
    /// The process that was the target of a NIC has ended.
    Ended(NicId),
    /// A name of a namespace has gone.
    NamesChanged,
}

/// A target held open.
#[derive(Debug)]
pub(crate) struct OpenTarget {
    pub(crate) space: Space,
    pub(crate) announcer: Announcer,
    pub(crate) identity: TargetIdentity,
    life: Life,
}

#[derive(Debug)]
enum Life {
    Process {
        pidfd: OwnedFd,
        _watcher: Option<Watcher>,
    },
    Name(NetnsName),
}

/// A task that ends with its owner.
#[derive(Debug)]
struct Watcher(JoinHandle<()>);

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl OpenTarget {
    /// Opens `target` for the NIC of `wanted`, or says in the terms of the decisions why that
    /// cannot be.
    pub(crate) async fn open(
        target: &Target,
        wanted: &WantedNic,
        guest: &Guest,
        news: &mpsc::Sender<TargetNews>,
    ) -> Result<Self, TargetSight> {
        let (netns, process_started, life) = find(target, wanted, guest.boot_id, news)?;
        if netns == guest.own.netns || netns == guest.holding.netns {
            return Err(TargetSight::IsGuest);
        }
        let refused = |error: &dyn std::error::Error| {
            tracing::warn!(%target, error = in_full(error), "the target cannot be used");
            TargetSight::Gone
        };
        let opened = Announcer::open_with_netlink(&netns).await;
        let (announcer, netlink) = opened.map_err(|error| refused(&error))?;
        Ok(Self {
            identity: TargetIdentity {
                boot_id: guest.boot_id,
                netns_inode: netns.inode(),
                process_started,
            },
            space: Space { netns, netlink },
            announcer,
            life,
        })
    }

    /// Whether it is still what it was opened as.
    pub(crate) fn is_alive(&self) -> bool {
        match &self.life {
            Life::Process { pidfd, .. } => !has_ended(pidfd),
            Life::Name(name) => {
                Netns::open_named(name).is_ok_and(|netns| netns == self.space.netns)
            }
        }
    }
}

fn find(
    target: &Target,
    wanted: &WantedNic,
    boot_id: BootId,
    news: &mpsc::Sender<TargetNews>,
) -> Result<(Netns, Option<ProcessStart>, Life), TargetSight> {
    match target {
        Target::Pid { pid, netns_inode } => {
            let pidfd = hold_process(*pid)?;
            let started = process_started(*pid)?;
            let netns = Netns::open_pid(*pid).map_err(|error| gone(target, &error))?;
            // The number may have passed to another process between the two.
            if has_ended(&pidfd) || !may_be(wanted.known_target, boot_id, started) {
                return Err(TargetSight::Gone);
            }
            let bound_in = wanted.known_target.and_then(inode_of);
            let found = netns.inode();
            if netns_inode.or(bound_in).is_some_and(|inode| inode != found) {
                return Err(TargetSight::Changed { found });
            }
            let _watcher = watch_process(&pidfd, &wanted.nic, news);
            Ok((netns, Some(started), Life::Process { pidfd, _watcher }))
        }
        Target::Netns { name } => {
            let netns = Netns::open_named(name).map_err(|error| gone(target, &error))?;
            Ok((netns, None, Life::Name(name.clone())))
        }
    }
}

/// Whether a process that started then is the one that is meant.
fn may_be(known: Option<KnownTarget>, boot_id: BootId, started: ProcessStart) -> bool {
    match known {
        None => true,
        Some(KnownTarget::AskedIn { boot_id: asked_in }) => asked_in == boot_id,
        Some(KnownTarget::BoundIn { target }) => {
            target.boot_id == boot_id && target.process_started == Some(started)
        }
    }
}

fn inode_of(known: KnownTarget) -> Option<NetnsInode> {
    match known {
        KnownTarget::AskedIn { .. } => None,
        KnownTarget::BoundIn { target } => Some(target.netns_inode),
    }
}

fn process_started(pid: u32) -> Result<ProcessStart, TargetSight> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).map_err(|_gone| TargetSight::Gone)?;
    start_in_stat(&String::from_utf8_lossy(&stat)).ok_or(TargetSight::Gone)
}

/// Field 22 of proc_pid_stat(5). Field 2 is the program's name in parentheses, which may be cut
/// amid a character and contain spaces and parentheses, so fields are counted from the last one on.
fn start_in_stat(stat: &str) -> Option<ProcessStart> {
    let (_, from_state) = stat.rsplit_once(')')?;
    let ticks = from_state.split_ascii_whitespace().nth(22 - 3)?;
    ticks.parse().ok().map(ProcessStart)
}

fn gone(target: &Target, error: &OpenNetnsError) -> TargetSight {
    match error {
        OpenNetnsError::NoSuchName(_) | OpenNetnsError::NoSuchProcess(_) => {}
        OpenNetnsError::NotANamespace(_) | OpenNetnsError::System { .. } => {
            tracing::warn!(%target, error = in_full(error), "the target cannot be opened");
        }
    }
    TargetSight::Gone
}

fn hold_process(pid: u32) -> Result<OwnedFd, TargetSight> {
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let number = number.ok_or(TargetSight::Gone)?;
    rustix::process::pidfd_open(number, PidfdFlags::empty()).map_err(|_errno| TargetSight::Gone)
}

/// A pidfd becomes readable when its process ends (pidfd_open(2)).
fn has_ended(pidfd: &impl AsFd) -> bool {
    let mut polled = [PollFd::new(pidfd, PollFlags::IN)];
    poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// Without a watcher the timer notices the end.
fn watch_process(pidfd: &OwnedFd, nic: &NicId, news: &mpsc::Sender<TargetNews>) -> Option<Watcher> {
    let watched = pollable(pidfd.try_clone().ok()?).ok()?;
    let (nic, news) = (nic.clone(), news.clone());
    Some(Watcher(tokio::spawn(async move {
        if watched.readable().await.is_ok() {
            // Without a receiver the agent is ending.
            news.send(TargetNews::Ended(nic)).await.unwrap_or_default();
        }
    })))
}

/// Tells whenever a name under `/run/netns` goes away.
///
/// # Errors
/// When the directory cannot be watched.
pub(crate) fn watch_names(news: mpsc::Sender<TargetNews>) -> std::io::Result<()> {
    let flags = inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC;
    let watch = inotify::init(flags)?;
    let gone = inotify::WatchFlags::DELETE | inotify::WatchFlags::MOVED_FROM;
    inotify::add_watch(&watch, "/run/netns", gone)?;
    let watch = pollable(watch)?;
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while watch.readable().await.is_ok() {
            // What exactly is gone is looked up; the events only have to be taken away.
            let taken = watch.try_read(&mut buffer);
            if taken.is_ok() && news.send(TargetNews::NamesChanged).await.is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// The reading end of a pipe is what tokio has for any descriptor that becomes readable.
fn pollable(descriptor: OwnedFd) -> std::io::Result<pipe::Receiver> {
    pipe::Receiver::from_owned_fd_unchecked(descriptor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: &str = "00000000-0000-4000-8000-000000000001";
    const NEXT_BOOT: &str = "00000000-0000-4000-8000-000000000002";
    const STARTED: ProcessStart = ProcessStart(4711);

    fn bound_in(boot_id: &str) -> KnownTarget {
        KnownTarget::BoundIn {
            target: TargetIdentity {
                boot_id: boot_id.parse().unwrap(),
                netns_inode: NetnsInode(1),
                process_started: Some(STARTED),
            },
        }
    }

    #[test]
    fn a_pid_of_another_boot_or_another_start_is_another_process() {
        let asked_in = |boot_id: &str| KnownTarget::AskedIn {
            boot_id: boot_id.parse().unwrap(),
        };
        let cases = [
            (None, STARTED, true),
            (Some(asked_in(BOOT)), STARTED, true),
            (Some(asked_in(NEXT_BOOT)), STARTED, false),
            (Some(bound_in(BOOT)), STARTED, true),
            (Some(bound_in(BOOT)), ProcessStart(4712), false),
            (Some(bound_in(NEXT_BOOT)), STARTED, false),
        ];
        for (known, started, expected) in cases {
            let found = may_be(known, BOOT.parse().unwrap(), started);

            assert_eq!(found, expected, "{known:?}, started {started:?}");
        }
    }

    #[test]
    fn a_programs_name_does_not_shift_the_fields() {
        let fields = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        for name in ["sh", "a b", ") 1 2 3", "(("] {
            let stat = format!("42 ({name}) {fields}");

            assert_eq!(start_in_stat(&stat), Some(STARTED), "{name}");
        }
    }
}
