//! The shell of a guest that is a namespace: programs that its terminal runs.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use futures::future::LocalBoxFuture;
use simulator::netns::{GuestClient, Place};
use tokio::time::{Instant, sleep};

use crate::guest::shell::{Output, Shell};

/// How often a guest that is not up is asked whether it is.
const POLL: Duration = Duration::from_millis(5);
/// How long a guest that is up may take for next to nothing.
const PROMPT: Duration = Duration::from_secs(10);
/// What the kernel of this boot is recognised by.
const BOOT_ID: &str = "cat /proc/sys/kernel/random/boot_id";
/// As in `image/shell.sh`: the shell prefers its own `ip`, which knows neither namespaces nor JSON.
const PRELUDE: &str = "ip() { /sbin/ip \"$@\"; }\n";
/// What a shell reports for a program that a signal ended, without the signal's number.
const SIGNALLED: i32 = 128;

/// The terminal of one guest.
#[derive(Debug)]
pub(super) struct TerminalShell {
    guest: GuestClient,
}

impl TerminalShell {
    pub(super) fn at(socket: PathBuf) -> Self {
        let guest = GuestClient::new(socket);
        Self { guest }
    }

    async fn boot_id(&self) -> Result<String> {
        Ok(self.run(BOOT_ID, PROMPT).await?.stdout)
    }

    /// Waits until it answers in a boot that is wanted.
    async fn until_up(&self, deadline: Duration, wanted: impl Fn(&str) -> bool) -> Result<()> {
        let give_up_at = Instant::now() + deadline;
        loop {
            match self.boot_id().await {
                Ok(boot) if wanted(&boot) => return Ok(()),
                answer if Instant::now() >= give_up_at => {
                    bail!("the guest was not up within {deadline:?}: {answer:?}")
                }
                _ => sleep(POLL).await,
            }
        }
    }
}

#[async_trait(?Send)]
impl Shell for TerminalShell {
    async fn ready(&self, deadline: Duration) -> Result<()> {
        self.until_up(deadline, |_| true).await
    }

    async fn over_reset(
        &self,
        reset: LocalBoxFuture<'_, Result<()>>,
        deadline: Duration,
    ) -> Result<()> {
        let before = self.boot_id().await?;
        reset.await?;
        self.until_up(deadline, |boot| boot != before).await
    }

    async fn run(&self, script: &str, deadline: Duration) -> Result<Output> {
        let script_with_prelude = format!("{PRELUDE}{script}");
        let command = ["busybox", "sh", "-c", &script_with_prelude];
        let output = self.guest.run(Place::Own, &command, deadline).await;
        let output = output.with_context(|| format!("running in the guest: {script}"))?;
        Ok(Output {
            status: output.status.unwrap_or(SIGNALLED),
            stdout: output.stdout,
            stderr: output.stderr,
        })
    }
}
