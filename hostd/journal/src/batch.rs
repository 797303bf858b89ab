//! Changes that happen together or not at all.

use std::collections::BTreeMap;

use crate::{CommitError, Row, RowKind};

/// Changes that happen together or not at all. Claims are judged by what the whole batch leaves
/// behind, so that one batch can hand a claim from one row to another in any order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// In order: of several changes to one row the last one counts.
    pub changes: Vec<Change>,
    /// What it may take of a disk that is all but full.
    pub room: Room,
}

/// What a batch may take of a disk that is all but full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Room {
    /// What is free.
    #[default]
    Free,
    /// Also what is kept back: the batch ends something that an earlier one began, or removes it.
    Reserve,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Adds a row, or replaces it and its claims.
    Put(Row),
    /// Removes a row and its claims; no such row is fine.
    Remove {
        /// What it is about.
        kind: RowKind,
        /// Its name among those of its kind.
        key: String,
    },
}

impl Batch {
    /// Adds a row, or replaces it and its claims.
    #[must_use]
    pub fn put(mut self, row: Row) -> Self {
        self.changes.push(Change::Put(row));
        self
    }

    /// Removes a row and its claims.
    #[must_use]
    pub fn remove(mut self, kind: RowKind, key: impl Into<String>) -> Self {
        let key = key.into();
        self.changes.push(Change::Remove { kind, key });
        self
    }

    /// Says what it may take of a disk that is all but full.
    #[must_use]
    pub fn in_room(self, room: Room) -> Self {
        Self { room, ..self }
    }
}

impl FromIterator<Change> for Batch {
    fn from_iter<I: IntoIterator<Item = Change>>(changes: I) -> Self {
        Self {
            changes: changes.into_iter().collect(),
            room: Room::default(),
        }
    }
}

/// A batch brought to the form that both stores apply: per row what becomes of it, `None` for
/// nothing, claims sorted and without repeats.
pub(crate) type Outcome = BTreeMap<(RowKind, String), Option<Row>>;

/// What `batch` makes of each row it touches.
pub(crate) fn outcome_of(batch: Batch) -> Result<Outcome, CommitError> {
    let mut outcome = Outcome::new();
    for change in batch.changes {
        let (address, row) = match change {
            Change::Put(row) => ((row.kind, row.key.clone()), Some(checked(row)?)),
            Change::Remove { kind, key } => ((kind, key), None),
        };
        outcome.insert(address, row);
    }
    Ok(outcome)
}

fn checked(mut row: Row) -> Result<Row, CommitError> {
    if row.body.len() > Row::BODY_MAX_BYTES {
        return Err(CommitError::TooLarge {
            kind: row.kind,
            key: row.key,
            bytes: row.body.len(),
        });
    }
    row.claims.sort_unstable();
    row.claims.dedup();
    Ok(row)
}
