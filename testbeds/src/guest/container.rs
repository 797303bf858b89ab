//! Containers as hostd needs them: a process in a network namespace of its own.
//!
//! ```text
//!   make_container  ─► process in a new namespace      target pid:PID@INODE
//!   name_container  ─► the namespace has a name too    target netns:NAME
//!   kill            ─► the process is dead; its namespace dies unless it has a name
//! ```

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use nic_model::{NetnsInode, Target};

use super::{Guest, Output, Where};

/// A container of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Its process, in the guest's pid namespace.
    pub pid: u32,
    /// Its network namespace.
    pub netns_inode: NetnsInode,
}

impl Container {
    /// The container as the target of a NIC, guarded against a reused pid.
    #[must_use]
    pub fn target(&self) -> Target {
        Target::Pid {
            pid: self.pid,
            netns_inode: Some(self.netns_inode),
        }
    }

    /// The container as a place to look into.
    #[must_use]
    pub fn place(&self) -> Where {
        Where::Process(self.pid)
    }
}

/// Prints pid and namespace inode of the process just started, once it has left the guest's own
/// namespace. There is no event for that, and it takes a millisecond.
const AWAIT_NAMESPACE: &str = "pid=$!; own=$(readlink /proc/self/ns/net); \
    while net=$(readlink /proc/$pid/ns/net) && [ \"$net\" = \"$own\" ]; do usleep 2000; done; \
    echo $pid ${net##*[}";

impl Guest {
    /// Starts a process in a namespace of its own, with the loopback up.
    ///
    /// # Errors
    /// When the guest cannot.
    pub async fn make_container(&self) -> Result<Container> {
        self.container_by("unshare -n sh -c 'ip link set lo up; exec sleep 1000000'")
            .await
    }

    /// Starts a process that bears this pid, in a namespace of its own.
    ///
    /// # Errors
    /// When the guest cannot, or another process has the pid and keeps it.
    pub async fn make_container_with_pid(&self, pid: u32) -> Result<Container> {
        /// Others that start processes meanwhile are in the way now and then.
        const TRIES: usize = 20;
        let last = pid.saturating_sub(1);
        for _ in 0..TRIES {
            let container = self
                .container_by(&format!(
                    "echo {last} >/proc/sys/kernel/ns_last_pid; unshare -n sleep 1000000"
                ))
                .await?;
            if container.pid == pid {
                return Ok(container);
            }
            self.kill_container(&container).await?;
        }
        anyhow::bail!("no process got the pid {pid} in {TRIES} tries")
    }

    /// Makes a named namespace, as `ip netns add` does, and a process in it.
    ///
    /// # Errors
    /// When the guest cannot, or the name is taken.
    pub async fn make_named_container(&self, name: &str) -> Result<Container> {
        self.succeed(&format!(
            "ip netns add {name} && ip -n {name} link set lo up"
        ))
        .await?;
        self.container_by(&format!("nsenter --net=/run/netns/{name} sleep 1000000"))
            .await
    }

    async fn container_by(&self, command: &str) -> Result<Container> {
        let script = format!("{command} </dev/null >/dev/null 2>&1 & {AWAIT_NAMESPACE}");
        let printed = self.succeed(&script).await?;
        let parse = || {
            let (pid, inode) = printed.trim().trim_end_matches(']').split_once(' ')?;
            Some(Container {
                pid: pid.parse().ok()?,
                netns_inode: NetnsInode(inode.parse().ok()?),
            })
        };
        parse().with_context(|| format!("the guest shell printed {printed:?}"))
    }

    /// Kills a container's process and waits until it is gone, and with it its namespace's claim.
    ///
    /// # Errors
    /// When it does not go.
    pub async fn kill_container(&self, container: &Container) -> Result<()> {
        let pid = container.pid;
        self.succeed(&format!(
            "kill -9 {pid}; while [ -e /proc/{pid}/ns/net ]; do usleep 2000; done"
        ))
        .await
        .map(drop)
    }

    /// Removes the name of a namespace.
    ///
    /// # Errors
    /// When there is none.
    pub async fn remove_netns_name(&self, name: &str) -> Result<()> {
        self.succeed(&format!("ip netns del {name}"))
            .await
            .map(drop)
    }

    /// Runs a script in the namespace of `place`.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub async fn run_in(&self, place: &Where, script: &str) -> Result<Output> {
        self.run(&place.wrap(script)).await
    }

    /// Runs a script in the namespace of `place` for at most `deadline`.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub async fn run_in_for(
        &self,
        place: &Where,
        script: &str,
        deadline: Duration,
    ) -> Result<Output> {
        self.run_for(&place.wrap(script), deadline).await
    }

    /// Pings once from `place`, waiting up to `deadline` for the answer; an address that is not
    /// reachable yet is asked again until then.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn ping(&self, place: &Where, to: IpAddr, deadline: Duration) -> Result<()> {
        let seconds = deadline.as_secs().max(1);
        let script = format!(
            "end=$(($(date +%s) + {seconds})); \
             until ping -c 1 -W 1 {to}; do [ $(date +%s) -lt $end ] || exit 1; done"
        );
        let output = self
            .run_for(&place.wrap(&script), deadline + Duration::from_secs(5))
            .await?;
        anyhow::ensure!(
            output.status == 0,
            "no answer from {to} within {deadline:?}: {}{}",
            output.stdout.trim_end(),
            output.stderr.trim_end()
        );
        Ok(())
    }
}
