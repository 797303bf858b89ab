//! The one thread that writes: groups what is queued into transactions.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rusqlite::{Connection, ErrorCode, Savepoint, TransactionBehavior, ffi, params};
use tokio::sync::{mpsc, oneshot};

use super::Counters;
use super::reserve::Reserve;
use crate::batch::Outcome;
use crate::{Claim, CommitError, Room, Row, RowKind};

/// Batches of one transaction at most, so that the first one's answer does not wait for thousands.
const GROUP_MAX_BATCHES: usize = 256;

/// A batch on its way to the writer.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) work: Work,
    pub(super) answer: oneshot::Sender<Result<(), CommitError>>,
}

/// A batch as it is applied.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) outcome: Outcome,
    pub(super) room: Room,
}

/// Owner of the connection.
pub(super) struct Writer {
    connection: Connection,
    reserve: Reserve,
    queue: mpsc::Receiver<Queued>,
    counters: Arc<Counters>,
    /// Set by the first failure whose outcome is unknown: nothing is written after it.
    broken: Option<CommitError>,
}

type Verdict = Result<(), CommitError>;

impl Writer {
    pub(super) fn new(
        connection: Connection,
        reserve: Reserve,
        queue: mpsc::Receiver<Queued>,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            connection,
            reserve,
            queue,
            counters,
            broken: None,
        }
    }

    /// Answers every batch until the queue is closed and empty.
    pub(super) fn run(mut self) {
        let mut group = Vec::with_capacity(GROUP_MAX_BATCHES);
        while self.queue.blocking_recv_many(&mut group, GROUP_MAX_BATCHES) > 0 {
            let (works, answers): (Vec<_>, Vec<_>) = group
                .drain(..)
                .map(|queued| (queued.work, queued.answer))
                .unzip();
            let verdicts = self.commit_group(&works);
            let count = u64::try_from(verdicts.len()).unwrap_or(u64::MAX);
            self.counters.batches.fetch_add(count, Ordering::Relaxed);
            for (answer, verdict) in answers.into_iter().zip(verdicts) {
                // A caller that no longer waits has given up its right to know.
                drop(answer.send(verdict));
            }
        }
    }

    /// One verdict a batch. When the disk cannot take all of them, each gets a transaction of its
    /// own, so that a large batch does not cost a small one its place; and one that may use the
    /// reserve gets that.
    fn commit_group(&mut self, batches: &[Work]) -> Vec<Verdict> {
        match self.transact(batches) {
            Ok(verdicts) => verdicts,
            Err(CommitError::Full) if batches.len() > 1 => batches
                .chunks(1)
                .flat_map(|single| self.commit_group(single))
                .collect(),
            Err(CommitError::Full) if self.spends_reserve(batches) => self.commit_group(batches),
            Err(error) => vec![Err(error); batches.len()],
        }
    }

    fn transact(&mut self, batches: &[Work]) -> Result<Vec<Verdict>, CommitError> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        self.counters.transactions.fetch_add(1, Ordering::Relaxed);
        let admitted = self.rooms(batches);
        write_all(&mut self.connection, batches, admitted).map_err(|cause| self.classify(cause))
    }

    /// Which batches may be written now. While the reserve cannot be had, what is free is its.
    fn rooms(&mut self, batches: &[Work]) -> &'static [Room] {
        if batches.iter().all(|work| work.room == Room::Reserve) {
            return &[Room::Reserve];
        }
        match self.reserve.hold() {
            Ok(true) => &[Room::Free, Room::Reserve],
            Ok(false) => &[Room::Reserve],
            Err(error) => {
                tracing::warn!(%error, "the journal's reserve cannot be had");
                &[Room::Reserve]
            }
        }
    }

    /// Whether there was a reserve for batches that may use it.
    fn spends_reserve(&mut self, batches: &[Work]) -> bool {
        let entitled = batches.iter().all(|work| work.room == Room::Reserve);
        let spent = entitled
            && self.reserve.spend().unwrap_or_else(|error| {
                tracing::warn!(%error, "the journal's reserve cannot be used");
                false
            });
        if spent {
            tracing::warn!("the journal's disk is full: what was kept back for removals is used");
        }
        spent
    }

    /// SQLite has rolled back by itself, or did so when the transaction was dropped.
    fn classify(&mut self, cause: rusqlite::Error) -> CommitError {
        if is_full(&cause, || self.reserve.lacks_room().unwrap_or(false)) {
            return CommitError::Full;
        }
        let broken = CommitError::Broken(Arc::new(cause));
        self.broken = Some(broken.clone());
        broken
    }
}

/// What it calls a write that failed, of the log or of the log's index.
const WRITES: [i32; 2] = [ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_IOERR_SHMSIZE];

/// SQLite calls a full disk by its name, but a quota that is used up a failed write, and keeps the
/// cause to itself (os_unix.c, `seekAndWrite`); and it has a name of its own for an index of the
/// log that finds no room to grow (`unixShmMap`). In each case the frame that commits was not
/// written, which cannot be said of a failed fsync.
fn is_full(cause: &rusqlite::Error, lacks_room: impl FnOnce() -> bool) -> bool {
    let failed_write = cause
        .sqlite_error()
        .is_some_and(|error| WRITES.contains(&error.extended_code));
    cause.sqlite_error_code() == Some(ErrorCode::DiskFull) || failed_write && lacks_room()
}

fn write_all(
    connection: &mut Connection,
    batches: &[Work],
    admitted: &[Room],
) -> Result<Vec<Verdict>, rusqlite::Error> {
    let mut transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut verdicts = Vec::with_capacity(batches.len());
    for batch in batches {
        if !admitted.contains(&batch.room) {
            verdicts.push(Err(CommitError::Full));
            continue;
        }
        let savepoint = transaction.savepoint()?;
        let refusal = apply(&savepoint, &batch.outcome)?;
        verdicts.push(match refusal {
            None => {
                savepoint.commit()?;
                Ok(())
            }
            // Dropped without commit, the savepoint is rolled back.
            Some(refusal) => {
                savepoint.finish()?;
                Err(refusal)
            }
        });
    }
    transaction.commit()?;
    Ok(verdicts)
}

/// Clears every row the batch touches, then puts what is to be there: only so can one batch hand
/// a claim from one row to another. Returns why the batch must be undone.
fn apply(savepoint: &Savepoint, batch: &Outcome) -> rusqlite::Result<Option<CommitError>> {
    let mut remove = savepoint.prepare_cached("DELETE FROM record WHERE kind = ?1 AND key = ?2")?;
    for (kind, key) in batch.keys() {
        remove.execute(params![kind.as_str(), key])?;
    }
    for row in batch.values().flatten() {
        put(savepoint, row)?;
        for claim in &row.claims {
            if let Some(by) = claim_for(savepoint, row, claim)? {
                let claim = claim.clone();
                return Ok(Some(CommitError::ClaimTaken { claim, by }));
            }
        }
    }
    Ok(None)
}

fn put(savepoint: &Savepoint, row: &Row) -> rusqlite::Result<()> {
    savepoint
        .prepare_cached("INSERT INTO record (kind, key, body, checksum) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![
            row.kind.as_str(),
            row.key,
            row.body,
            i64::from(row.checksum())
        ])?;
    Ok(())
}

/// The key of the row that holds `claim` already, if there is one.
fn claim_for(savepoint: &Savepoint, row: &Row, claim: &Claim) -> rusqlite::Result<Option<String>> {
    let inserted = savepoint
        .prepare_cached(
            "INSERT INTO claim (scope, value, kind, key) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (scope, value) DO NOTHING",
        )?
        .execute(params![
            claim.scope,
            claim.value,
            RowKind::as_str(row.kind),
            row.key
        ])?;
    if inserted == 1 {
        return Ok(None);
    }
    savepoint
        .prepare_cached("SELECT key FROM claim WHERE scope = ?1 AND value = ?2")?
        .query_row(params![claim.scope, claim.value], |found| found.get(0))
        .map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: i32) -> rusqlite::Error {
        rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)
    }

    #[test]
    fn a_used_up_quota_is_a_full_disk() {
        assert!(is_full(&failure(ffi::SQLITE_IOERR_WRITE), || true));
        assert!(is_full(&failure(ffi::SQLITE_IOERR_SHMSIZE), || true));
        assert!(is_full(&failure(ffi::SQLITE_FULL), || false));
    }

    #[test]
    fn a_write_that_fails_while_there_is_room_breaks_the_journal() {
        assert!(!is_full(&failure(ffi::SQLITE_IOERR_WRITE), || false));
    }

    #[test]
    fn an_fsync_that_fails_breaks_the_journal_whatever_room_there_is() {
        assert!(!is_full(&failure(ffi::SQLITE_IOERR_FSYNC), || true));
    }
}
