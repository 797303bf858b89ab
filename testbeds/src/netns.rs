//! A network namespace of the host for each world: its taps, bridges and daemons never meet the
//! machine's own, nor another world's.
//!
//! Named `nft-<pid>-<n>`, so that a later run recognises what a killed one left behind and sweeps
//! it away: every process inside, then the namespace, then the directory of the same name.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use simulator::netns::HostDisk;
use tokio::process::Command;

use crate::command;

const PREFIX: &str = "nft-";
/// Where in a world's directory its disk is.
const DISK: &str = "disk";
/// `ip` answers in milliseconds; under a full load of builds and guests it may wait its turn.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long processes may take to die before their namespace is removed anyway.
const DEATH_DEADLINE: Duration = Duration::from_secs(10);

/// A network namespace and a directory, both gone when this is closed or dropped.
#[derive(Debug)]
pub struct HostNetns {
    name: String,
    directory: PathBuf,
}

impl HostNetns {
    /// Makes one, with the loopback up.
    ///
    /// # Errors
    /// When the caller may not, or `ip` is missing.
    pub async fn make() -> Result<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        let directory = directory_of(&name);
        fs::create_dir(&directory).with_context(|| format!("making {}", directory.display()))?;
        let netns = Self { name, directory };
        netns.ip_on_host(&["netns", "add", &netns.name]).await?;
        netns.ip("link set lo up").await?;
        Ok(netns)
    }

    /// Its name under `/run/netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where everything of this world is kept; short enough for sockets.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where a disk of its own can be mounted.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        self.directory.join(DISK)
    }

    /// A program to be run inside, with a `/sys` that shows the namespace's links.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs `ip` inside; `arguments` are split at spaces.
    ///
    /// # Errors
    /// When it fails.
    pub async fn ip(&self, arguments: &str) -> Result<String> {
        let inside = ["-n", &self.name];
        let arguments: Vec<&str> = inside.into_iter().chain(arguments.split(' ')).collect();
        self.ip_on_host(&arguments).await
    }

    /// Runs a program inside and gives what it printed; `line` is split at spaces.
    ///
    /// # Errors
    /// When it fails.
    pub async fn run(&self, line: &str) -> Result<String> {
        let mut words = line.split_ascii_whitespace();
        let mut command = self.command(words.next().unwrap_or_default());
        command::succeed(command.args(words), DEADLINE).await
    }

    async fn ip_on_host(&self, arguments: &[&str]) -> Result<String> {
        command::succeed(Command::new("ip").args(arguments), DEADLINE).await
    }

    /// Kills what runs inside and removes namespace and directory.
    pub fn close(self) {
        drop(self);
    }
}

impl Drop for HostNetns {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

fn directory_of(name: &str) -> PathBuf {
    std::env::temp_dir().join(name)
}

/// Removes the worlds of test runs that no longer run.
pub fn sweep() {
    let names = |directory: &Path| -> Vec<String> {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    };
    let mut left = names(Path::new("/run/netns"));
    left.extend(names(&std::env::temp_dir()));
    left.sort();
    left.dedup();
    for name in left {
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove(&name);
        }
    }
}

/// Best effort by nature: it runs when a test run ends, however it ends. What stays is swept by
/// the next run.
fn remove(name: &str) {
    let deadline = std::time::Instant::now() + DEATH_DEADLINE;
    loop {
        let pids = processes_in(name);
        if pids.is_empty() || std::time::Instant::now() > deadline {
            break;
        }
        for pid in pids {
            // A process that is gone already is what is wanted.
            let _ = kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(ip_now(&["netns", "del", name]));
    HostDisk::unmount(&directory_of(name).join(DISK));
    drop(fs::remove_dir_all(directory_of(name)));
}

fn processes_in(name: &str) -> Vec<Pid> {
    let listing = ip_now(&["netns", "pids", name]).unwrap_or_default();
    let pid = |line: &str| Pid::from_raw(line.trim().parse().ok()?);
    listing.lines().filter_map(pid).collect()
}

/// `ip` without a runtime, for use while dropping.
fn ip_now(arguments: &[&str]) -> Option<String> {
    let seconds = DEADLINE.as_secs().to_string();
    let output = std::process::Command::new("timeout")
        .args([seconds.as_str(), "ip"])
        .args(arguments)
        .output()
        .ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}
