//! QEMU's own client library for Python, against fake-qemu.
//!
//! The package `qemu.qmp` is what `qmp-shell` is made of. It comes from the Python package index
//! into a virtual environment below the target directory, once.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use testbeds::cache::target_directory;

use crate::peer::{FakePeer, Peer};
use crate::transcript::{Hotplug, Machine, Runs};

/// The version the session was written with.
const PACKAGE: &str = "qemu.qmp==0.0.6";

const SESSION: &str = include_str!("python/session.py");

/// Holds a session with events, and says what was seen.
///
/// # Errors
/// When the client does not come up, or its session fails.
pub fn session() -> Result<String> {
    let python = environment()?;
    let machine = Machine {
        hotplug: Hotplug::Acpi,
        runs: Runs::Guest,
    };
    let peer = FakePeer::start(machine)?;
    let mut session = Command::new("timeout");
    session
        .arg("60")
        .arg(python)
        .args(["-c", SESSION])
        .arg(peer.socket());
    output(&mut session).context("a session of qemu.qmp")
}

/// The interpreter that knows the package.
fn environment() -> Result<PathBuf> {
    let directory = target_directory().join("python").join(PACKAGE);
    let python = directory.join("bin/python");
    if knows_package(&python) {
        return Ok(python);
    }
    drop(std::fs::remove_dir_all(&directory));
    std::fs::create_dir_all(&directory)?;
    output(
        Command::new("timeout")
            .args(["120", "python3", "-m", "venv"])
            .arg(&directory),
    )?;
    let mut pip = Command::new("timeout");
    pip.arg("300")
        .arg(&python)
        .args(["-m", "pip", "install", "--quiet", PACKAGE]);
    output(&mut pip)?;
    Ok(python)
}

fn knows_package(python: &Path) -> bool {
    let import = Command::new(python)
        .args(["-c", "import qemu.qmp"])
        .output();
    import.is_ok_and(|import| import.status.success())
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(
        output.status.success(),
        "{command:?} ended with {}: {said} {complaint}",
        output.status
    );
    Ok(said)
}
