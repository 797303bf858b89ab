//! The agent's process in a guest: stopping, killing and stalling it, and what it logged.

use anyhow::Result;

use super::Guest;

/// Handle on the agent of one guest; `image/agent.sh` is the other side.
#[derive(Debug, Clone, Copy)]
pub struct AgentControl<'a> {
    guest: &'a Guest,
}

impl<'a> AgentControl<'a> {
    pub(super) fn of(guest: &'a Guest) -> Self {
        Self { guest }
    }

    /// Kills it (-9) and keeps it from being started again.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub async fn stop(&self) -> Result<()> {
        self.signal("rm -f /run/agent/enabled; ", "KILL").await
    }

    /// Starts it again after [`Self::stop`].
    ///
    /// # Errors
    /// When the guest does not answer.
    pub async fn start(&self) -> Result<()> {
        self.guest
            .succeed("touch /run/agent/enabled")
            .await
            .map(drop)
    }

    /// Kills it (-9); it is started again at once, as a service manager would.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub async fn kill(&self) -> Result<()> {
        self.signal("", "KILL").await
    }

    /// Stops it in its tracks: the process is there and does nothing.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub async fn stall(&self) -> Result<()> {
        self.signal("", "STOP").await
    }

    /// Ends [`Self::stall`].
    ///
    /// # Errors
    /// When the guest does not answer.
    pub async fn resume(&self) -> Result<()> {
        self.signal("", "CONT").await
    }

    async fn signal(&self, before: &str, signal: &str) -> Result<()> {
        // No process at all is fine: between two lives there is none.
        let script =
            format!("{before}[ ! -e /run/agent/pid ] || kill -{signal} $(cat /run/agent/pid)");
        self.guest.succeed(&script).await.map(drop)
    }

    /// The last `lines` lines it logged.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub async fn log(&self, lines: u32) -> Result<String> {
        let script = format!("[ ! -e /run/agent/log ] || tail -n {lines} /run/agent/log");
        self.guest.succeed(&script).await
    }
}
