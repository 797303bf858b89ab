//! Server-sent events (WHATWG HTML, "server-sent events"), as much of them as hostd sends.
//!
//! ```text
//!   bytes ─► lines ─► data of one event, until an empty line ─► Event
//!              └─ comments and other fields: skipped, but they show that the stream lives
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use super::ClientError;
use super::connection::{Opened, protocol};
use crate::Event;

/// Longest silence: hostd sends a comment every 15 s, so four of them are missing then.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Events as they happen. Dropping it closes the connection.
#[derive(Debug)]
pub struct EventStream {
    opened: Opened,
    parser: Parser,
    ready: VecDeque<String>,
}

impl EventStream {
    pub(super) fn new(opened: Opened) -> Self {
        Self {
            opened,
            parser: Parser::default(),
            ready: VecDeque::new(),
        }
    }

    /// The next event; `None` when hostd has closed the stream. May be dropped and called again
    /// without losing an event.
    ///
    /// # Errors
    /// When the connection breaks or is silent for too long, or an event makes no sense. Nothing
    /// comes after the former two.
    pub async fn next(&mut self) -> Option<Result<Event, ClientError>> {
        loop {
            if let Some(data) = self.ready.pop_front() {
                return Some(serde_json::from_str(&data).map_err(|error| protocol(&error)));
            }
            let bytes = match self.opened.next_bytes(SILENCE_MAX).await? {
                Ok(bytes) => bytes,
                Err(error) => return Some(Err(error)),
            };
            if let Err(too_long) = self.parser.push(&bytes, &mut self.ready) {
                return Some(Err(protocol(&too_long)));
            }
        }
    }
}

/// An event that is longer than any of hostd's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event has more than {} bytes", Parser::EVENT_MAX_BYTES)]
struct TooLong;

/// Turns bytes, however they are cut, into the data of events.
#[derive(Debug, Default)]
struct Parser {
    line: Vec<u8>,
    data: Vec<u8>,
}

impl Parser {
    /// Longest event: a NIC with every list at its cap is a tenth of it.
    const EVENT_MAX_BYTES: usize = 1024 * 1024;

    fn push(&mut self, bytes: &[u8], ready: &mut VecDeque<String>) -> Result<(), TooLong> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if self.line.len() + self.data.len() > Self::EVENT_MAX_BYTES {
                return Err(TooLong);
            }
            if self.line.ends_with(b"\n") {
                self.end_line(ready);
            }
        }
        Ok(())
    }

    fn end_line(&mut self, ready: &mut VecDeque<String>) {
        let line = std::mem::take(&mut self.line);
        let line = line.trim_ascii_end();
        if line.is_empty() {
            let data = std::mem::take(&mut self.data);
            if !data.is_empty() {
                ready.push_back(String::from_utf8_lossy(&data).into_owned());
            }
        } else if let Some(value) = line.strip_prefix(b"data:") {
            if !self.data.is_empty() {
                self.data.push(b'\n');
            }
            self.data
                .extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] =
        b": alive\n\nid: 7\nevent: nic_changed\ndata: {\"a\":\ndata: 1}\n\ndata:x\r\n\r\n\n";

    fn parsed(chunks: &[&[u8]]) -> Vec<String> {
        let mut parser = Parser::default();
        let mut ready = VecDeque::new();
        for chunk in chunks {
            parser.push(chunk, &mut ready).unwrap();
        }
        ready.into()
    }

    #[test]
    fn a_stream_reads_alike_wherever_it_is_cut() {
        let whole = parsed(&[STREAM]);

        assert_eq!(whole, ["{\"a\":\n1}", "x"]);
        for cut in 0..STREAM.len() {
            let (head, tail) = STREAM.split_at(cut);
            assert_eq!(parsed(&[head, tail]), whole, "cut at {cut}");
        }
    }

    #[test]
    fn an_event_without_end_is_given_up_at_the_cap() {
        let mut parser = Parser::default();
        let mut ready = VecDeque::new();
        let line = [b"data: ".as_slice(), &[b'x'; 65_000], b"\n"].concat();

        let pushes = (1..100).find(|_| parser.push(&line, &mut ready) == Err(TooLong));

        assert_eq!(pushes, Some(17));
        assert!(parser.data.len() <= Parser::EVENT_MAX_BYTES);
    }
}
