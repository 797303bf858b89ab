//! hostd's journal as it stands on the disk, read past hostd: the file, and SQL of our own.
//!
//! The schema is written down in the documentation of hostd's crate `journal` and nowhere shared:
//! a reader that used hostd's own could not see what hostd overlooks.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use oracle::{JournalClaim, JournalRow, JournalView};
use rusqlite::{Connection, OpenFlags, Transaction};

/// hostd's commits hold the file for milliseconds, a checkpoint a little longer.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads both tables of the file at `path` at one moment, and never writes to it.
///
/// # Errors
/// When it cannot be read.
pub(super) async fn read(path: &Path) -> Result<JournalView> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || {
        read_now(&path).with_context(|| format!("reading {}", path.display()))
    })
    .await?
}

fn read_now(path: &Path) -> Result<JournalView> {
    let mut connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    let moment = connection.transaction()?;
    Ok(JournalView {
        rows: rows(&moment)?,
        claims: claims(&moment)?,
    })
}

/// Takes everything out of the log of the journal at `path`: what is written next needs room of its
/// own then, instead of what the log had before (sqlite.org/pragma.html#pragma_wal_checkpoint).
///
/// # Errors
/// When hostd does not let go of it in time.
pub(crate) fn shorten_log(path: &Path) -> Result<()> {
    let connection = for_writing(path)?;
    let busy: i64 =
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    anyhow::ensure!(busy == 0, "the log of {} is in use", path.display());
    Ok(())
}

/// Writes records and claims that hostd knows nothing of.
///
/// # Errors
/// When the file does not take them.
pub(super) fn plant(path: &Path, planted: &JournalView) -> Result<()> {
    let mut connection = for_writing(path)?;
    let moment = connection.transaction()?;
    for row in &planted.rows {
        let body = row.body.as_ref().map(ToString::to_string);
        let insert = "INSERT INTO record VALUES (?1, ?2, ?3, 0)";
        moment.execute(insert, (&row.kind, &row.key, body.unwrap_or_default()))?;
    }
    for claim in &planted.claims {
        let (kind, key) = &claim.owner;
        let insert = "INSERT INTO claim VALUES (?1, ?2, ?3, ?4)";
        moment.execute(insert, (&claim.scope, &claim.value, kind, key))?;
    }
    Ok(moment.commit()?)
}

/// Ends [`plant`].
///
/// # Errors
/// When the file does not let go of them.
pub(super) fn remove(path: &Path, planted: &JournalView) -> Result<()> {
    let mut connection = for_writing(path)?;
    let moment = connection.transaction()?;
    for claim in &planted.claims {
        let (kind, key) = &claim.owner;
        moment.execute(
            "DELETE FROM claim WHERE kind = ?1 AND key = ?2",
            (kind, key),
        )?;
    }
    for row in &planted.rows {
        let delete = "DELETE FROM record WHERE kind = ?1 AND key = ?2";
        moment.execute(delete, (&row.kind, &row.key))?;
    }
    Ok(moment.commit()?)
}

fn for_writing(path: &Path) -> Result<Connection> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // Claims of no record are what is planted.
    connection.pragma_update(None, "foreign_keys", false)?;
    Ok(connection)
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

#[cfg(test)]
mod tests {
    use journal::{Batch, Claim, Journal, Row, RowKind, SqliteJournal};
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn what_hostd_writes_is_read_and_what_is_no_json_too() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal.sqlite");
        let journal = SqliteJournal::open(&path).unwrap();
        let row = Row {
            kind: RowKind::Nic,
            key: "nic-abc0123xyz".to_owned(),
            body: json!({ "state": "in_use" }).to_string(),
            claims: vec![Claim::new("mac", "5a:00:00:00:00:01")],
        };
        journal.commit(Batch::default().put(row)).await.unwrap();
        let torn = "INSERT INTO record VALUES ('token', 'torn', '{', 0)";
        Connection::open(&path)
            .unwrap()
            .execute_batch(torn)
            .unwrap();

        let state = read(&path).await.unwrap();

        assert_eq!(state.rows[0].body, Some(json!({ "state": "in_use" })));
        assert_eq!(
            (state.rows[1].key.as_str(), &state.rows[1].body),
            ("torn", &None)
        );
        let claims: Vec<_> = state.claims_of("nic", "nic-abc0123xyz").collect();
        assert_eq!(claims, [("mac", "5a:00:00:00:00:01")]);
    }

    #[tokio::test]
    async fn what_is_planted_is_there_until_it_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal.sqlite");
        let _journal = SqliteJournal::open(&path).unwrap();
        let bare = read(&path).await.unwrap();
        let owner = ("nic".to_owned(), "nic-zzzzzzzzz1".to_owned());
        let planted = JournalView {
            rows: vec![JournalRow {
                kind: owner.0.clone(),
                key: owner.1.clone(),
                body: Some(json!({})),
            }],
            claims: [JournalClaim {
                owner,
                scope: "mac".to_owned(),
                value: "5a:00:00:00:00:99".to_owned(),
            }]
            .into(),
        };

        plant(&path, &planted).unwrap();
        let with = read(&path).await.unwrap();
        remove(&path, &planted).unwrap();

        assert_eq!(with.claims, planted.claims);
        assert!(with.rows.contains(&planted.rows[0]));
        assert_eq!(read(&path).await.unwrap(), bare);
    }
}
