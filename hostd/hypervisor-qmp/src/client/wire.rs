//! QMP's lines in both directions, apart from any socket.
//!
//! QEMU ends every message with a line feed and never sends one inside a message (QEMU's
//! `docs/interop/qmp-spec.rst`, "Protocol Specification"), so a line is a message. What arrives may
//! be newer than this code: unknown events, unknown fields and unknown messages are no error. What
//! is not JSON, or has no end, is: the stream cannot be trusted past it.

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::error::{Broken, ErrorClass};

/// Longest line accepted, in bytes. The longest answer asked for here is a list of devices, some
/// hundred bytes each; 4 MiB leave room for ten thousand of them.
pub const MAX_LINE_BYTES: usize = 4 << 20;

/// What QEMU says first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct QemuVersion {
    /// 7 of 7.2.22.
    pub major: u64,
    /// 2 of 7.2.22.
    pub minor: u64,
}

/// Something QEMU reports unasked, passed on as it came.
#[derive(Debug, Clone, PartialEq)]
pub struct QmpEvent {
    /// Such as `DEVICE_DELETED`.
    pub name: String,
    /// Its data; `Null` where it has none.
    pub data: Value,
}

/// One message of QEMU's.
#[derive(Debug)]
pub(super) enum Incoming {
    Greeting(QemuVersion),
    Event(QmpEvent),
    Reply(Option<u64>, Outcome),
    Unknown,
}

/// What became of one command.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The answer as it came: whoever asked knows what it is made of.
    Returned(Box<RawValue>),
    Refused {
        class: ErrorClass,
        desc: String,
    },
}

/// One command, as it is written.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Map::is_empty")]
    arguments: &'a Map<String, Value>,
    execute: &'a str,
    id: u64,
}

/// Makes one command's line.
pub(super) fn encode(name: &str, arguments: &Map<String, Value>, id: u64) -> Vec<u8> {
    let line = Line {
        arguments,
        execute: name,
        id,
    };
    let mut line = serde_json::to_vec(&line).expect("a command is made of plain values");
    line.push(b'\n');
    line
}

/// One message, in parts that are not looked into.
#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    event: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "return", deserialize_with = "even_null")]
    returned: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow, rename = "QMP")]
    greeting: Option<&'a RawValue>,
}

/// A field that is there and null is an answer, one that is not there is none.
fn even_null<'de, D: Deserializer<'de>>(from: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

/// Understands one line, as far as it says for whom it is. What is inside is passed over without
/// climbing into it; whoever reads it is stopped by `serde_json` at 128 levels.
pub(super) fn decode(line: &[u8]) -> Result<Incoming, Broken> {
    if line.trim_ascii_start().first() != Some(&b'{') {
        let _json: IgnoredAny = serde_json::from_slice(line).map_err(Broken::Malformed)?;
        return Ok(Incoming::Unknown);
    }
    let message: Message<'_> = serde_json::from_slice(line).map_err(Broken::Malformed)?;
    if let Some(name) = message.event.and_then(read::<String>) {
        let data = message.data.and_then(read).unwrap_or_default();
        return Ok(Incoming::Event(QmpEvent { name, data }));
    }
    let id = message.id.and_then(read::<u64>);
    if let Some(value) = message.returned {
        return Ok(Incoming::Reply(id, Outcome::Returned(value.to_owned())));
    }
    if let Some(error) = message.error {
        return Ok(Incoming::Reply(id, refusal(error)));
    }
    Ok(match message.greeting.and_then(read::<Value>) {
        Some(greeting) => Incoming::Greeting(version(&greeting)),
        None => Incoming::Unknown,
    })
}

/// A part as what it should be; `None` when it is something else.
fn read<'a, T: Deserialize<'a>>(part: &'a RawValue) -> Option<T> {
    serde_json::from_str(part.get()).ok()
}

fn refusal(error: &RawValue) -> Outcome {
    let error: Value = read(error).unwrap_or_default();
    let text = |field| error[field].as_str().unwrap_or_default().to_owned();
    Outcome::Refused {
        class: ErrorClass::from(text("class")),
        desc: text("desc"),
    }
}

fn version(greeting: &Value) -> QemuVersion {
    let part = |field| greeting["version"]["qemu"][field].as_u64().unwrap_or(0);
    QemuVersion {
        major: part("major"),
        minor: part("minor"),
    }
}

/// Cuts what arrives into lines. While nothing waits to be cut it holds no memory.
#[derive(Debug, Default)]
pub(super) struct LineBuffer {
    bytes: Vec<u8>,
    /// How many of `bytes` have been given out.
    taken: usize,
    /// How many of `bytes` are known to hold no further line feed: a long line that trickles in is
    /// looked through once, not once a chunk.
    searched: usize,
}

impl LineBuffer {
    pub(super) fn push(&mut self, chunk: &[u8]) {
        self.bytes.extend_from_slice(chunk);
    }

    /// The next whole line without its end, if there is one.
    pub(super) fn next_line(&mut self) -> Result<Option<&[u8]>, Broken> {
        let unsearched = &self.bytes[self.searched..];
        let Some(offset) = unsearched.iter().position(|&byte| byte == b'\n') else {
            self.let_go();
            return self.refuse_endless().map(|()| None);
        };
        let end = self.searched + offset;
        let mut line = &self.bytes[self.taken..end];
        self.taken = end + 1;
        self.searched = self.taken;
        while let Some(shorter) = line.strip_suffix(b"\r") {
            line = shorter;
        }
        Ok(Some(line))
    }

    /// Keeps only what no line has been made of yet.
    fn let_go(&mut self) {
        if self.taken == self.bytes.len() {
            self.bytes = Vec::new();
        } else {
            self.bytes.drain(..self.taken);
        }
        self.taken = 0;
        self.searched = self.bytes.len();
    }

    fn refuse_endless(&self) -> Result<(), Broken> {
        if self.bytes.len() > MAX_LINE_BYTES {
            return Err(Broken::LineTooLong {
                limit_bytes: MAX_LINE_BYTES,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_whole_only_when_its_end_has_come() {
        let mut lines = LineBuffer::default();
        lines.push(b"{\"ret");
        assert_eq!(lines.next_line().unwrap(), None);

        lines.push(b"urn\":1}\r\n{\"next");

        assert_eq!(lines.next_line().unwrap(), Some(&b"{\"return\":1}"[..]));
        assert_eq!(lines.next_line().unwrap(), None);
        lines.push(b"\":2}\n");
        assert_eq!(lines.next_line().unwrap(), Some(&b"{\"next\":2}"[..]));
        assert_eq!(lines.next_line().unwrap(), None);
        assert_eq!(lines.bytes.capacity(), 0);
    }

    #[test]
    fn a_line_without_end_is_refused_at_the_limit() {
        let mut lines = LineBuffer::default();
        lines.push(&vec![b' '; MAX_LINE_BYTES]);
        assert_eq!(lines.next_line().unwrap(), None);

        lines.push(b" ");

        let refusal = lines.next_line().unwrap_err();
        assert!(matches!(refusal, Broken::LineTooLong { .. }), "{refusal}");
    }

    fn described(line: &str) -> String {
        match decode(line.as_bytes()).unwrap() {
            Incoming::Greeting(version) => {
                format!("greeting of {}.{}", version.major, version.minor)
            }
            Incoming::Event(event) => format!("event {} {}", event.name, event.data),
            Incoming::Reply(id, Outcome::Returned(value)) => format!("{id:?} returned {value}"),
            Incoming::Reply(id, Outcome::Refused { class, desc }) => {
                format!("{id:?} refused {class:?} {desc}")
            }
            Incoming::Unknown => "unknown".to_owned(),
        }
    }

    #[test]
    fn messages_and_fields_of_a_newer_qemu_are_no_error() {
        let cases = [
            (r#"{"something":"new"}"#, "unknown"),
            ("[]", "unknown"),
            (" 7 ", "unknown"),
            (r#"{"event":7}"#, "unknown"),
            (r#"{"return":{},"id":7,"extra":[]}"#, "Some(7) returned {}"),
            (r#"{"return":null,"id":7}"#, "Some(7) returned null"),
            (r#"{"return":[],"id":"x"}"#, "None returned []"),
            (
                r#"{"event":"NOT_YET_INVENTED","timestamp":0}"#,
                "event NOT_YET_INVENTED null",
            ),
            (
                r#"{"QMP":{"version":{"qemu":{"major":7,"minor":2}}}}"#,
                "greeting of 7.2",
            ),
        ];
        for (line, expected) in cases {
            assert_eq!(described(line), expected, "{line}");
        }
    }

    #[test]
    fn a_tower_of_brackets_is_refused_and_not_climbed() {
        let tower = "[".repeat(100_000);

        assert!(matches!(
            decode(tower.as_bytes()),
            Err(Broken::Malformed(_))
        ));
    }

    #[test]
    fn a_refusal_keeps_qemus_class_and_words() {
        let line = r#"{"id":1,"error":{"class":"DeviceNotFound","desc":"Device 'x' not found"}}"#;

        assert_eq!(
            described(line),
            "Some(1) refused DeviceNotFound Device 'x' not found"
        );
    }
}
