//! QMP's lines in both directions, apart from any socket.
//!
//! QEMU ends every message with a line feed and never sends one inside a message (QEMU's
//! `docs/interop/qmp-spec.rst`, "Protocol Specification"), so a line is a message. What arrives may
//! be newer than this code: unknown events, unknown fields and unknown messages are no error. What
//! is not JSON, or has no end, is: the stream cannot be trusted past it.

use serde_json::{Map, Value, json};

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
#[derive(Debug, PartialEq)]
pub(super) enum Incoming {
    Greeting(QemuVersion),
    Event(QmpEvent),
    Reply(Option<u64>, Outcome),
    Unknown,
}

/// What became of one command.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    Returned(Value),
    Refused { class: ErrorClass, desc: String },
}

/// Makes one command's line.
pub(super) fn encode(name: &str, arguments: Map<String, Value>, id: u64) -> Vec<u8> {
    let mut message = json!({ "execute": name, "id": id });
    if !arguments.is_empty() {
        message["arguments"] = Value::Object(arguments);
    }
    let mut line = message.to_string().into_bytes();
    line.push(b'\n');
    line
}

/// Understands one line. Nesting is capped by `serde_json` at 128 levels.
pub(super) fn decode(line: &[u8]) -> Result<Incoming, Broken> {
    let message: Value = serde_json::from_slice(line).map_err(Broken::Malformed)?;
    let Value::Object(mut message) = message else {
        return Ok(Incoming::Unknown);
    };
    if let Some(Value::String(name)) = message.remove("event") {
        let data = message.remove("data").unwrap_or_default();
        return Ok(Incoming::Event(QmpEvent { name, data }));
    }
    let id = message.get("id").and_then(Value::as_u64);
    if let Some(value) = message.remove("return") {
        return Ok(Incoming::Reply(id, Outcome::Returned(value)));
    }
    if let Some(error) = message.remove("error") {
        return Ok(Incoming::Reply(id, refusal(&error)));
    }
    Ok(match message.get("QMP") {
        Some(greeting) => Incoming::Greeting(version(greeting)),
        None => Incoming::Unknown,
    })
}

fn refusal(error: &Value) -> Outcome {
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

/// Cuts what arrives into lines.
#[derive(Debug, Default)]
pub(super) struct LineBuffer {
    bytes: Vec<u8>,
    /// How many of `bytes` are known to hold no line feed: a long line that trickles in is looked
    /// through once, not once a chunk.
    searched: usize,
}

impl LineBuffer {
    pub(super) fn push(&mut self, chunk: &[u8]) {
        self.bytes.extend_from_slice(chunk);
    }

    /// The next whole line without its end, if there is one.
    pub(super) fn next_line(&mut self) -> Result<Option<Vec<u8>>, Broken> {
        let unsearched = &self.bytes[self.searched..];
        let Some(offset) = unsearched.iter().position(|&byte| byte == b'\n') else {
            self.searched = self.bytes.len();
            return self.refuse_endless();
        };
        let mut line: Vec<u8> = self.bytes.drain(..=self.searched + offset).collect();
        self.searched = 0;
        while line.pop_if(|byte| matches!(*byte, b'\n' | b'\r')).is_some() {}
        Ok(Some(line))
    }

    fn refuse_endless(&self) -> Result<Option<Vec<u8>>, Broken> {
        if self.bytes.len() > MAX_LINE_BYTES {
            return Err(Broken::LineTooLong {
                limit_bytes: MAX_LINE_BYTES,
            });
        }
        Ok(None)
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

        assert_eq!(
            lines.next_line().unwrap().as_deref(),
            Some(&b"{\"return\":1}"[..])
        );
        assert_eq!(lines.next_line().unwrap(), None);
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

    #[test]
    fn messages_and_fields_of_a_newer_qemu_are_no_error() {
        let cases = [
            (r#"{"something":"new"}"#, Incoming::Unknown),
            ("[]", Incoming::Unknown),
            (
                r#"{"return":{},"id":7,"extra":[]}"#,
                Incoming::Reply(Some(7), Outcome::Returned(json!({}))),
            ),
            (
                r#"{"event":"NOT_YET_INVENTED","timestamp":0}"#,
                Incoming::Event(QmpEvent {
                    name: "NOT_YET_INVENTED".into(),
                    data: Value::Null,
                }),
            ),
        ];
        for (line, expected) in cases {
            assert_eq!(decode(line.as_bytes()).unwrap(), expected, "{line}");
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
        let line = br#"{"id":1,"error":{"class":"DeviceNotFound","desc":"Device 'x' not found"}}"#;

        assert_eq!(
            decode(line).unwrap(),
            Incoming::Reply(
                Some(1),
                Outcome::Refused {
                    class: ErrorClass::DeviceNotFound,
                    desc: "Device 'x' not found".into()
                }
            )
        );
    }
}
