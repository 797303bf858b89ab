//! The tables, their version, and the settings that durability rests on.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use crate::OpenError;

/// "nfjl" in ASCII, so that `file` and we can tell a journal from any other database.
const APPLICATION_ID: i64 = 0x6e66_6a6c;
/// Schema this program writes.
const VERSION: i64 = 1;
/// How long an operator's `sqlite3` may hold the write lock before hostd gives up.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

const TABLES: &str = "
    CREATE TABLE record (
        kind     TEXT NOT NULL,
        key      TEXT NOT NULL,
        body     TEXT NOT NULL,
        checksum INTEGER NOT NULL,
        PRIMARY KEY (kind, key)
    ) STRICT;
    CREATE TABLE claim (
        scope TEXT NOT NULL,
        value TEXT NOT NULL,
        kind  TEXT NOT NULL,
        key   TEXT NOT NULL,
        PRIMARY KEY (scope, value),
        FOREIGN KEY (kind, key) REFERENCES record (kind, key) ON DELETE CASCADE
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX claim_by_record ON claim (kind, key);
";

/// Opens the database for writing, makes its tables where it is new, refuses what it cannot read.
pub(super) fn open(path: &Path) -> Result<Connection, OpenError> {
    let failed = |source| OpenError::Database {
        path: path.to_owned(),
        source,
    };
    let mut connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(failed)?;
    match identity(&connection).map_err(failed)? {
        Identity::Empty => create(&mut connection).map_err(failed)?,
        Identity::Journal { version: VERSION } => {}
        Identity::Journal { version } => {
            return Err(OpenError::NewerSchema {
                path: path.to_owned(),
                found: version,
                supported: VERSION,
            });
        }
        Identity::Foreign => {
            return Err(OpenError::Foreign {
                path: path.to_owned(),
            });
        }
    }
    configure(&connection).map_err(failed)?;
    Ok(connection)
}

/// A connection whose every call ends: locks are waited for [`BUSY_TIMEOUT`] at most.
pub(super) fn connect(path: &Path, access: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

enum Identity {
    Empty,
    Journal { version: i64 },
    Foreign,
}

fn identity(connection: &Connection) -> rusqlite::Result<Identity> {
    let number = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let version = number("user_version")?;
    Ok(match (number("application_id")?, version) {
        (APPLICATION_ID, 1..) => Identity::Journal { version },
        (0, 0) if number("schema_version")? == 0 => Identity::Empty,
        _ => Identity::Foreign,
    })
}

fn create(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(TABLES)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}

/// FULL syncs the log at every commit (in WAL mode NORMAL does not: sqlite.org/pragma.html
/// #pragma_synchronous). Foreign keys are per connection and off by default.
fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update_and_check(None, "journal_mode", "wal", |row| {
        let mode: String = row.get(0)?;
        match mode.as_str() {
            "wal" => Ok(()),
            _ => Err(rusqlite::Error::InvalidQuery),
        }
    })?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "trusted_schema", false)
}
