//! The programs under test, built by cargo from this workspace.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::process::Command;

use crate::cache::{Cache, target_directory, workspace_directory};
use crate::command;

/// A first build of all dependencies on two slow cores.
const BUILD_DEADLINE: Duration = Duration::from_secs(1800);

/// The agent as a guest without libraries can run it, with its failpoints: glibc linked in
/// (`crt-static` works on the gnu target and needs no second toolchain).
///
/// # Errors
/// When it does not build.
pub async fn static_guest_agent(cache: &Cache) -> Result<PathBuf> {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    // A directory of its own: other flags would otherwise rebuild the whole workspace.
    let directory = cache.path("static");
    fs::create_dir_all(&directory)?;
    if let Some((user, group)) = caller_of_sudo() {
        chown(&directory, Some(user), Some(group))?;
    }
    let mut cargo = cargo(&[
        "build",
        "--release",
        "-p",
        "guest-agent",
        "--features",
        "failpoints",
        "--target",
        TARGET,
    ]);
    cargo
        .env(
            "RUSTFLAGS",
            "-C target-feature=+crt-static -C strip=symbols",
        )
        .env("CARGO_TARGET_DIR", &directory);
    command::succeed(&mut cargo, BUILD_DEADLINE)
        .await
        .context("building the static guest-agent")?;
    Ok(directory.join(TARGET).join("release/guest-agent"))
}

/// The programs that run on the host.
#[derive(Debug, Clone)]
pub struct HostPrograms {
    /// The daemon.
    pub hostd: PathBuf,
    /// Its command line.
    pub nicctl: PathBuf,
}

/// hostd and nicctl, with the optimisation that this program itself was built with, and hostd with
/// its failpoints. They are kept apart from cargo's own output, so that a build beside a test run
/// does not change the programs under it.
///
/// # Errors
/// When they do not build.
pub async fn host_programs(cache: &Cache) -> Result<HostPrograms> {
    let target = target_directory();
    let (profile, directory) = if cfg!(debug_assertions) {
        ("dev", "debug")
    } else {
        ("release", "release")
    };
    let packages = [
        "-p",
        "hostd",
        "-p",
        "nicctl",
        "--features",
        "hostd/failpoints",
    ];
    let mut cargo = cargo(&["build", "--profile", profile]);
    cargo.args(packages).env("CARGO_TARGET_DIR", &target);
    let lock = cache.lock().await?;
    command::succeed(&mut cargo, BUILD_DEADLINE)
        .await
        .context("building hostd and nicctl")?;
    let keep = |name: &str| {
        let program = target.join(directory).join(name);
        let content = fs::read(&program)?;
        let kept = cache.keep(&format!("{directory}/{name}"), &content)?;
        fs::set_permissions(&kept, Permissions::from_mode(0o755))?;
        anyhow::Ok(kept)
    };
    let programs = HostPrograms {
        hostd: keep("hostd")?,
        nicctl: keep("nicctl")?,
    };
    drop(lock);
    Ok(programs)
}

fn cargo(arguments: &[&str]) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut cargo = Command::new(program);
    cargo
        .args(["--quiet"])
        .args(arguments)
        .current_dir(workspace_directory());
    if let Some((user, group)) = caller_of_sudo() {
        cargo.uid(user).gid(group);
    }
    cargo
}

/// User and group of who called sudo in a tree of their own: what cargo writes there must stay
/// theirs, or their next build is refused.
fn caller_of_sudo() -> Option<(u32, u32)> {
    let id = |name| std::env::var(name).ok()?.parse().ok();
    let (user, group) = (id("SUDO_UID")?, id("SUDO_GID")?);
    let owner = fs::metadata(workspace_directory()).ok()?.uid();
    (user == owner).then_some((user, group))
}
