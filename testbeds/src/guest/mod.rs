//! A booted guest, as the harness sees it: through a shell of its own, independent of everything
//! under test.
//!
//! [`Guest`] looks into the guest (links, addresses, logs), makes and kills containers in it, and
//! breaks it: the agent, the driver that answers an unplug.

mod agent;
mod container;
mod faults;
mod links;
mod shell;

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};

pub use agent::AgentControl;
pub use container::Container;
pub use links::{Admin, GuestLink, Where};
pub use shell::{Output, Shell};

pub(crate) use shell::connected;

/// A guest script forks a few programs; each takes tens of milliseconds under emulation, more on a
/// loaded machine.
const SCRIPT_DEADLINE: Duration = Duration::from_secs(20);

/// One guest.
#[derive(Debug)]
pub struct Guest {
    shell: Shell,
}

impl Guest {
    /// Connects to the guest's shell port; the guest need not be up yet.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect(socket: &Path) -> Result<Self> {
        let shell = Shell::connect(socket).await?;
        Ok(Self { shell })
    }

    /// Waits until the guest is up.
    ///
    /// # Errors
    /// When it is not within `deadline`.
    pub async fn ready(&self, deadline: Duration) -> Result<()> {
        self.shell.ready(deadline).await
    }

    /// Does what resets the guest, and waits until it is up again.
    ///
    /// # Errors
    /// When `reset` fails, or the guest is not up within `deadline`.
    pub async fn over_reset(
        &self,
        reset: impl Future<Output = Result<()>>,
        deadline: Duration,
    ) -> Result<()> {
        self.shell.over_reset(reset, deadline).await
    }

    /// Runs a script, whatever its exit status, for at most twenty seconds.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub async fn run(&self, script: &str) -> Result<Output> {
        self.shell.run(script, SCRIPT_DEADLINE).await
    }

    /// Runs a script for at most `deadline`, whatever its exit status.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub async fn run_for(&self, script: &str, deadline: Duration) -> Result<Output> {
        self.shell.run(script, deadline).await
    }

    /// Runs a script that has to succeed and gives what it printed.
    ///
    /// # Errors
    /// When it fails, then with its complaint, or the guest does not answer.
    pub async fn succeed(&self, script: &str) -> Result<String> {
        let output = self.run(script).await?;
        if output.status != 0 {
            bail!(
                "in the guest, {script:?} ended with {}: {}{}",
                output.status,
                output.stderr.trim_end(),
                output.stdout.trim_end()
            );
        }
        Ok(output.stdout)
    }

    /// The agent's process in this guest.
    #[must_use]
    pub fn agent(&self) -> AgentControl<'_> {
        AgentControl::of(self)
    }
}
