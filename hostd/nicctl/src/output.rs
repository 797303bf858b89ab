//! Where lines go. Whatever a guest or another user may have chosen is made harmless for a
//! terminal on the way; a reader that has gone is an end, never a panic.

use std::io::{self, Write};
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use serde::Serialize;
use tokio::sync::oneshot;

/// For whom the output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Tables and sentences.
    People,
    /// The API's bodies.
    Json,
}

/// The standard output and the standard error.
#[derive(Debug)]
pub(crate) struct Output {
    format: Format,
}

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        Self { format }
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Text for people, to the standard error when the standard output is for programs.
    pub(crate) fn people(&self, text: &str) -> io::Result<()> {
        let text = harmless(text);
        match self.format {
            Format::People => writeln!(io::stdout(), "{}", text.trim_end()),
            Format::Json => writeln!(io::stderr(), "{}", text.trim_end()),
        }
    }

    /// A body of the API in one line, or what `people` makes of it.
    pub(crate) fn body<T: Serialize>(
        &self,
        body: &T,
        people: impl FnOnce(&T) -> String,
    ) -> io::Result<()> {
        match self.format {
            Format::People => self.people(&people(body)),
            Format::Json => self.json(body),
        }
    }

    /// A body of the API in one line.
    pub(crate) fn json(&self, body: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(body)?;
        line.push(b'\n');
        self.raw(&line)
    }

    /// Bytes as they are.
    pub(crate) fn raw(&self, bytes: &[u8]) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes)?;
        stdout.flush()
    }

    /// Ends when nobody will read what is printed any more, so that `nicctl events | head` ends
    /// with `head` and not at the next event. With a file it never ends.
    pub(crate) async fn reader_gone(&self) {
        let (sender, gone) = oneshot::channel();
        // A thread of its own: the runtime's would have to end before the program can.
        drop(thread::Builder::new().spawn(move || {
            let stdout = io::stdout();
            // Nothing is asked for, so only what is always told ends it: POLLERR and POLLHUP.
            let mut watched = [PollFd::new(&stdout, PollFlags::empty())];
            let told = loop {
                match poll(&mut watched, None) {
                    Err(Errno::INTR) => {}
                    told => break told,
                }
            };
            if told.is_ok() {
                let _nobody_waits = sender.send(());
            }
        }));
        // A thread that cannot tell leaves it to the next line, which will find nobody to read it.
        if gone.await.is_err() {
            std::future::pending().await
        }
    }

    /// A line about what went wrong. When even that has no reader, the exit code has to do.
    pub(crate) fn trouble(&self, text: &str) {
        drop(writeln!(io::stderr(), "{}", harmless(text)));
    }
}

/// `text` without what makes a terminal do things: control characters, and the marks that reverse
/// the reading direction (Unicode TR36 §2.5), are shown by their code.
fn harmless(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for character in text.chars() {
        let reorders = matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if character != '\n' && (character.is_control() || reorders) {
            clean.extend(character.escape_unicode());
        } else {
            clean.push(character);
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_says_cannot_command_the_terminal() {
        assert_eq!(
            harmless("a\u{1b}[2Jb\rc\u{9b}\u{202e}ü\n"),
            "a\\u{1b}[2Jb\\u{d}c\\u{9b}\\u{202e}ü\n"
        );
    }
}
