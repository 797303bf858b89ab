//! What a measurement was made on: without it a number means nothing, and a load that was there
//! anyway would pass for hostd's.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use tokio::process::Command;

use crate::cache::workspace_directory;
use crate::command;

/// Programs that only tell their version.
const DEADLINE: Duration = Duration::from_secs(30);

/// A machine and its load.
#[derive(Debug, Clone, Serialize)]
pub struct Computer {
    /// Processors that may be used.
    pub cpus: usize,
    /// Kernel of the host.
    pub kernel: String,
    /// The commit that was measured, with `-dirty` if files differed from it.
    pub commit: String,
    /// Load averages over 1, 5 and 15 minutes when the measurement began.
    pub load_before: String,
    /// The same when it had ended.
    pub load_after: String,
}

/// The machine, what it runs VMs with, and its load.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// The machine itself.
    #[serde(flatten)]
    pub computer: Computer,
    /// Kernel of the guests: package name and version.
    pub guest_kernel: String,
    /// First line of `qemu-system-x86_64 --version`.
    pub qemu: String,
    /// Version of libvirt.
    pub libvirt: String,
}

impl Computer {
    /// This machine, now.
    ///
    /// # Errors
    /// When the kernel does not tell its load.
    pub async fn observe() -> Result<Self> {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let load = load()?;
        Ok(Self {
            cpus: std::thread::available_parallelism()?.get(),
            kernel: kernel.trim().to_owned(),
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

impl fmt::Display for Computer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            cpus,
            load_before,
            load_after,
            commit,
            kernel,
        } = self;
        write!(
            f,
            "{cpus} CPUs, load {load_before} → {load_after}, Linux {kernel}, commit {commit}"
        )
    }
}

impl Machine {
    /// This machine, now.
    ///
    /// # Errors
    /// When something does not tell its version.
    pub async fn observe(guest_kernel: &str) -> Result<Self> {
        Ok(Self {
            computer: Computer::observe().await?,
            guest_kernel: guest_kernel.to_owned(),
            qemu: first_line(&mut command::words("qemu-system-x86_64 --version")).await?,
            libvirt: first_line(&mut command::words("libvirtd --version")).await?,
        })
    }
}

/// What holds a directory: type and source of its file system, as `/proc/self/mountinfo` says.
///
/// # Errors
/// When the kernel does not tell.
pub fn disk_of(directory: &Path) -> Result<String> {
    let directory = directory.canonicalize()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(disk_in(&mounts, &directory).unwrap_or_else(|| "unknown".to_owned()))
}

/// Of several mounts over a directory the deepest counts, and of those on one place the last.
fn disk_in(mounts: &str, directory: &Path) -> Option<String> {
    let mounts = mounts.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let point = Path::new(before.split(' ').nth(4)?);
        let mut after = after.split(' ');
        let (kind, source) = (after.next()?, after.next()?);
        let depth = point.components().count();
        let over = directory.starts_with(point);
        over.then(|| (depth, format!("{kind} on {source}")))
    });
    let deepest = mounts.max_by_key(|(depth, _)| *depth);
    deepest.map(|(_, disk)| disk)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_on_the_deepest_mount_above_it() {
        let mounts = "21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
                      22 21 0:20 / /run rw shared:2 - tmpfs tmpfs rw\n\
                      23 22 254:1 / /run/data rw - xfs /dev/vdb rw\n\
                      24 21 0:21 / /runner rw - tmpfs other rw\n";
        let disk = |directory| disk_in(mounts, Path::new(directory));

        assert_eq!(disk("/home").as_deref(), Some("ext4 on /dev/vda"));
        assert_eq!(disk("/run/lock").as_deref(), Some("tmpfs on tmpfs"));
        assert_eq!(disk("/run/data/x").as_deref(), Some("xfs on /dev/vdb"));
    }
}
