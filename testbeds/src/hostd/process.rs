//! hostd as a process: configuration, start, kill -9, restart, log.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use host_api::Client;
use oracle::JournalView;
use tokio::process::Child;
use tokio::sync::Mutex;

use super::{Hostd, Mark, journal};
use crate::site::Site;

/// hostd listens within milliseconds of its start; a loaded machine takes longer.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// A killed or aborting process is gone at once.
const EXIT_DEADLINE: Duration = Duration::from_secs(30);
/// How often a starting hostd is asked whether it is there yet: it gives no other sign.
const START_POLL: Duration = Duration::from_millis(10);

/// What a failpoint ends hostd with.
const SIGKILL: i32 = 9;

/// Environment variable that makes hostd die at a step of that name.
const FAILPOINT_VARIABLE: &str = "NICFERRY_FAILPOINT";

/// The daemon of one world; killed when dropped.
#[derive(Debug)]
pub struct HostdProcess {
    socket: PathBuf,
    log: PathBuf,
    configuration: PathBuf,
    journal: PathBuf,
    process: Mutex<Option<Child>>,
    site: Arc<Site>,
}

impl HostdProcess {
    /// Writes the configuration: where the journal is, and in `hypervisors` its part about VMs.
    /// Nothing is started yet.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn configure(site: Arc<Site>, journal: PathBuf, hypervisors: &str) -> Result<Self> {
        let file = |name: &str| site.directory().join(name);
        let socket = file("hostd.sock");
        let configuration = file("hostd.toml");
        let files = format!("socket = {socket:?}\njournal = {journal:?}\n");
        std::fs::write(&configuration, super::configuration(&files, hypervisors))?;
        Ok(Self {
            socket,
            log: file("hostd.log"),
            configuration,
            journal,
            process: Mutex::new(None),
            site,
        })
    }

    async fn answers(&self, child: &mut Child) -> Result<()> {
        let client = self.client();
        while client.health().await.is_err() {
            if let Some(status) = child.try_wait()? {
                bail!("hostd ended with {status}: {}", self.log_tail(10));
            }
            tokio::time::sleep(START_POLL).await;
        }
        Ok(())
    }

    fn appended_log(&self) -> Result<File> {
        Ok(OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)?)
    }
}

#[async_trait(?Send)]
impl Hostd for HostdProcess {
    fn client(&self) -> Client {
        Client::unix(&self.socket)
    }

    async fn start(&self, failpoint: Option<&str>) -> Result<()> {
        let mut process = self.process.lock().await;
        anyhow::ensure!(process.is_none(), "hostd runs already");
        let hostd = &self.site.foundation.programs().await?.hostd;
        let hostd = hostd.to_str().context("the target directory is UTF-8")?;
        let mut command = self.site.netns.command(hostd);
        command.arg("--config").arg(&self.configuration);
        command
            .env("RUST_LOG", "info,hostd=debug")
            .env("RUST_BACKTRACE", "1");
        if let Some(failpoint) = failpoint {
            command.env(FAILPOINT_VARIABLE, failpoint);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(self.appended_log()?)
            .stderr(self.appended_log()?)
            .kill_on_drop(true)
            .spawn()
            .context("starting hostd")?;
        let child = process.insert(child);
        tokio::time::timeout(START_DEADLINE, self.answers(child))
            .await
            .with_context(|| format!("hostd did not answer within {START_DEADLINE:?}"))?
    }

    async fn kill(&self) -> Result<()> {
        let child = self.process.lock().await.take();
        let mut child = child.context("hostd does not run")?;
        child.start_kill()?;
        tokio::time::timeout(EXIT_DEADLINE, child.wait())
            .await
            .context("hostd does not die")??;
        Ok(())
    }

    async fn died(&self) -> Result<()> {
        let mut process = self.process.lock().await;
        let child = process.as_mut().context("hostd does not run")?;
        let status = tokio::time::timeout(EXIT_DEADLINE, child.wait())
            .await
            .with_context(|| format!("hostd still lives after {EXIT_DEADLINE:?}"))??;
        process.take();
        anyhow::ensure!(
            status.signal() == Some(SIGKILL),
            "hostd ended with {status}"
        );
        Ok(())
    }

    async fn mark(&self) -> Result<Mark> {
        Ok(Mark(std::fs::metadata(&self.log)?.len()))
    }

    async fn passed_since(&self, mark: Mark) -> Result<BTreeSet<String>> {
        let log = std::fs::read(&self.log)?;
        let since = log.get(usize::try_from(mark.0)?..).unwrap_or_default();
        Ok(passed(&String::from_utf8_lossy(since)))
    }

    async fn journal(&self) -> Result<JournalView> {
        journal::read(&self.journal).await
    }

    async fn plant_records(&self, planted: &JournalView) -> Result<()> {
        journal::plant(&self.journal, planted)
    }

    async fn remove_records(&self, planted: &JournalView) -> Result<()> {
        journal::remove(&self.journal, planted)
    }

    fn log_tail(&self, lines: usize) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    fn socket(&self) -> Result<&Path> {
        Ok(&self.socket)
    }
}

/// Names of the failpoints in a log: `… failpoint="attach.plug.after"`.
fn passed(log: &str) -> BTreeSet<String> {
    let names = log.split("failpoint=\"").skip(1);
    let names = names.filter_map(|rest| rest.split('"').next());
    names.map(str::to_owned).collect()
}
