//! JSON as QEMU reads and writes it: its own errors, its extensions, its limits.
//!
//! QEMU's reader is none of the usual ones: it takes single quotes, finds the end of a message by
//! counting brackets instead of lines, answers a malformed message with its own words and goes on.
//! Whoever automates QMP meets those words, so the reader here follows `qobject/json-lexer.c`,
//! `json-streamer.c` and `json-parser.c` of QEMU 7.2.
//!
//! ```text
//!   bytes ──► Lexer ──► tokens until all brackets are closed ──► parser ──► value or error
//!               │ a byte that fits nowhere
//!               └──► error at once, then skip to the next bracket, comma, colon, line end
//! ```

mod lexer;
mod parser;
mod reader;
mod writer;

pub use reader::{JsonError, MessageReader};
pub(crate) use writer::line;
