//! What the commands say, and how they end.
//!
//! Results go to standard output, complaints to standard error, so that a pipe sees only results.
//! A reader who has gone away (`| head`) is no reason to fail: what was asked for still happens.

use std::fmt::Display;
use std::io::Write;

/// How a command ended when it could do its work: the work itself may still have found faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Good,
    Bad,
}

impl Verdict {
    pub(crate) fn good_if(condition: bool) -> Self {
        if condition { Self::Good } else { Self::Bad }
    }
}

pub(crate) fn say(line: impl Display) {
    writeln!(std::io::stdout().lock(), "{line}").ok();
}

pub(crate) fn complain(line: impl Display) {
    writeln!(std::io::stderr().lock(), "{line}").ok();
}
