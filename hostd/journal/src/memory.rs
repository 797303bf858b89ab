//! A journal that forgets: the same promises as the durable one, for tests of what is above it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;

use crate::batch::{Outcome, outcome_of};
use crate::{Batch, Claim, CommitError, Journal, LoadError, Row, RowKind};

/// A journal in memory. It lives as long as the value; "reopening" is loading again.
#[derive(Debug, Default)]
pub struct MemoryJournal {
    rows: Mutex<Rows>,
}

type Rows = BTreeMap<(RowKind, String), Row>;

#[async_trait]
impl Journal for MemoryJournal {
    fn load(&self) -> Result<Vec<Row>, LoadError> {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(rows.values().cloned().collect())
    }

    async fn commit(&self, batch: Batch) -> Result<(), CommitError> {
        let outcome = outcome_of(batch)?;
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let next = applied(rows.clone(), outcome);
        refuse_shared_claims(&next, &rows)?;
        *rows = next;
        Ok(())
    }
}

fn applied(mut rows: Rows, outcome: Outcome) -> Rows {
    for (address, row) in outcome {
        match row {
            Some(row) => rows.insert(address, row),
            None => rows.remove(&address),
        };
    }
    rows
}

/// Two rows may hold one claim in `next` only by mistake; of the two the one that holds it in
/// `before` already is named as its owner.
fn refuse_shared_claims(next: &Rows, before: &Rows) -> Result<(), CommitError> {
    let mut owners: BTreeMap<&Claim, &(RowKind, String)> = BTreeMap::new();
    for (address, row) in next {
        for claim in &row.claims {
            let Some(first) = owners.insert(claim, address) else {
                continue;
            };
            let held_before = |address: &(RowKind, String)| {
                before
                    .get(address)
                    .is_some_and(|row| row.claims.contains(claim))
            };
            let owner = if held_before(address) { address } else { first };
            return Err(CommitError::ClaimTaken {
                claim: claim.clone(),
                by: owner.1.clone(),
            });
        }
    }
    Ok(())
}
