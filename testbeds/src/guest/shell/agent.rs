//! The agent's process in a guest that keeps it running by a script; `image/agent.sh` is the other
//! side.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use nic_model::NicId;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;

use super::{SCRIPT_DEADLINE, Shell, succeed};
use crate::guest::{AgentControl, HostileBytes};

/// A shell's exit status of what `kill -9` has ended.
const KILLED: i32 = 128 + 9;
/// The guest's end of the agent's virtio-serial port.
const PORT: &str = "/dev/virtio-ports/org.nicferry.agent.0";

/// How the agent and its host reach each other.
#[derive(Debug, Clone)]
pub enum AgentChannel {
    /// By a virtio-serial port.
    Port,
    /// By a unix socket at which the agent listens.
    Socket(PathBuf),
}

/// The agent of one guest.
#[derive(Debug)]
pub struct ScriptedAgent {
    shell: Arc<dyn Shell>,
    channel: AgentChannel,
}

impl ScriptedAgent {
    /// The one that a guest's shell has in its hands.
    #[must_use]
    pub fn in_guest(shell: Arc<dyn Shell>, channel: AgentChannel) -> Self {
        Self { shell, channel }
    }

    async fn send_by_port(&self, bytes: HostileBytes) -> Result<()> {
        let script = match bytes {
            HostileBytes::Noise => format!("dd if=/dev/urandom of={PORT} bs=4096 count=256"),
            HostileBytes::Flood => {
                format!("yes '{{\"type\":\"report\"}}' | head -c 1000000 >{PORT}")
            }
            HostileBytes::HugeFrame => {
                format!("printf '\\377\\377\\377\\377\\377\\377\\377\\377' >{PORT}")
            }
        };
        // The host may close the channel under it, which is its right.
        self.shell.run(&script, SCRIPT_DEADLINE).await.map(drop)
    }

    async fn succeed(&self, script: &str) -> Result<String> {
        succeed(self.shell.as_ref(), script).await
    }

    async fn signal(&self, before: &str, signal: &str) -> Result<()> {
        // No process at all is fine: between two lives there is none.
        let script =
            format!("{before}[ ! -e /run/agent/pid ] || kill -{signal} $(cat /run/agent/pid)");
        self.succeed(&script).await.map(drop)
    }
}

#[async_trait(?Send)]
impl AgentControl for ScriptedAgent {
    async fn stop(&self) -> Result<()> {
        self.signal("rm -f /run/agent/enabled; ", "KILL").await
    }

    async fn start(&self) -> Result<()> {
        self.succeed("touch /run/agent/enabled").await.map(drop)
    }

    async fn kill(&self) -> Result<()> {
        self.signal("", "KILL").await
    }

    async fn heed_failpoints(&self) -> Result<()> {
        let told = "[ -e /run/agent/failpoints ]";
        if self.shell.run(told, SCRIPT_DEADLINE).await?.status == 0 {
            return Ok(());
        }
        self.signal("touch /run/agent/failpoints; ", "KILL").await?;
        let heeded = "until grep -qs NICFERRY_FAILPOINT_FILE /proc/$(cat /run/agent/pid)/environ; \
             do usleep 5000; done";
        self.succeed(heeded).await.map(drop)
    }

    async fn die_at(&self, failpoint: &str) -> Result<()> {
        let script = format!("rm -f /run/agent/ended; echo {failpoint} >/run/agent/failpoint");
        self.succeed(&script).await.map(drop)
    }

    async fn died(&self) -> Result<()> {
        let ended = "until [ -e /run/agent/ended ]; do usleep 5000; done; cat /run/agent/ended; \
             ls /run/agent/failpoint 2>/dev/null || true";
        let ended = self.succeed(ended).await;
        let ended = ended.context("the agent has not come to its failpoint")?;
        ensure!(
            ended.trim_end() == KILLED.to_string(),
            "the agent was to die at its failpoint, but: {ended}"
        );
        Ok(())
    }

    async fn stall(&self) -> Result<()> {
        self.signal("", "STOP").await
    }

    async fn resume(&self) -> Result<()> {
        self.signal("", "CONT").await
    }

    async fn has_told_bound(&self, nic: &NicId) -> Result<bool> {
        let since = "sed -n '/^a life begins$/h; /^a life begins$/!H; ${x;p}' /run/agent/log";
        let log = self.succeed(since).await?;
        let told = |line: &str| line.contains(nic.as_str()) && line.contains("phase=Bound");
        Ok(log.lines().any(told))
    }

    async fn send(&self, bytes: HostileBytes) -> Result<()> {
        match &self.channel {
            AgentChannel::Port => self.send_by_port(bytes).await,
            AgentChannel::Socket(socket) => send_by_socket(socket, &bytes.bytes()).await,
        }
    }

    async fn log(&self, lines: u32) -> Result<String> {
        let script = format!("[ ! -e /run/agent/log ] || tail -n {lines} /run/agent/log");
        self.succeed(&script).await
    }
}

/// Takes the agent's place until the host has come and been told.
async fn send_by_socket(socket: &Path, bytes: &[u8]) -> Result<()> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    let tell = async {
        let (mut host, _) = listener.accept().await?;
        // The host may close the channel under it, which is its right.
        host.write_all(bytes).await.unwrap_or_default();
        anyhow::Ok(())
    };
    let told = tokio::time::timeout(SCRIPT_DEADLINE, tell).await;
    std::fs::remove_file(socket)?;
    told.context("the host does not come to its agent")?
}
