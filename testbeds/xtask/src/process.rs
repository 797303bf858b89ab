//! Other programs, run so that a failure names the whole command line.
//!
//! No deadline here: these are compilers and package managers at a person's terminal, whose time
//! depends on the machine. The programs that could really hang, the tests, get theirs in `test`.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Context;

/// The root of the workspace: the place every command runs from, wherever it was typed.
pub(crate) fn root() -> anyhow::Result<PathBuf> {
    let manifest_dir = std::env::var_os("CARGO_MANIFEST_DIR")
        .context("CARGO_MANIFEST_DIR is not set: start this through `cargo xtask`")?;
    let root = PathBuf::from(manifest_dir)
        .ancestors()
        .nth(2)
        .map(PathBuf::from);
    root.context("CARGO_MANIFEST_DIR is not two levels below the root of the workspace")
}

/// A command that runs from the root of the workspace and cannot wait for a person's input.
pub(crate) fn command(program: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(program);
    command.current_dir(root()?).stdin(Stdio::null());
    Ok(command)
}

/// The cargo that started us, with the toolchain it chose.
pub(crate) fn cargo() -> anyhow::Result<Command> {
    command(&std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()))
}

/// Runs to the end, output to the terminal; whether it succeeded.
pub(crate) fn succeeds(command: &mut Command) -> anyhow::Result<bool> {
    let status = command
        .status()
        .with_context(|| format!("cannot run `{}`", shown(command)))?;
    Ok(status.success())
}

/// Runs to the end and returns what it printed.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run `{}`", shown(command)))?;
    anyhow::ensure!(
        output.status.success(),
        "`{}` ended with {}",
        shown(command),
        output.status
    );
    String::from_utf8(output.stdout)
        .with_context(|| format!("`{}` printed something other than UTF-8", shown(command)))
}

/// The command line as a person would type it.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Where a program lies, looking also where a plain user's PATH does not: daemons live in sbin.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(sbin)
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}
