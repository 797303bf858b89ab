//! The namespace a NIC is wanted in, and how its end is noticed.
//!
//! The agent holds a target open from the moment it is wished, so that nothing but the move is left
//! to do when the link arrives. Holding it also keeps a dead container's namespace from being torn
//! down, so its end has to be watched for: a process by its pidfd, a name by inotify on its
//! directory. Then the agent takes the link out itself and lets go.

use std::os::fd::{AsFd, OwnedFd};

use linux_network::Netns;
use linux_network::OpenNetnsError;
use linux_network::announce::Announcer;
use nic_binding::TargetSight;
use nic_model::{NetnsInode, NetnsName, NicId, Target};
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
    /// Opens `target` for `nic`, or says in the terms of the decisions why that cannot be.
    pub(crate) async fn open(
        target: &Target,
        nic: &NicId,
        guest: &Guest,
        news: &mpsc::Sender<TargetNews>,
    ) -> Result<Self, TargetSight> {
        let (netns, life) = find(target, nic, news)?;
        if netns == guest.own.netns || netns == guest.holding.netns {
            return Err(TargetSight::IsGuest);
        }
        let refused = |error: &dyn std::error::Error| {
            tracing::warn!(%target, error = in_full(error), "the target cannot be used");
            TargetSight::Gone
        };
        let space = Space::open(netns.clone()).await;
        let announcer = Announcer::open(&netns).await;
        Ok(Self {
            space: space.map_err(|error| refused(&error))?,
            announcer: announcer.map_err(|error| refused(&error))?,
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

    pub(crate) fn inode(&self) -> NetnsInode {
        self.space.netns.inode()
    }
}

fn find(
    target: &Target,
    nic: &NicId,
    news: &mpsc::Sender<TargetNews>,
) -> Result<(Netns, Life), TargetSight> {
    match target {
        Target::Pid { pid, netns_inode } => {
            let pidfd = hold_process(*pid)?;
            let netns = Netns::open_pid(*pid).map_err(|error| gone(target, &error))?;
            // The number may have passed to another process between the two.
            if has_ended(&pidfd) {
                return Err(TargetSight::Gone);
            }
            if netns_inode.is_some_and(|inode| inode != netns.inode()) {
                let found = netns.inode();
                return Err(TargetSight::Changed { found });
            }
            let _watcher = watch_process(&pidfd, nic, news);
            Ok((netns, Life::Process { pidfd, _watcher }))
        }
        Target::Netns { name } => {
            let netns = Netns::open_named(name).map_err(|error| gone(target, &error))?;
            Ok((netns, Life::Name(name.clone())))
        }
    }
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
