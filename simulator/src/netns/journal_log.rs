//! The log of a hostd's journal, as far as a full disk is concerned: SQLite writes over what it has
//! of the log before it asks the disk for more, so that a disk may be full for long before hostd
//! meets it.
//!
//! ```text
//!   checkpoint, log cut to nothing ──► nobody else writes ──► log still empty? ── fill ──► let go
//!           ▲                                                     │ no
//!           └─────────────────────────────────────────────────────┘
//! ```
//!
//! hostd may run meanwhile: it waits for the lock as it waits for itself
//! (sqlite.org/wal.html#concurrency), and what it has committed is in the database by then.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

/// hostd's commits hold the file for milliseconds, a checkpoint a little longer.
const BUSY_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two of these hostd would have to write each time.
const ATTEMPTS: usize = 20;

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum LogError {
    /// SQLite does not do it.
    #[error("failed to empty the journal's log")]
    Sqlite(#[from] rusqlite::Error),
    /// The log is never empty.
    #[error("the journal's log is in use all the time")]
    InUse,
    /// What was to be done was not.
    #[error("failed to fill the disk")]
    Act(#[from] io::Error),
}

/// Does something while the log of the journal at a path is empty and nobody writes to it; a
/// journal that is not there has none.
///
/// # Errors
/// When it is not done, or the log is in use all the time.
pub(super) fn while_empty(
    journal: &Path,
    act: impl FnOnce() -> io::Result<()>,
) -> Result<(), LogError> {
    if !journal.exists() {
        return Ok(act()?);
    }
    let mut connection = Connection::open_with_flags(journal, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    for _ in 0..ATTEMPTS {
        // sqlite.org/pragma.html#pragma_wal_checkpoint: busy when somebody reads what is older.
        let busy: i64 =
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        let turn = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if busy == 0 && length_of_log(journal) == 0 {
            return Ok(act()?);
        }
        drop(turn);
    }
    Err(LogError::InUse)
}

fn length_of_log(journal: &Path) -> u64 {
    let mut log = journal.as_os_str().to_owned();
    log.push("-wal");
    fs::metadata(log).map_or(0, |log| log.len())
}

#[cfg(test)]
mod tests {
    use journal::{Batch, CommitError, Journal, Row, RowKind, SqliteJournal};

    use super::*;
    use crate::netns::HostDisk;

    fn batch(number: usize) -> Batch {
        Batch::default().put(Row {
            kind: RowKind::Nic,
            key: format!("nic-{number:010}"),
            body: "{}".to_owned(),
            claims: Vec::new(),
        })
    }

    #[tokio::test]
    async fn a_disk_that_is_filled_is_full_for_the_next_commit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        let disk = HostDisk::at(path.clone());
        disk.mount().unwrap();
        let file = path.join("journal.sqlite");
        let journal = SqliteJournal::open(&file).unwrap();
        for number in 0..20 {
            journal.commit(batch(number)).await.unwrap();
        }
        // What the log has is free to be written over, and is room for many more.
        let other = Connection::open(&file).unwrap();
        let all = "PRAGMA wal_checkpoint(PASSIVE)";
        other.query_row(all, [], |_| Ok(())).unwrap();

        while_empty(&file, || disk.fill()).unwrap();
        let refused = journal.commit(batch(20)).await;
        disk.free().unwrap();
        let taken = journal.commit(batch(21)).await;
        drop((journal, other));
        HostDisk::unmount(&path);

        assert!(matches!(refused, Err(CommitError::Full)), "{refused:?}");
        taken.unwrap();
    }
}
