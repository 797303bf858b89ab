//! The namespace a NIC is wanted in, and how its end is noticed.
//!
//! The agent holds a target open from the moment it is wished, so that nothing but the move is left
//! to do when the link arrives. Holding it also keeps a dead container's namespace from being torn
//! down, so its end has to be watched for. Then the agent takes the link out itself and lets go.
//!
//! A pid alone does not say which process is meant. What the host has learned of it comes with the
//! wish: the boot it was asked in, and once the NIC was bound, when that process started and in
//! which namespace it was. A process that is another one by this is taken for no process at all.

use agent_protocol::{KnownTarget, WantedNic};
use nic_binding::TargetSight;
use nic_model::{BootId, NetnsInode, NetnsName, NicId, ProcessStart, Target, TargetIdentity};
use tokio::sync::mpsc;

use crate::guest::{Guest, Space, in_full};
use crate::kernel::{GuestKernel, HeldProcess, Netns, OpenNetnsError};
use crate::news::News;
use crate::task::Task;

/// A target held open.
#[derive(Debug)]
pub(crate) struct OpenTarget<K: GuestKernel> {
    pub(crate) space: Space<K>,
    pub(crate) announcer: K::Announcer,
    pub(crate) identity: TargetIdentity,
    life: Life<K>,
}

#[derive(Debug)]
enum Life<K: GuestKernel> {
    Process {
        process: K::Process,
        /// Without it the timer notices the end.
        _watcher: Task,
    },
    Name(NetnsName),
}

impl<K: GuestKernel> OpenTarget<K> {
    /// Opens `target` for the NIC of `wanted`, or says in the terms of the decisions why that
    /// cannot be.
    pub(crate) async fn open(
        target: &Target,
        wanted: &WantedNic,
        guest: &Guest<K>,
        news: &mpsc::Sender<News>,
    ) -> Result<Self, TargetSight> {
        let (netns, process_started, life) = find(target, wanted, guest, news)?;
        if netns == guest.own.netns || netns == guest.holding.netns {
            return Err(TargetSight::IsGuest);
        }
        let refused = |error: &dyn std::error::Error| {
            tracing::warn!(%target, error = in_full(error), "the target cannot be used");
            TargetSight::Gone
        };
        let opened = guest.kernel.connect_target(&netns).await;
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
    pub(crate) fn is_alive(&self, kernel: &K) -> bool {
        match &self.life {
            Life::Process { process, .. } => !process.has_ended(),
            Life::Name(name) => {
                let named = kernel.named_netns(name);
                named.is_ok_and(|netns| netns == self.space.netns)
            }
        }
    }
}

type Found<K> = (<K as GuestKernel>::Netns, Option<ProcessStart>, Life<K>);

fn find<K: GuestKernel>(
    target: &Target,
    wanted: &WantedNic,
    guest: &Guest<K>,
    news: &mpsc::Sender<News>,
) -> Result<Found<K>, TargetSight> {
    match target {
        Target::Pid { pid, netns_inode } => {
            let process = guest.kernel.hold_process(*pid).ok_or(TargetSight::Gone)?;
            let started = process.started().ok_or(TargetSight::Gone)?;
            let netns = process.netns().map_err(|error| gone(target, &error))?;
            // The number may have passed to another process between the two.
            if process.has_ended() || !may_be(wanted.known_target, guest.boot_id, started) {
                return Err(TargetSight::Gone);
            }
            let bound_in = wanted.known_target.and_then(inode_of);
            let found = netns.inode();
            if netns_inode.or(bound_in).is_some_and(|inode| inode != found) {
                return Err(TargetSight::Changed { found });
            }
            let _watcher = watch(&process, &wanted.nic, news);
            Ok((netns, Some(started), Life::Process { process, _watcher }))
        }
        Target::Netns { name } => {
            let netns = guest.kernel.named_netns(name);
            let netns = netns.map_err(|error| gone(target, &error))?;
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

fn gone(target: &Target, error: &OpenNetnsError) -> TargetSight {
    match error {
        OpenNetnsError::NoSuchName(_) | OpenNetnsError::NoSuchProcess(_) => {}
        OpenNetnsError::NotANamespace(_) | OpenNetnsError::System { .. } => {
            tracing::warn!(%target, error = in_full(error), "the target cannot be opened");
        }
    }
    TargetSight::Gone
}

fn watch(process: &impl HeldProcess, nic: &NicId, news: &mpsc::Sender<News>) -> Task {
    let ended = process.ended();
    let (nic, news) = (nic.clone(), news.clone());
    Task::spawn(async move {
        ended.await;
        // Without a receiver the agent is ending.
        news.send(News::TargetEnded(nic)).await.unwrap_or_default();
    })
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
}
