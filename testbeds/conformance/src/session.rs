//! One conversation with one monitor, and everything that it said.

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

/// A monitor answers at once, unless its machine is loaded or a guest takes its native six seconds.
const DEADLINE: Duration = Duration::from_secs(30);

/// Longest line taken, in bytes: many times QEMU's schema.
const LINE_BYTES_MAX: usize = 4 << 20;

/// A connection as its client.
#[derive(Debug)]
pub(crate) struct Session {
    stream: UnixStream,
    read: Vec<u8>,
    questions: u64,
}

impl Session {
    /// Connects as soon as somebody listens; the greeting is not read yet.
    pub(crate) fn connect(socket: &Path) -> Result<Self> {
        let begun = Instant::now();
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(error) if begun.elapsed() > DEADLINE => {
                    return Err(error).context(format!("connecting to {}", socket.display()));
                }
                // Slept, because no event tells when QEMU listens
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        Ok(Self {
            stream,
            read: Vec::new(),
            questions: 0,
        })
    }

    pub(crate) fn send(&mut self, bytes: &[u8], descriptor: Option<OwnedFd>) -> Result<()> {
        let Some(descriptor) = descriptor else {
            return Ok(self.stream.write_all(bytes)?);
        };
        let descriptors = [descriptor.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        anyhow::ensure!(
            control.push(SendAncillaryMessage::ScmRights(&descriptors)),
            "no room for a descriptor"
        );
        let sent = sendmsg(
            &self.stream,
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        )?;
        anyhow::ensure!(sent == bytes.len(), "a line was sent in part");
        Ok(())
    }

    /// The next message, or `None` when the monitor has closed.
    pub(crate) fn message(&mut self) -> Result<Option<Value>> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                let message = serde_json::from_slice(&line);
                return message.map(Some).with_context(|| {
                    format!("a line that is no JSON: {}", String::from_utf8_lossy(&line))
                });
            }
            anyhow::ensure!(self.read.len() < LINE_BYTES_MAX, "a line without end");
            let mut chunk = [0; 65536];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(None),
                Ok(count) => self.read.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                    return Ok(None);
                }
                Err(error) => return Err(error).context("waiting for the monitor"),
            }
        }
    }

    /// Messages up to the answer to the last command.
    pub(crate) fn until_answered(&mut self) -> Result<Vec<Value>> {
        self.until(|message| message.get("event").is_none())
    }

    /// Messages up to one that is looked for.
    pub(crate) fn until(&mut self, is_it: impl Fn(&Value) -> bool) -> Result<Vec<Value>> {
        let mut messages = Vec::new();
        loop {
            let message = self.message();
            let message = message.with_context(|| format!("after {messages:?}"))?;
            let Some(message) = message else {
                bail!("the monitor has closed after {messages:?}");
            };
            let found = is_it(&message);
            messages.push(message);
            if found {
                return Ok(messages);
            }
        }
    }

    /// Messages up to the answer to a question of the harness's own, which is not among them.
    pub(crate) fn until_quiet(&mut self) -> Result<Vec<Value>> {
        self.questions += 1;
        let id = format!("is that all? ({})", self.questions);
        let question = json!({"execute": "query-status", "id": id});
        self.send(format!("\n{question}\n").as_bytes(), None)?;
        let mut messages = self.until(|message| message["id"] == id.as_str())?;
        messages.pop();
        Ok(messages)
    }

    /// Runs a command of the harness's own.
    pub(crate) fn ask(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let request = json!({"execute": command, "arguments": arguments});
        self.send(format!("{request}\n").as_bytes(), None)?;
        let answer = self.until_answered()?.pop().unwrap_or_default();
        match answer.get("return") {
            Some(value) => Ok(value.clone()),
            None => bail!("{command} {arguments}: {answer}"),
        }
    }
}
