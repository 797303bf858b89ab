//! Running other programs: with a deadline, bounded output, and an error that names the program.
//!
//! Everything the harness asks of the machine (apt, ip, virsh, cargo) goes through here, so that
//! no scenario can hang on a program and no program can fill the memory of the test run.

use std::fmt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

/// Most bytes kept of either output stream. `ip -j -d link` of a full host is the largest seen,
/// about 100 KiB.
const OUTPUT_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// What a program left behind.
#[derive(Debug, Clone)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed, as far as it is UTF-8.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

/// A program and its arguments, spelled as a person would type them.
struct Spelled<'a>(&'a Command);

impl fmt::Display for Spelled<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let command = self.0.as_std();
        write!(f, "{}", command.get_program().to_string_lossy())?;
        for argument in command.get_args() {
            write!(f, " {}", argument.to_string_lossy())?;
        }
        Ok(())
    }
}

/// Splits a command line at spaces: for arguments that contain none.
#[must_use]
pub fn words(line: &str) -> Command {
    let mut words = line.split_ascii_whitespace();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    command
}

/// Runs a program to its end, whatever its exit status.
///
/// # Errors
/// When it cannot be started or outlives `deadline`; it is killed then.
pub async fn run(command: &mut Command, deadline: Duration) -> Result<Finished> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command
        .spawn()
        .with_context(|| format!("starting {}", Spelled(command)))?;
    let stdout = child.stdout.take().context("stdout was piped above")?;
    let stderr = child.stderr.take().context("stderr was piped above")?;
    let everything = async { tokio::join!(bounded(stdout), bounded(stderr), child.wait()) };
    let Ok((stdout, stderr, status)) = tokio::time::timeout(deadline, everything).await else {
        bail!("{} took longer than {deadline:?}", Spelled(command));
    };
    Ok(Finished {
        status: status.with_context(|| format!("waiting for {}", Spelled(command)))?,
        stdout: stdout?,
        stderr: stderr?,
    })
}

/// Runs a program that has to succeed and gives what it printed.
///
/// # Errors
/// When it cannot be started, outlives `deadline`, or fails; then with its own complaint.
pub async fn succeed(command: &mut Command, deadline: Duration) -> Result<String> {
    let finished = run(command, deadline).await?;
    if !finished.status.success() {
        bail!(
            "{} failed with {}: {}{}",
            Spelled(command),
            finished.status,
            finished.stderr.trim_end(),
            finished.stdout.trim_end()
        );
    }
    Ok(finished.stdout)
}

async fn bounded(mut stream: impl AsyncRead + Unpin) -> Result<String> {
    let mut kept = Vec::new();
    (&mut stream)
        .take(OUTPUT_MAX_BYTES)
        .read_to_end(&mut kept)
        .await?;
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
    Ok(String::from_utf8_lossy(&kept).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_failing_program_is_named_with_its_own_complaint() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo no luck >&2; exit 3"]);

        let error = succeed(&mut command, SOON).await.unwrap_err().to_string();

        assert!(error.starts_with("sh -c"), "{error}");
        assert!(error.contains("exit status: 3: no luck"), "{error}");
    }

    #[tokio::test]
    async fn a_program_that_outlives_its_deadline_is_an_error() {
        let error = run(&mut words("sleep 1000"), Duration::from_millis(20))
            .await
            .unwrap_err()
            .to_string();

        assert_eq!(error, "sleep 1000 took longer than 20ms");
    }

    #[tokio::test]
    async fn output_beyond_the_bound_is_dropped_without_blocking_the_program() {
        let mut command = Command::new("head");
        command.args(["-c", "6000000", "/dev/zero"]);

        let finished = run(&mut command, SOON).await.unwrap();

        assert!(finished.status.success());
        assert_eq!(finished.stdout.len() as u64, OUTPUT_MAX_BYTES);
    }
}
