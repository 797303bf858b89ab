//! Containers as hostd needs them, by scripts: a process in a network namespace of its own.

use anyhow::{Context, Result, bail};
use nic_model::NetnsInode;

use super::ShellGuest;
use crate::guest::{Container, Guest};

/// Prints pid and namespace inode of the process just started, once it has left the guest's own
/// namespace. There is no event for that, and it takes a millisecond.
const AWAIT_NAMESPACE: &str = "pid=$!; own=$(readlink /proc/self/ns/net); \
    while net=$(readlink /proc/$pid/ns/net) && [ \"$net\" = \"$own\" ]; do usleep 2000; done; \
    echo $pid ${net##*[}";

/// Starts `command`, which is to leave the guest's own namespace.
pub(super) async fn start(guest: &ShellGuest, command: &str) -> Result<Container> {
    let script = format!("{command} </dev/null >/dev/null 2>&1 & {AWAIT_NAMESPACE}");
    let printed = guest.succeed(&script).await?;
    let parse = || {
        let (pid, inode) = printed.trim().trim_end_matches(']').split_once(' ')?;
        Some(Container {
            pid: pid.parse().ok()?,
            netns_inode: NetnsInode(inode.parse().ok()?),
        })
    };
    parse().with_context(|| format!("the guest shell printed {printed:?}"))
}

/// Starts a process that bears `pid`, in a namespace of its own.
pub(super) async fn start_with_pid(guest: &ShellGuest, pid: u32) -> Result<Container> {
    /// Others that start processes meanwhile are in the way now and then.
    const TRIES: usize = 20;
    let last = pid.saturating_sub(1);
    let command = format!("echo {last} >/proc/sys/kernel/ns_last_pid; unshare -n sleep 1000000");
    for _ in 0..TRIES {
        let container = start(guest, &command).await?;
        if container.pid == pid {
            return Ok(container);
        }
        guest.kill_container(&container).await?;
    }
    bail!("no process got the pid {pid} in {TRIES} tries")
}
