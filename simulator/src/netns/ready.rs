//! How a process tells whoever has started it that it is up: a line at its output, which is a pipe.

use std::io::PipeReader;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe::Receiver;

/// The line.
const READY: &str = "ready\n";

/// A process that has not told in time that it is up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotReady {
    /// It may still come to it.
    #[error("it does not become ready within {} s", .0.as_secs())]
    Late(Duration),
    /// It has let go of its output.
    #[error("it ends before it is ready")]
    Ended,
    /// It is another program.
    #[error("it says something else than that it is ready")]
    SaysElse,
    /// What it says cannot be had.
    #[error("it cannot be heard")]
    Unheard(#[from] std::io::Error),
}

/// Tells that this process is up.
pub(crate) fn say_ready() -> std::io::Result<()> {
    super::say(READY)
}

/// Waits until a process tells that it is up.
///
/// # Errors
/// When it does not.
pub(crate) async fn said_ready(said: PipeReader, deadline: Duration) -> Result<(), NotReady> {
    let mut said = BufReader::new(Receiver::from_owned_fd(said.into())?);
    let mut line = String::new();
    let read = tokio::time::timeout(deadline, said.read_line(&mut line)).await;
    read.map_err(|_elapsed| NotReady::Late(deadline))??;
    match line.as_str() {
        READY => Ok(()),
        "" => Err(NotReady::Ended),
        _ => Err(NotReady::SaysElse),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(7);

    async fn complaint_at(said: PipeReader) -> Option<String> {
        let heard = said_ready(said, DEADLINE).await;
        heard.err().map(|not_ready| not_ready.to_string())
    }

    #[tokio::test(start_paused = true)]
    async fn only_who_says_so_in_time_is_ready() {
        for (line, complaint) in [
            ("ready\n", None),
            ("", Some("it ends before it is ready")),
            (
                "already\n",
                Some("it says something else than that it is ready"),
            ),
        ] {
            let (said, mut output) = std::io::pipe().unwrap();
            output.write_all(line.as_bytes()).unwrap();
            drop(output);

            assert_eq!(complaint_at(said).await.as_deref(), complaint, "{line:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_late() {
        let (said, _output) = std::io::pipe().unwrap();

        let complaint = complaint_at(said).await;

        let late = "it does not become ready within 7 s";
        assert_eq!(complaint.as_deref(), Some(late));
    }
}
