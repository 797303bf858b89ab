//! The agent's process in a guest: stopping, killing and stalling it, and what it logged.

use anyhow::{Context, Result, ensure};

use super::Guest;

/// A shell's exit status of what `kill -9` has ended.
const KILLED: i32 = 128 + 9;

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

    /// Has it look for failpoints from its next life on; measurements are spared that.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub async fn heed_failpoints(&self) -> Result<()> {
        let told = self.guest.run("[ -e /run/agent/failpoints ]").await?;
        if told.status == 0 {
            return Ok(());
        }
        self.signal("touch /run/agent/failpoints; ", "KILL").await?;
        let heeded = "until grep -qs NICFERRY_FAILPOINT_FILE /proc/$(cat /run/agent/pid)/environ; \
             do usleep 5000; done";
        self.guest.succeed(heeded).await.map(drop)
    }

    /// Lets it die at `failpoint`, when it comes there: the name of one of its steps and a side of
    /// it, `set-up.after`. It has to heed failpoints.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub async fn die_at(&self, failpoint: &str) -> Result<()> {
        let script = format!("rm -f /run/agent/ended; echo {failpoint} >/run/agent/failpoint");
        self.guest.succeed(&script).await.map(drop)
    }

    /// Waits until it has died at its failpoint, as if by `kill -9`. It has been started again
    /// then, or is about to be.
    ///
    /// # Errors
    /// When it goes on living, or ended in any other way.
    pub async fn died(&self) -> Result<()> {
        let ended = "until [ -e /run/agent/ended ]; do usleep 5000; done; cat /run/agent/ended; \
             ls /run/agent/failpoint 2>/dev/null || true";
        let ended = self.guest.succeed(ended).await;
        let ended = ended.context("the agent has not come to its failpoint")?;
        ensure!(
            ended.trim_end() == KILLED.to_string(),
            "the agent was to die at its failpoint, but: {ended}"
        );
        Ok(())
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

    /// What it has logged since it was last started.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub async fn log_of_this_life(&self) -> Result<String> {
        let since = "sed -n '/^a life begins$/h; /^a life begins$/!H; ${x;p}' /run/agent/log";
        self.guest.succeed(since).await
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
