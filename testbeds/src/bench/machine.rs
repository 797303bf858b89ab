//! What a measurement was made on: without it a number means nothing, and a load that was there
//! anyway would pass for hostd's.

use std::fs;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use tokio::process::Command;

use crate::cache::workspace_directory;
use crate::command;

/// Programs that only tell their version.
const DEADLINE: Duration = Duration::from_secs(30);

/// The machine, its software and its load.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Processors that may be used.
    pub cpus: usize,
    /// Kernel of the host.
    pub kernel: String,
    /// Kernel of the guests: package name and version.
    pub guest_kernel: String,
    /// First line of `qemu-system-x86_64 --version`.
    pub qemu: String,
    /// Version of libvirt.
    pub libvirt: String,
    /// The commit that was measured, with `-dirty` if files differed from it.
    pub commit: String,
    /// Load averages over 1, 5 and 15 minutes when the measurement began.
    pub load_before: String,
    /// The same when it had ended.
    pub load_after: String,
}

impl Machine {
    /// This machine, now.
    ///
    /// # Errors
    /// When something does not tell its version.
    pub async fn observe(guest_kernel: &str) -> Result<Self> {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let load = load()?;
        Ok(Self {
            cpus: std::thread::available_parallelism()?.get(),
            kernel: kernel.trim().to_owned(),
            guest_kernel: guest_kernel.to_owned(),
            qemu: first_line(&mut command::words("qemu-system-x86_64 --version")).await?,
            libvirt: first_line(&mut command::words("libvirtd --version")).await?,
            commit: commit().await,
            load_before: load.clone(),
            load_after: load,
        })
    }

    /// Notes the load at the end.
    ///
    /// # Errors
    /// When the kernel does not tell it.
    pub fn observe_end(&mut self) -> Result<()> {
        self.load_after = load()?;
        Ok(())
    }
}

fn load() -> Result<String> {
    let all = fs::read_to_string("/proc/loadavg")?;
    let averages: Vec<&str> = all.split(' ').take(3).collect();
    Ok(averages.join(" "))
}

/// Sources may have come without a repository.
async fn commit() -> String {
    let mut describe = Command::new("git");
    // Run by root, git would otherwise refuse a clone of somebody else's.
    describe
        .args(["-c", "safe.directory=*", "describe", "--always", "--dirty"])
        .args(["--exclude=*", "--abbrev=12"])
        .current_dir(workspace_directory());
    let described = first_line(&mut describe).await;
    described.unwrap_or_else(|_| "unknown".to_owned())
}

async fn first_line(command: &mut Command) -> Result<String> {
    let printed = command::succeed(command, DEADLINE).await?;
    Ok(printed.lines().next().unwrap_or_default().to_owned())
}
