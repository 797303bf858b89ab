//! Reading everything back, and believing none of it before its checksum agrees.
//!
//! A connection of its own: in WAL mode a reader and the writer do not wait for each other, and
//! the writer thread stays the sole owner of its connection.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::schema;
use crate::{Claim, LoadError, Row, RowKind};

/// Every row in the database at `file`, ordered by kind and key.
pub(super) fn every_row(file: &Path) -> Result<Vec<Row>, LoadError> {
    let records = read(file).map_err(|source| LoadError::Unreadable {
        file: file.to_owned(),
        source,
    })?;
    let mut rows = records
        .into_iter()
        .map(|record| record.checked(file))
        .collect::<Result<Vec<_>, _>>()?;
    rows.sort_by(|one, other| (one.kind, &one.key).cmp(&(other.kind, &other.key)));
    Ok(rows)
}

/// A row as it stands in the file: bytes, since a torn text need not be UTF-8.
struct Record {
    kind: Vec<u8>,
    key: Vec<u8>,
    body: Vec<u8>,
    checksum: i64,
    claims: Vec<Claim>,
}

impl Record {
    fn checked(self, file: &Path) -> Result<Row, LoadError> {
        let damaged = || LoadError::Damaged {
            kind: String::from_utf8_lossy(&self.kind).into_owned(),
            key: String::from_utf8_lossy(&self.key).into_owned(),
            file: file.to_owned(),
        };
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| damaged());
        let row = Row {
            kind: RowKind::from_stored(&text(&self.kind)?).ok_or_else(damaged)?,
            key: text(&self.key)?,
            body: text(&self.body)?,
            claims: self.claims.clone(),
        };
        if i64::from(row.checksum()) == self.checksum {
            Ok(row)
        } else {
            Err(damaged())
        }
    }
}

fn read(file: &Path) -> rusqlite::Result<Vec<Record>> {
    let mut connection = schema::connect(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    // One transaction, so that rows and claims are of the same moment.
    let transaction = connection.transaction()?;
    let mut claims = read_claims(&transaction)?;
    let mut statement = transaction.prepare("SELECT kind, key, body, checksum FROM record")?;
    let mut found = statement.query([])?;
    let mut records = Vec::new();
    while let Some(row) = found.next()? {
        let (kind, key) = (bytes(row, 0)?, bytes(row, 1)?);
        let claims = claims
            .remove(&(kind.clone(), key.clone()))
            .unwrap_or_default();
        records.push(Record {
            kind,
            key,
            body: bytes(row, 2)?,
            checksum: row.get(3)?,
            claims,
        });
    }
    Ok(records)
}

type ClaimsByRecord = BTreeMap<(Vec<u8>, Vec<u8>), Vec<Claim>>;

/// A claim that is not UTF-8 is read with replacement characters, which its row's checksum tells.
fn read_claims(connection: &Connection) -> rusqlite::Result<ClaimsByRecord> {
    let mut statement =
        connection.prepare("SELECT kind, key, scope, value FROM claim ORDER BY scope, value")?;
    let mut found = statement.query([])?;
    let mut claims = ClaimsByRecord::new();
    while let Some(row) = found.next()? {
        let owner = (bytes(row, 0)?, bytes(row, 1)?);
        let claim = Claim {
            scope: String::from_utf8_lossy(&bytes(row, 2)?).into_owned(),
            value: String::from_utf8_lossy(&bytes(row, 3)?).into_owned(),
        };
        claims.entry(owner).or_default().push(claim);
    }
    Ok(claims)
}

fn bytes(row: &rusqlite::Row, column: usize) -> rusqlite::Result<Vec<u8>> {
    Ok(row.get_ref(column)?.as_bytes()?.to_vec())
}
