//! Values to the lines QEMU sends: a space behind colons and commas, nothing beyond ASCII, and a
//! carriage return before the line feed (`monitor_puts` in QEMU's `monitor/monitor.c`).

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{Formatter, Serializer};

/// One message as a line.
pub(crate) fn line(message: &Value) -> Vec<u8> {
    let mut line = Vec::with_capacity(128);
    let mut serializer = Serializer::with_formatter(&mut line, Qemu);
    message
        .serialize(&mut serializer)
        .expect("a value in memory is written to memory");
    line.extend_from_slice(b"\r\n");
    line
}

struct Qemu;

impl Formatter for Qemu {
    fn begin_array_value<W: ?Sized + Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { to.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { to.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        to.write_all(b": ")
    }

    fn write_f64<W: ?Sized + Write>(&mut self, to: &mut W, value: f64) -> io::Result<()> {
        // `%.17g` in QEMU's `qobject/json-writer.c`: a whole number has no fraction.
        write!(to, "{value}")
    }

    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        to: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if fragment.is_ascii() {
            return to.write_all(fragment.as_bytes());
        }
        for character in fragment.chars() {
            if character.is_ascii() {
                write!(to, "{character}")?;
                continue;
            }
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(to, "\\u{unit:04X}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_line_looks_as_qemus_own() {
        let message = json!({"id": ["é😀", 3.0, 1.5, null], "return": {}});

        let expected = "{\"id\": [\"\\u00E9\\uD83D\\uDE00\", 3, 1.5, null], \"return\": {}}\r\n";
        assert_eq!(String::from_utf8(line(&message)).unwrap(), expected);
    }
}
