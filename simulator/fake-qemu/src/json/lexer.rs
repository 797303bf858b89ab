//! Bytes to tokens: the state machine of QEMU's `qobject/json-lexer.c`.

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    OpenBrace,
    CloseBrace,
    OpenBracket,
    CloseBracket,
    Colon,
    Comma,
    Integer,
    Float,
    Keyword,
    String,
}

/// Where the lexer is within a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum State {
    #[default]
    Start,
    Recovery,
    Double,
    DoubleEscape,
    Single,
    SingleEscape,
    Zero,
    Digits,
    Sign,
    Mantissa,
    MantissaDigits,
    Exponent,
    ExponentSign,
    ExponentDigits,
    Keyword,
}

/// What one byte leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The byte belongs to the token, which goes on.
    Goes(State),
    /// The byte ends the token and belongs to it.
    Ends(Kind),
    /// The token ended before the byte, which is to be looked at again.
    EndedBefore(Kind),
    /// White space, or skipped after an error: no token.
    Skipped(State),
    /// The recovery ended before the byte, which is to be looked at again.
    Recovered,
    /// The byte fits nowhere. It belongs to what is reported.
    Stray,
}

/// One step of the machine.
pub(super) fn step(state: State, byte: u8) -> Step {
    match state {
        State::Start => start(byte),
        State::Recovery => recovery(byte),
        State::Double => string(byte, b'"', State::Double, State::DoubleEscape),
        State::Single => string(byte, b'\'', State::Single, State::SingleEscape),
        State::DoubleEscape => escaped(byte, State::Double),
        State::SingleEscape => escaped(byte, State::Single),
        State::Keyword => match byte {
            b'a'..=b'z' => Step::Goes(State::Keyword),
            _ => Step::EndedBefore(Kind::Keyword),
        },
        State::Zero
        | State::Digits
        | State::Sign
        | State::Mantissa
        | State::MantissaDigits
        | State::Exponent
        | State::ExponentSign
        | State::ExponentDigits => number(state, byte),
    }
}

/// How many bytes at the beginning leave the machine where it is and belong to its token: the plain
/// text of a string, which most of every message is.
pub(super) fn plain_text(state: State, bytes: &[u8]) -> usize {
    let quote = match state {
        State::Double => b'"',
        State::Single => b'\'',
        State::Start
        | State::Recovery
        | State::DoubleEscape
        | State::SingleEscape
        | State::Zero
        | State::Digits
        | State::Sign
        | State::Mantissa
        | State::MantissaDigits
        | State::Exponent
        | State::ExponentSign
        | State::ExponentDigits
        | State::Keyword => return 0,
    };
    let ends = |&byte: &u8| byte < 0x20 || byte == quote || matches!(byte, b'\\' | 0xfe | 0xff);
    bytes.iter().position(ends).unwrap_or(bytes.len())
}

fn start(byte: u8) -> Step {
    match byte {
        b'"' => Step::Goes(State::Double),
        b'\'' => Step::Goes(State::Single),
        b'0' => Step::Goes(State::Zero),
        b'1'..=b'9' => Step::Goes(State::Digits),
        b'-' => Step::Goes(State::Sign),
        b'{' => Step::Ends(Kind::OpenBrace),
        b'}' => Step::Ends(Kind::CloseBrace),
        b'[' => Step::Ends(Kind::OpenBracket),
        b']' => Step::Ends(Kind::CloseBracket),
        b',' => Step::Ends(Kind::Comma),
        b':' => Step::Ends(Kind::Colon),
        b'a'..=b'z' => Step::Goes(State::Keyword),
        b' ' | b'\t' | b'\r' | b'\n' => Step::Skipped(State::Start),
        _ => Step::Stray,
    }
}

/// Structural characters and line ends are where a message may begin again; a client forces that
/// with a control character or with 0xFE or 0xFF, which no UTF-8 holds.
fn recovery(byte: u8) -> Step {
    match byte {
        b'\t' => Step::Skipped(State::Recovery),
        0..=0x1f | 0xfe | 0xff | b'[' | b']' | b'{' | b'}' | b':' | b',' => Step::Recovered,
        _ => Step::Skipped(State::Recovery),
    }
}

fn string(byte: u8, quote: u8, inside: State, escape: State) -> Step {
    match byte {
        0..=0x1f | 0xfe | 0xff => Step::Stray,
        b'\\' => Step::Goes(escape),
        _ if byte == quote => Step::Ends(Kind::String),
        _ => Step::Goes(inside),
    }
}

fn escaped(byte: u8, inside: State) -> Step {
    match byte {
        0..=0x1f | 0xfe | 0xff => Step::Stray,
        _ => Step::Goes(inside),
    }
}

fn number(state: State, byte: u8) -> Step {
    match (state, byte) {
        (State::Zero, b'0'..=b'9') => Step::Stray,
        (State::Zero | State::Digits, b'.') => Step::Goes(State::Mantissa),
        (State::Sign, b'0') => Step::Goes(State::Zero),
        (State::Digits, b'0'..=b'9') | (State::Sign, b'1'..=b'9') => Step::Goes(State::Digits),
        (State::Mantissa | State::MantissaDigits, b'0'..=b'9') => Step::Goes(State::MantissaDigits),
        (State::Digits | State::MantissaDigits, b'e' | b'E') => Step::Goes(State::Exponent),
        (State::Exponent, b'+' | b'-') => Step::Goes(State::ExponentSign),
        (State::Exponent | State::ExponentSign | State::ExponentDigits, b'0'..=b'9') => {
            Step::Goes(State::ExponentDigits)
        }
        (State::Zero | State::Digits, _) => Step::EndedBefore(Kind::Integer),
        (State::MantissaDigits | State::ExponentDigits, _) => Step::EndedBefore(Kind::Float),
        _ => Step::Stray,
    }
}
