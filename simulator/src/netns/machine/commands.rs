//! Where a command to a monitor ends: what is asked at once is counted one by one.
//!
//! ```text
//!   {"execute": "a"} {"execute": "b", "arguments": {"c": "}"}}
//!                  ▲                                         ▲  back at the outermost level
//! ```

/// What has been read of the command that has begun.
#[derive(Debug, Default)]
pub(super) struct Commands {
    depth: usize,
    /// What ends the text that has begun; QEMU takes both kinds of quotes (`qobject/json-lexer.c`).
    quote: Option<u8>,
    escape: Escape,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    /// The next byte ends no text.
    Next,
}

impl Commands {
    /// How many of these bytes, which follow those before, belong to the command that has begun;
    /// `None` when it goes on.
    pub(super) fn end(&mut self, bytes: &[u8]) -> Option<usize> {
        let end = bytes.iter().position(|byte| self.ends_with(*byte));
        end.map(|last| last + 1)
    }

    fn ends_with(&mut self, byte: u8) -> bool {
        if let Some(quote) = self.quote {
            match (self.escape, byte) {
                (Escape::Next, _) => self.escape = Escape::None,
                (Escape::None, b'\\') => self.escape = Escape::Next,
                (Escape::None, byte) if byte == quote => self.quote = None,
                (Escape::None, _) => {}
            }
            return false;
        }
        match byte {
            b'"' | b'\'' => self.quote = Some(byte),
            b'{' => self.depth += 1,
            b'}' => {
                self.depth = self.depth.saturating_sub(1);
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(pieces: &[&str]) -> Vec<Option<usize>> {
        let mut commands = Commands::default();
        let end = |piece: &&str| commands.end(piece.as_bytes());
        pieces.iter().map(end).collect()
    }

    #[test]
    fn a_command_ends_at_the_outermost_level() {
        assert_eq!(ends(&["{\"a\": {}} {\"b\": 1}"]), [Some(9)]);
        assert_eq!(
            ends(&["{\"a\"", ": {", "}", "}\r\n"]),
            [None, None, None, Some(1)]
        );
        assert_eq!(ends(&["\n", "{}"]), [None, Some(2)]);
    }

    #[test]
    fn what_is_in_a_text_ends_nothing() {
        assert_eq!(ends(&["{\"}\\\"}\\\\\": '}\"'}"]), [Some(16)]);
    }
}
