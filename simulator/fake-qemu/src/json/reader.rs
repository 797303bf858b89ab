//! A stream of bytes to messages, as QEMU's `qobject/json-streamer.c` finds them.

use std::ops::Range;

use serde_json::Value;

use super::lexer::{Kind, State, Step, plain_text, step};
use super::parser;

/// Most bytes of tokens in a message, and most of one token (`MAX_TOKEN_SIZE` in QEMU's
/// `json-streamer.c`).
const TOKEN_BYTES_MAX: usize = 64 << 20;
/// Most tokens in a message (`MAX_TOKEN_COUNT` there).
const TOKENS_MAX: usize = 2 << 20;
/// Deepest nesting of brackets (`MAX_NESTING` there).
const NESTING_MAX: i32 = 1 << 10;

/// What was wrong with a message, in QEMU's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct JsonError(pub(super) String);

impl JsonError {
    pub(super) fn parse(what: impl std::fmt::Display) -> Self {
        Self(format!("JSON parse error, {what}"))
    }
}

/// Where a token's text lies.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) text: Range<usize>,
}

/// Cuts a stream of bytes into messages. Between messages it holds next to nothing.
#[derive(Debug, Default)]
pub struct MessageReader {
    state: State,
    /// Text of all tokens of the message so far, and of the one that is being read.
    text: Vec<u8>,
    token_start: usize,
    tokens: Vec<Token>,
    braces: i32,
    brackets: i32,
}

impl MessageReader {
    /// Takes bytes in; every message that ends in them is added to `messages`.
    pub fn feed(&mut self, bytes: &[u8], messages: &mut Vec<Result<Value, JsonError>>) {
        let mut rest = bytes;
        while let Some((&byte, after)) = rest.split_first() {
            let plain = plain_text(self.state, rest).min(self.room_in_token());
            if plain > 0 {
                self.text.extend_from_slice(&rest[..plain]);
                rest = &rest[plain..];
                continue;
            }
            while !self.take(byte, messages) {}
            rest = after;
        }
    }

    /// Bytes that the token being read may have besides.
    fn room_in_token(&self) -> usize {
        TOKEN_BYTES_MAX.saturating_sub(self.text.len() - self.token_start)
    }

    /// One step; whether the byte has been used up.
    fn take(&mut self, byte: u8, messages: &mut Vec<Result<Value, JsonError>>) -> bool {
        match step(self.state, byte) {
            Step::Goes(state) => {
                self.text.push(byte);
                self.state = state;
                if self.text.len() - self.token_start > TOKEN_BYTES_MAX {
                    messages.push(Err(self.give_up("JSON token size limit exceeded")));
                }
                true
            }
            Step::Ends(kind) => {
                self.text.push(byte);
                self.token(kind, messages);
                true
            }
            Step::EndedBefore(kind) => {
                self.token(kind, messages);
                false
            }
            Step::Skipped(state) => {
                self.state = state;
                true
            }
            Step::Recovered => {
                self.state = State::Start;
                false
            }
            Step::Stray => {
                self.text.push(byte);
                let stray = c_string(&self.text[self.token_start..]);
                messages.push(Err(JsonError::parse(format_args!("stray '{stray}'"))));
                self.forget();
                self.state = State::Recovery;
                true
            }
        }
    }

    fn token(&mut self, kind: Kind, messages: &mut Vec<Result<Value, JsonError>>) {
        let text = self.token_start..self.text.len();
        self.token_start = self.text.len();
        self.state = State::Start;
        match kind {
            Kind::OpenBrace => self.braces += 1,
            Kind::CloseBrace => self.braces -= 1,
            Kind::OpenBracket => self.brackets += 1,
            Kind::CloseBracket => self.brackets -= 1,
            Kind::Colon
            | Kind::Comma
            | Kind::Integer
            | Kind::Float
            | Kind::Keyword
            | Kind::String => {}
        }
        if let Some(limit) = self.limit_passed() {
            messages.push(Err(self.give_up(limit)));
            return;
        }
        self.tokens.push(Token { kind, text });
        let open = self.braces > 0 || self.brackets > 0;
        if open && self.braces >= 0 && self.brackets >= 0 {
            return;
        }
        messages.push(parser::parse(&self.tokens, &self.text));
        self.forget();
    }

    fn limit_passed(&self) -> Option<&'static str> {
        if self.text.len() + 1 > TOKEN_BYTES_MAX {
            return Some("JSON token size limit exceeded");
        }
        if self.tokens.len() + 1 > TOKENS_MAX {
            return Some("JSON token count limit exceeded");
        }
        (self.braces + self.brackets > NESTING_MAX).then_some("JSON nesting depth limit exceeded")
    }

    fn give_up(&mut self, limit: &str) -> JsonError {
        self.forget();
        self.state = State::Start;
        JsonError(limit.to_owned())
    }

    /// A machine waits for its next command most of its life: nothing is kept meanwhile.
    fn forget(&mut self) {
        self.text = Vec::new();
        self.tokens = Vec::new();
        self.token_start = 0;
        self.braces = 0;
        self.brackets = 0;
    }
}

/// Text up to its first NUL, as C prints it.
fn c_string(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(bytes: &[u8]) -> Vec<Result<Value, String>> {
        let mut messages = Vec::new();
        MessageReader::default().feed(bytes, &mut messages);
        let described = |error: JsonError| error.to_string();
        messages
            .into_iter()
            .map(|message| message.map_err(described))
            .collect()
    }

    #[test]
    fn a_message_ends_with_its_last_bracket_wherever_lines_end() {
        let expected = vec![Ok(json!({"a": 1})), Ok(json!({"b": [2]}))];

        assert_eq!(read(b"{\"a\":\n1}{'b':\r\n[2]\t}"), expected);
    }

    #[test]
    fn a_message_may_come_byte_by_byte() {
        let mut reader = MessageReader::default();
        let mut messages = Vec::new();
        for byte in "{\"é\": -1.5e2}".as_bytes() {
            reader.feed(&[*byte], &mut messages);
        }

        assert_eq!(messages, [Ok(json!({"é": -150.0}))]);
    }

    #[test]
    fn reading_goes_on_behind_what_is_malformed() {
        let expected = vec![
            Err("JSON parse error, stray '+'".to_owned()),
            Err("JSON parse error, expecting value".to_owned()),
            Ok(json!([])),
        ];

        assert_eq!(read(b"{\"id\":+1}\n[]"), expected);
    }

    #[test]
    fn a_tower_of_brackets_is_given_up_at_the_limit() {
        let limit = Err("JSON nesting depth limit exceeded".to_owned());

        assert_eq!(read(&[b'['; 1025]), [limit]);
        assert_eq!(read(&[b'['; 1024]), []);
    }

    #[test]
    fn nothing_is_kept_between_messages() {
        let mut reader = MessageReader::default();

        reader.feed(b"{\"execute\": \"query-status\"}\n", &mut Vec::new());

        assert_eq!((reader.text.capacity(), reader.tokens.capacity()), (0, 0));
    }
}
