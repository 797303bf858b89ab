//! A journal that notes what it commits, so that its engine can be asked to do the same again with
//! nothing in between.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use journal::{
    Batch, Change, CommitError, Journal, LoadError, Row, RowKind, SqliteJournal, Statistics,
};

/// See the module.
#[derive(Debug)]
pub struct Recorder {
    journal: SqliteJournal,
    committed: Mutex<Vec<Batch>>,
}

impl Recorder {
    /// Over a journal that nobody else writes to.
    #[must_use]
    pub fn new(journal: SqliteJournal) -> Self {
        Self {
            journal,
            committed: Mutex::default(),
        }
    }

    /// What was to be committed since this was asked last, in order.
    #[must_use]
    pub fn take(&self) -> Vec<Batch> {
        std::mem::take(&mut self.lock())
    }

    /// What its engine has done so far.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.journal.statistics()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Batch>> {
        self.committed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Journal for Recorder {
    fn load(&self) -> Result<Vec<Row>, LoadError> {
        self.journal.load()
    }

    async fn commit(&self, batch: Batch) -> Result<(), CommitError> {
        self.lock().push(batch.clone());
        self.journal.commit(batch).await
    }
}

/// What is committed of one NIC, one batch after the other.
pub type Program = Vec<Batch>;

/// The batches of each NIC on their own, in the order in which the NICs first came.
#[must_use]
pub fn programs(committed: Vec<Batch>) -> Vec<Program> {
    let mut places = BTreeMap::new();
    let mut programs: Vec<Program> = Vec::new();
    for batch in committed {
        let place = *places.entry(nic_of(&batch)).or_insert_with(|| {
            programs.push(Vec::new());
            programs.len() - 1
        });
        programs[place].push(batch);
    }
    programs
}

fn nic_of(batch: &Batch) -> Option<String> {
    batch.changes.iter().find_map(|change| match change {
        Change::Put(row) if row.kind == RowKind::Nic => Some(row.key.clone()),
        Change::Remove { kind, key } if *kind == RowKind::Nic => Some(key.clone()),
        Change::Put(_) | Change::Remove { .. } => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, body: &str) -> Batch {
        Batch::default().put(Row {
            kind: RowKind::Nic,
            key: key.to_owned(),
            body: body.to_owned(),
            claims: Vec::new(),
        })
    }

    #[test]
    fn batches_of_one_nic_follow_one_another() {
        let committed = vec![
            put("b", "1"),
            put("a", "1"),
            put("b", "2"),
            put("c", "1").remove(RowKind::Token, "t"),
            Batch::default().remove(RowKind::Nic, "a"),
        ];

        let programs = programs(committed.clone());

        assert_eq!(
            programs,
            [
                vec![committed[0].clone(), committed[2].clone()],
                vec![committed[1].clone(), committed[4].clone()],
                vec![committed[3].clone()],
            ]
        );
    }

    #[tokio::test]
    async fn what_is_committed_is_noted_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let journal = SqliteJournal::open(directory.path().join("journal")).unwrap();
        let recorder = Recorder::new(journal);

        recorder.commit(put("a", "1")).await.unwrap();

        assert_eq!(recorder.load().unwrap().len(), 1);
        assert_eq!(recorder.take(), [put("a", "1")]);
        assert!(recorder.take().is_empty());
        assert_eq!(recorder.statistics().batches, 1);
    }
}
