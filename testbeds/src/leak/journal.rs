//! hostd's journal as it stands on the disk, read past hostd: the file, and SQL of our own.
//!
//! The schema is written down in the documentation of hostd's crate `journal` and nowhere shared:
//! a reader that used hostd's own could not see what hostd overlooks.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use rusqlite::{Connection, OpenFlags, Transaction};
use serde_json::Value;

/// hostd's commits hold the file for milliseconds, a checkpoint a little longer.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// One row of the table `record`.
#[derive(Debug, Clone, PartialEq)]
pub struct JournalRow {
    /// `nic`, `token` or `meta`.
    pub kind: String,
    /// The NIC's id, or `TENANT/TOKEN`.
    pub key: String,
    /// What it says; nothing when it is no JSON.
    pub body: Option<Value>,
}

/// One row of the table `claim`: what a record holds so that no other one can.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct JournalClaim {
    /// Of which record, by kind and key.
    pub owner: (String, String),
    /// `mac`, `address/NETWORK` or `slot/VM`.
    pub scope: String,
    /// What is held.
    pub value: String,
}

/// Both tables at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JournalState {
    /// Every record.
    pub rows: Vec<JournalRow>,
    /// Every claim.
    pub claims: BTreeSet<JournalClaim>,
}

impl JournalState {
    /// Reads the file at `path`, and never writes to it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn of(path: &Path) -> Result<Self> {
        let path = path.to_owned();
        tokio::task::spawn_blocking(move || {
            Self::read(&path).with_context(|| format!("reading {}", path.display()))
        })
        .await?
    }

    fn read(path: &Path) -> Result<Self> {
        let mut connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        let moment = connection.transaction()?;
        Ok(Self {
            rows: rows(&moment)?,
            claims: claims(&moment)?,
        })
    }

    /// What one record claims, as scope and value.
    pub fn claims_of<'a>(
        &'a self,
        kind: &'a str,
        key: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.claims
            .iter()
            .filter(move |claim| claim.owner.0 == kind && claim.owner.1 == key)
            .map(|claim| (claim.scope.as_str(), claim.value.as_str()))
    }
}

fn rows(moment: &Transaction<'_>) -> Result<Vec<JournalRow>> {
    let mut select = moment.prepare("SELECT kind, key, body FROM record ORDER BY kind, key")?;
    let found = select.query_map([], |row| {
        let body: String = row.get("body")?;
        Ok(JournalRow {
            kind: row.get("kind")?,
            key: row.get("key")?,
            body: serde_json::from_str(&body).ok(),
        })
    })?;
    Ok(found.collect::<Result<_, _>>()?)
}

fn claims(moment: &Transaction<'_>) -> Result<BTreeSet<JournalClaim>> {
    let mut select = moment.prepare("SELECT scope, value, kind, key FROM claim")?;
    let found = select.query_map([], |row| {
        Ok(JournalClaim {
            owner: (row.get("kind")?, row.get("key")?),
            scope: row.get("scope")?,
            value: row.get("value")?,
        })
    })?;
    Ok(found.collect::<Result<_, _>>()?)
}
