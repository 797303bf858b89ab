//! Tokens to a value: the grammar of QEMU's `qobject/json-parser.c`, error by error.

use serde_json::{Map, Number, Value};

use super::lexer::Kind;
use super::reader::{JsonError, Token};

/// Reads one message out of its tokens.
pub(super) fn parse(tokens: &[Token], text: &[u8]) -> Result<Value, JsonError> {
    Parser {
        tokens: tokens.iter(),
        text,
    }
    .value()
}

struct Parser<'a> {
    tokens: std::slice::Iter<'a, Token>,
    text: &'a [u8],
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Result<Kind, JsonError> {
        let token = self.tokens.as_slice().first();
        token.map(|token| token.kind).ok_or_else(premature)
    }

    fn next(&mut self) -> Result<(Kind, &'a [u8]), JsonError> {
        let token = self.tokens.next().ok_or_else(premature)?;
        Ok((token.kind, &self.text[token.text.clone()]))
    }

    fn value(&mut self) -> Result<Value, JsonError> {
        match self.peek()? {
            Kind::OpenBrace => self.object(),
            Kind::OpenBracket => self.array(),
            Kind::Integer | Kind::Float => Ok(number(self.next()?.1)),
            Kind::String => string(self.next()?.1).map(Value::String),
            Kind::Keyword => keyword(self.next()?.1),
            Kind::CloseBrace | Kind::CloseBracket | Kind::Colon | Kind::Comma => {
                Err(JsonError::parse("expecting value"))
            }
        }
    }

    fn object(&mut self) -> Result<Value, JsonError> {
        self.next()?;
        let mut object = Map::new();
        if self.peek()? == Kind::CloseBrace {
            self.next()?;
            return Ok(Value::Object(object));
        }
        loop {
            self.pair(&mut object)?;
            let separator = self.next()?.0;
            if separator == Kind::CloseBrace {
                return Ok(Value::Object(object));
            }
            if separator != Kind::Comma {
                return Err(JsonError::parse("expected separator in dict"));
            }
        }
    }

    fn pair(&mut self, object: &mut Map<String, Value>) -> Result<(), JsonError> {
        self.peek()?;
        let Value::String(key) = self.value()? else {
            return Err(JsonError::parse("key is not a string in object"));
        };
        if self.next()?.0 != Kind::Colon {
            return Err(JsonError::parse("missing : in object pair"));
        }
        let value = self.value()?;
        if object.contains_key(&key) {
            return Err(JsonError::parse("duplicate key"));
        }
        object.insert(key, value);
        Ok(())
    }

    fn array(&mut self) -> Result<Value, JsonError> {
        self.next()?;
        let mut array = Vec::new();
        if self.peek()? == Kind::CloseBracket {
            self.next()?;
            return Ok(Value::Array(array));
        }
        loop {
            array.push(self.value()?);
            let separator = self.next()?.0;
            if separator == Kind::CloseBracket {
                return Ok(Value::Array(array));
            }
            if separator != Kind::Comma {
                return Err(JsonError::parse("expected separator in list"));
            }
        }
    }
}

fn premature() -> JsonError {
    JsonError::parse("premature EOI")
}

fn keyword(text: &[u8]) -> Result<Value, JsonError> {
    match text {
        b"true" => Ok(Value::Bool(true)),
        b"false" => Ok(Value::Bool(false)),
        b"null" => Ok(Value::Null),
        _ => {
            let text = String::from_utf8_lossy(text);
            Err(JsonError::parse(format_args!("invalid keyword '{text}'")))
        }
    }
}

/// An integer where 64 bits hold it, with or without a sign; else a floating-point number.
fn number(text: &[u8]) -> Value {
    let text = String::from_utf8_lossy(text);
    let integer = text.parse::<i64>().map(Value::from);
    if let Ok(value) = integer.or_else(|_| text.parse::<u64>().map(Value::from)) {
        return value;
    }
    let float = text.parse::<f64>().ok().and_then(Number::from_f64);
    // Beyond what JSON can say back: QEMU holds it as an infinity.
    float.map_or(Value::Null, Value::Number)
}

fn string(token: &[u8]) -> Result<String, JsonError> {
    // The quotes themselves.
    let mut rest = &token[1..token.len() - 1];
    let mut text = String::with_capacity(rest.len());
    loop {
        rest = plain(rest, &mut text);
        rest = match rest.first() {
            None => return Ok(text),
            Some(b'\\') => escape(rest, token, &mut text)?,
            Some(_) => multibyte(rest, &mut text)?,
        };
    }
}

/// Takes over what stands for itself, and leaves the rest.
fn plain<'a>(bytes: &'a [u8], text: &mut String) -> &'a [u8] {
    let is_plain = |byte: &u8| matches!(byte, 0x20..=0x7f) && *byte != b'\\';
    let length = bytes.iter().take_while(|byte| is_plain(byte)).count();
    let (plain, rest) = bytes.split_at(length);
    text.push_str(std::str::from_utf8(plain).expect("ASCII is UTF-8"));
    rest
}

fn escape<'a>(rest: &'a [u8], token: &[u8], text: &mut String) -> Result<&'a [u8], JsonError> {
    let plain = match rest.get(1) {
        Some(b'"') => '"',
        Some(b'\'') => '\'',
        Some(b'\\') => '\\',
        Some(b'/') => '/',
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(b'u') => return unicode(rest, token, text),
        Some(_) | None => return Err(JsonError::parse("invalid escape sequence in string")),
    };
    text.push(plain);
    Ok(&rest[2..])
}

/// `\uXXXX`, or two of them for one character beyond the first plane.
fn unicode<'a>(rest: &'a [u8], token: &[u8], text: &mut String) -> Result<&'a [u8], JsonError> {
    let leading = hex(&rest[2..]);
    let trailing = (rest.get(6..8) == Some(b"\\u"))
        .then(|| hex(&rest[8..]))
        .flatten();
    let (code, length) = match (leading, trailing) {
        (Some(high @ 0xd800..=0xdbff), Some(low @ 0xdc00..=0xdfff)) => {
            (Some(0x10000 + ((high & 0x3ff) << 10) + (low & 0x3ff)), 12)
        }
        (code, _) => (code, 6),
    };
    let valid = code
        .and_then(char::from_u32)
        .filter(|code| is_character(*code));
    let Some(code) = valid else {
        // QEMU prints the four bytes whether or not they are the string's own.
        let start = token.len() - 1 - rest.len();
        let shown = String::from_utf8_lossy(&token[start..token.len().min(start + 6)]).into_owned();
        let what = format!("{shown} is not a valid Unicode character");
        return Err(JsonError::parse(what));
    };
    text.push(code);
    Ok(&rest[length..])
}

fn hex(digits: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(digits.get(..4)?).ok()?;
    let all = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    all.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
}

/// UTF-8, in which NUL may also be two bytes (`mod_utf8_codepoint` in QEMU's `util/unicode.c`).
fn multibyte<'a>(rest: &'a [u8], text: &mut String) -> Result<&'a [u8], JsonError> {
    if let Some(after_nul) = rest.strip_prefix(b"\xc0\x80") {
        text.push('\0');
        return Ok(after_nul);
    }
    let decode = |length| {
        std::str::from_utf8(rest.get(..length)?)
            .ok()?
            .chars()
            .next()
    };
    let code = (2..=4).find_map(decode).filter(|code| is_character(*code));
    let code = code.ok_or_else(|| JsonError::parse("invalid UTF-8 sequence in string"))?;
    text.push(code);
    Ok(&rest[code.len_utf8()..])
}

/// Noncharacters are none (`is_valid_codepoint` in QEMU's `util/unicode.c`).
fn is_character(code: char) -> bool {
    let code = u32::from(code);
    !(0xfdd0..=0xfdef).contains(&code) && code & 0xfffe != 0xfffe
}
