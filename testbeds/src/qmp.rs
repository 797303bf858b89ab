//! The harness's own line to a QEMU monitor: to look at QEMU independently of hostd, and to
//! sabotage it.
//!
//! Not hostd's client on purpose: what judges must not share code with what is judged.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};

use crate::guest::shell::connected;

/// QEMU answers at once unless its main loop is stuck, or the machine is overloaded.
const DEADLINE: Duration = Duration::from_secs(20);
/// Longest line read; `query-qmp-schema`, QEMU's longest answer, has 200 KiB.
const LINE_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// One QMP session.
#[derive(Debug)]
pub struct Qmp {
    stream: BufReader<Box<dyn QmpStream>>,
}

/// What a session can be held over.
pub trait QmpStream: AsyncRead + AsyncWrite + Unpin + fmt::Debug {}

impl<S: AsyncRead + AsyncWrite + Unpin + fmt::Debug> QmpStream for S {}

impl Qmp {
    /// Connects and negotiates; QEMU may still be starting.
    ///
    /// # Errors
    /// When nobody listens, or something that is not QEMU.
    pub async fn connect(socket: &Path) -> Result<Self> {
        Self::over(connected(socket).await?).await
    }

    /// Negotiates over a stream.
    ///
    /// # Errors
    /// When QEMU is not at its other end.
    pub async fn over(stream: impl QmpStream + 'static) -> Result<Self> {
        let stream: Box<dyn QmpStream> = Box::new(stream);
        let stream = BufReader::new(stream);
        let mut qmp = Self { stream };
        let greeting = tokio::time::timeout(DEADLINE, qmp.line()).await??;
        anyhow::ensure!(
            greeting.get("QMP").is_some(),
            "not a QMP greeting: {greeting}"
        );
        qmp.execute("qmp_capabilities", json!({})).await?;
        Ok(qmp)
    }

    /// Runs one command; events in between are dropped.
    ///
    /// # Errors
    /// When QEMU refuses, with its words, or does not answer in time.
    pub async fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        tokio::time::timeout(DEADLINE, self.exchange(&request))
            .await
            .with_context(|| format!("QEMU did not answer {command} within {DEADLINE:?}"))?
            .with_context(|| format!("QMP command {command}"))
    }

    async fn exchange(&mut self, request: &Value) -> Result<Value> {
        let line = format!("{request}\n");
        self.stream.get_mut().write_all(line.as_bytes()).await?;
        loop {
            let answer = self.line().await?;
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
            if let Some(error) = answer.get("error") {
                bail!("QEMU says: {}", error["desc"].as_str().unwrap_or_default());
            }
        }
    }

    async fn line(&mut self) -> Result<Value> {
        let mut line = Vec::new();
        (&mut self.stream)
            .take(LINE_MAX_BYTES)
            .read_until(b'\n', &mut line)
            .await?;
        anyhow::ensure!(!line.is_empty(), "QEMU closed the connection");
        Ok(serde_json::from_slice(&line)?)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    async fn fake_qemu(answers: &'static str) -> (tempfile::TempDir, Qmp) {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("qmp");
        let listener = UnixListener::bind(&socket).unwrap();
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream
                .write_all(b"{\"QMP\": {}}\r\n{\"return\": {}}\r\n")
                .await
                .unwrap();
            stream.write_all(answers.as_bytes()).await.unwrap();
            tokio::spawn(async move { tokio::io::copy(&mut stream, &mut tokio::io::sink()).await });
        };
        let (qmp, ()) = tokio::join!(Qmp::connect(&socket), serve);
        (directory, qmp.unwrap())
    }

    #[tokio::test]
    async fn an_event_before_the_answer_is_not_taken_for_it() {
        let (_directory, mut qmp) =
            fake_qemu("{\"event\": \"RESET\"}\n{\"return\": {\"running\": true}}\n").await;

        let answer = qmp.execute("query-status", json!({})).await.unwrap();

        assert_eq!(answer, json!({ "running": true }));
    }

    #[tokio::test]
    async fn a_refusal_bears_qemus_own_words() {
        let (_directory, mut qmp) =
            fake_qemu("{\"error\": {\"class\": \"X\", \"desc\": \"Device not found\"}}\n").await;

        let error = qmp
            .execute("device_del", json!({ "id": "x" }))
            .await
            .unwrap_err();

        assert_eq!(
            format!("{error:#}"),
            "QMP command device_del: QEMU says: Device not found"
        );
    }
}
