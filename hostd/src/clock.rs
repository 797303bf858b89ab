//! The two clocks: one that people read, one that deadlines are counted by.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch. For people only: it may jump.
pub(crate) fn unix_ms() -> u64 {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}
