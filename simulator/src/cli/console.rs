//! What the commands say: results to standard output, complaints to standard error. A reader who
//! has gone away is no reason to fail.

use std::fmt::Display;
use std::io::Write;

pub(crate) fn say(line: impl Display) {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")
        .and_then(|()| stdout.flush())
        .unwrap_or_default();
}

pub(crate) fn complain(line: impl Display) {
    writeln!(std::io::stderr().lock(), "{line}").unwrap_or_default();
}
