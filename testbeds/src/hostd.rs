//! The daemon under test as a process: configuration, start, kill -9, restart, log.

use std::fs::{File, OpenOptions};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use host_api::Client;
use tokio::process::Child;
use tokio::sync::Mutex;

use crate::site::{BRIDGE, NETWORK, SUBNET_V4, SUBNET_V6, Site};

/// hostd listens within milliseconds of its start; a loaded machine takes longer.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// A killed or aborting process is gone at once.
const EXIT_DEADLINE: Duration = Duration::from_secs(30);
/// How often a starting hostd is asked whether it is there yet: it gives no other sign.
const START_POLL: Duration = Duration::from_millis(10);

/// What a failpoint ends hostd with.
const SIGKILL: i32 = 9;

/// Environment variable that makes hostd die at a step of that name.
pub const FAILPOINT_VARIABLE: &str = "NICFERRY_FAILPOINT";

/// How long hostd leaves alone what has a name of ours and no record: so long that the leak check
/// finds it, and no longer, since a scenario waits for it.
pub const QUARANTINE: Duration = Duration::from_secs(20);
/// How long hostd waits for a guest that is booting: longer than any guest takes, also where it is
/// emulated on a machine that is busy.
const ATTACH_PATIENCE: Duration = Duration::from_secs(300);

/// Limits of the one class of VM, chosen so that a scenario reaches them with ten slots.
const CLASS: &str = "\
default_class = \"standard\"
[[class]]
name = \"standard\"
max_nics = 8
max_addresses_per_nic = 8
max_queues = 4
";

/// The daemon of one world; killed when dropped.
#[derive(Debug)]
pub struct Hostd {
    socket: PathBuf,
    log: PathBuf,
    configuration: PathBuf,
    journal: PathBuf,
    process: Mutex<Option<Child>>,
}

impl Hostd {
    /// Writes the configuration; `hypervisors` is its part about VMs. Nothing is started yet.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn configure(site: &Site, hypervisors: &str) -> Result<Self> {
        let file = |name: &str| site.directory().join(name);
        let (socket, journal) = (file("hostd.sock"), file("journal.sqlite"));
        let configuration = file("hostd.toml");
        let text = format!(
            "socket = {socket:?}\njournal = {journal:?}\n{CLASS}\
             [[network]]\nname = {NETWORK:?}\nkind = \"bridge\"\nbridge = {BRIDGE:?}\n\
             mtu = 1500\nsubnets = [{SUBNET_V4:?}, {SUBNET_V6:?}]\n\
             [quota]\nmax_nics_per_host = 1000\nmax_nics_per_tenant = 100\n\
             [timeouts]\nattach_seconds = {}\nquarantine_seconds = {}\n{hypervisors}",
            ATTACH_PATIENCE.as_secs(),
            QUARANTINE.as_secs(),
        );
        std::fs::write(&configuration, text)?;
        Ok(Self {
            socket,
            log: file("hostd.log"),
            configuration,
            journal,
            process: Mutex::new(None),
        })
    }

    /// A client of its API.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::unix(&self.socket)
    }

    /// Its journal's file.
    #[must_use]
    pub fn journal(&self) -> &std::path::Path {
        &self.journal
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> &std::path::Path {
        &self.socket
    }

    /// Starts it and waits until it answers; `failpoint` names a step at which it is to abort.
    ///
    /// # Errors
    /// When it runs already, does not start, or ends at once.
    pub async fn start(&self, site: &Site, failpoint: Option<&str>) -> Result<()> {
        let mut process = self.process.lock().await;
        anyhow::ensure!(process.is_none(), "hostd runs already");
        let hostd = &site.foundation.programs().await?.hostd;
        let hostd = hostd.to_str().context("the target directory is UTF-8")?;
        let mut command = site.netns.command(hostd);
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

    /// Kills it with -9, the only way it is ever stopped.
    ///
    /// # Errors
    /// When it does not run or does not die.
    pub async fn kill(&self) -> Result<()> {
        let child = self.process.lock().await.take();
        let mut child = child.context("hostd does not run")?;
        child.start_kill()?;
        tokio::time::timeout(EXIT_DEADLINE, child.wait())
            .await
            .context("hostd does not die")??;
        Ok(())
    }

    /// Waits until it has died at its failpoint, as if by `kill -9`.
    ///
    /// # Errors
    /// When it goes on living, or ends in any other way.
    pub async fn died(&self) -> Result<()> {
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

    /// The last lines of its log, of all its lives together.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// How long its log is by now, in bytes: a mark for [`Self::log_since`].
    ///
    /// # Errors
    /// When it has none.
    pub fn log_length(&self) -> Result<u64> {
        Ok(std::fs::metadata(&self.log)?.len())
    }

    /// What it has logged since a mark.
    ///
    /// # Errors
    /// When that cannot be read.
    pub fn log_since(&self, mark: u64) -> Result<String> {
        let log = std::fs::read(&self.log)?;
        let since = log.get(usize::try_from(mark)?..).unwrap_or_default();
        Ok(String::from_utf8_lossy(since).into_owned())
    }

    fn appended_log(&self) -> Result<File> {
        Ok(OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)?)
    }
}
