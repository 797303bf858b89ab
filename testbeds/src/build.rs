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

/// The programs of guests that are namespaces.
#[derive(Debug, Clone)]
pub struct SimulatorPrograms {
    /// What QEMUs, guests and containers are.
    pub simulator: PathBuf,
    /// The agent, with its failpoints.
    pub guest_agent: PathBuf,
}

/// hostd and nicctl, hostd with its failpoints.
///
/// # Errors
/// When they do not build.
pub async fn host_programs(cache: &Cache) -> Result<HostPrograms> {
    let packages = ["hostd", "nicctl"];
    let [hostd, nicctl] = own_programs(cache, packages, Some("hostd/failpoints")).await?;
    Ok(HostPrograms { hostd, nicctl })
}

/// The simulator, and the agent with its failpoints.
///
/// # Errors
/// When they do not build.
pub async fn simulator_programs(cache: &Cache) -> Result<SimulatorPrograms> {
    let agent = static_guest_agent(cache).await?;
    let [simulator] = own_programs(cache, ["simulator"], None).await?;
    Ok(SimulatorPrograms {
        simulator,
        guest_agent: cache
            .keep("guest-agent", &fs::read(agent)?)
            .and_then(executable)?,
    })
}

/// The simulator, beside all that a cloud on a laptop needs.
///
/// # Errors
/// When they do not build.
pub async fn cloud_programs(cache: &Cache) -> Result<PathBuf> {
    let packages = ["simulator", "hostd", "nicctl", "guest-agent"];
    let [simulator, ..] = own_programs(cache, packages, None).await?;
    Ok(simulator)
}

/// Programs of this workspace, each of the package of its name, with the optimisation that this
/// program itself was built with. They are kept apart from cargo's own output, so that a build
/// beside a test run does not change the programs under it.
async fn own_programs<const N: usize>(
    cache: &Cache,
    packages: [&str; N],
    features: Option<&str>,
) -> Result<[PathBuf; N]> {
    let target = target_directory();
    let (profile, directory) = if cfg!(debug_assertions) {
        ("dev", "debug")
    } else {
        ("release", "release")
    };
    let mut cargo = cargo(&["build", "--profile", profile]);
    cargo.args(packages.iter().flat_map(|package| ["-p", package]));
    cargo.args(
        features
            .iter()
            .flat_map(|features| ["--features", features]),
    );
    cargo.env("CARGO_TARGET_DIR", &target);
    let lock = cache.lock().await?;
    command::succeed(&mut cargo, BUILD_DEADLINE)
        .await
        .with_context(|| format!("building {}", packages.join(" and ")))?;
    let mut kept = Vec::new();
    for name in packages {
        let content = fs::read(target.join(directory).join(name))?;
        let path = cache.keep(&format!("{directory}/{name}"), &content)?;
        kept.push(executable(path)?);
    }
    drop(lock);
    kept.try_into()
        .map_err(|_| anyhow::anyhow!("each package has one program"))
}

fn executable(program: PathBuf) -> Result<PathBuf> {
    fs::set_permissions(&program, Permissions::from_mode(0o755))?;
    Ok(program)
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
