//! What broke because hostd restarts is taken up again: a new hostd is there within seconds.

use std::time::Duration;

/// How often before giving up, and the first pause; each is twice the one before: 6 s in all.
const ATTEMPTS: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The pauses before each attempt.
pub(crate) fn pauses() -> impl Iterator<Item = Duration> {
    (0..ATTEMPTS).map(|attempt| FIRST_PAUSE * 2_u32.pow(attempt))
}
