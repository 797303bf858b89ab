//! The one thread that writes: groups what is queued into transactions.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rusqlite::{Connection, ErrorCode, Savepoint, TransactionBehavior, params};
use tokio::sync::{mpsc, oneshot};

use super::Counters;
use crate::batch::Outcome;
use crate::{Claim, CommitError, Row, RowKind};

/// Batches of one transaction at most, so that the first one's answer does not wait for thousands.
const GROUP_MAX_BATCHES: usize = 256;

/// A batch on its way to the writer.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) outcome: Outcome,
    pub(super) answer: oneshot::Sender<Result<(), CommitError>>,
}

/// Owner of the connection.
pub(super) struct Writer {
    connection: Connection,
    queue: mpsc::Receiver<Queued>,
    counters: Arc<Counters>,
    /// Set by the first failure whose outcome is unknown: nothing is written after it.
    broken: Option<CommitError>,
}

type Verdict = Result<(), CommitError>;

impl Writer {
    pub(super) fn new(
        connection: Connection,
        queue: mpsc::Receiver<Queued>,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            connection,
            queue,
            counters,
            broken: None,
        }
    }

    /// Answers every batch until the queue is closed and empty.
    pub(super) fn run(mut self) {
        let mut group = Vec::with_capacity(GROUP_MAX_BATCHES);
        while self.queue.blocking_recv_many(&mut group, GROUP_MAX_BATCHES) > 0 {
            let (outcomes, answers): (Vec<_>, Vec<_>) = group
                .drain(..)
                .map(|queued| (queued.outcome, queued.answer))
                .unzip();
            let verdicts = self.commit_group(&outcomes);
            let count = u64::try_from(verdicts.len()).unwrap_or(u64::MAX);
            self.counters.batches.fetch_add(count, Ordering::Relaxed);
            for (answer, verdict) in answers.into_iter().zip(verdicts) {
                // A caller that no longer waits has given up its right to know.
                drop(answer.send(verdict));
            }
        }
    }

    /// One verdict a batch. When the disk cannot take all of them, each gets a transaction of its
    /// own, so that a large batch does not cost a small one its place.
    fn commit_group(&mut self, batches: &[Outcome]) -> Vec<Verdict> {
        match self.transact(batches) {
            Ok(verdicts) => verdicts,
            Err(CommitError::Full) if batches.len() > 1 => batches
                .chunks(1)
                .flat_map(|single| self.commit_group(single))
                .collect(),
            Err(error) => vec![Err(error); batches.len()],
        }
    }

    fn transact(&mut self, batches: &[Outcome]) -> Result<Vec<Verdict>, CommitError> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        self.counters.transactions.fetch_add(1, Ordering::Relaxed);
        write_all(&mut self.connection, batches).map_err(|cause| self.classify(cause))
    }

    /// SQLite has rolled back by itself, or did so when the transaction was dropped.
    fn classify(&mut self, cause: rusqlite::Error) -> CommitError {
        if cause.sqlite_error_code() == Some(ErrorCode::DiskFull) {
            return CommitError::Full;
        }
        let broken = CommitError::Broken(Arc::new(cause));
        self.broken = Some(broken.clone());
        broken
    }
}

fn write_all(
    connection: &mut Connection,
    batches: &[Outcome],
) -> Result<Vec<Verdict>, rusqlite::Error> {
    let mut transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut verdicts = Vec::with_capacity(batches.len());
    for batch in batches {
        let savepoint = transaction.savepoint()?;
        let refusal = apply(&savepoint, batch)?;
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
