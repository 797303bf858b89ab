//! The programs under test, built by cargo from this workspace.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::process::Command;

use crate::cache::{Cache, target_directory, workspace_directory};
use crate::command;

/// A first build of all dependencies on two slow cores.
const BUILD_DEADLINE: Duration = Duration::from_secs(1800);

/// The agent as a guest without libraries can run it: glibc linked in (`crt-static` works on the
/// gnu target and needs no second toolchain).
///
/// # Errors
/// When it does not build.
pub async fn static_guest_agent(cache: &Cache) -> Result<PathBuf> {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    // A directory of its own: other flags would otherwise rebuild the whole workspace.
    let directory = cache.path("static");
    let mut cargo = cargo(&[
        "build",
        "--release",
        "-p",
        "guest-agent",
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

/// hostd and nicctl, with the optimisation that this program itself was built with.
///
/// # Errors
/// When they do not build.
pub async fn host_programs() -> Result<HostPrograms> {
    let target = target_directory();
    let (profile, directory) = if cfg!(debug_assertions) {
        ("dev", target.join("debug"))
    } else {
        ("release", target.join("release"))
    };
    let mut cargo = cargo(&["build", "-p", "hostd", "-p", "nicctl", "--profile", profile]);
    command::succeed(cargo.env("CARGO_TARGET_DIR", &target), BUILD_DEADLINE)
        .await
        .context("building hostd and nicctl")?;
    Ok(HostPrograms {
        hostd: directory.join("hostd"),
        nicctl: directory.join("nicctl"),
    })
}

fn cargo(arguments: &[&str]) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut cargo = Command::new(program);
    cargo
        .args(["--quiet"])
        .args(arguments)
        .current_dir(workspace_directory());
    cargo
}
