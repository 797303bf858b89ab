//! A process of `qemu-system-x86_64`, emulated, in a network namespace of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// A process with one monitor; killed when dropped.
pub(crate) struct QemuProcess {
    directory: TempDir,
    socket: PathBuf,
    child: Child,
}

impl QemuProcess {
    /// Starts a q35 without anything in it but what `configure` adds. It is given the directory for
    /// its files.
    pub(crate) fn start(configure: impl FnOnce(&mut Command, &Path) -> Result<()>) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let socket = directory.path().join("monitor");
        // util-linux' own: its namespace goes with the process.
        let mut command = Command::new("unshare");
        command.args([
            "--net",
            "qemu-system-x86_64",
            "-accel",
            "tcg",
            "-machine",
            "q35",
        ]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
        let monitor = format!("unix:{},server=on,wait=off", socket.display());
        command.args(["-qmp", &monitor]);
        configure(&mut command, directory.path())?;
        let log = std::fs::File::create(directory.path().join("log"))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("starting qemu-system-x86_64")?;
        Ok(Self {
            directory,
            socket,
            child,
        })
    }

    /// Where its files are.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where its monitor listens.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for QemuProcess {
    fn drop(&mut self) {
        // It may have been told to quit.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
