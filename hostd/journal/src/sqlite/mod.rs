//! The journal on disk: one SQLite database in WAL mode, synced before any commit resolves.
//!
//! ```text
//!   commit() ──► bounded queue ──► thread "journal-writer", sole owner of the connection
//!                                    take all that is queued
//!                                    BEGIN IMMEDIATE
//!                                      one SAVEPOINT a batch: RELEASE, or ROLLBACK TO it
//!                                    COMMIT (fsync)  ──► answer every batch of the group
//! ```
//!
//! One fsync costs the same for one batch or for a hundred, so under load the fsync's own duration
//! gathers the next group. On a full disk batches that give things up have a reserve. SQLite and
//! not a format of our own: operators can look into it with `sqlite3` while hostd runs,
//! and its UNIQUE index is the last word on claims.

mod lock;
mod read;
mod reserve;
mod schema;
mod writer;

use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use async_trait::async_trait;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::batch::outcome_of;
use crate::{Batch, CommitError, Journal, LoadError, OpenError, Row};
use lock::Lock;
use reserve::Reserve;
use writer::{Queued, Work, Writer};

/// Batches that may wait for the writer: each is at most a few rows, so this bounds memory to some
/// megabytes, while more than any group can hold is still in sight.
const QUEUE_BATCHES: usize = 1024;

/// The journal in a file. Dropping it waits for the commit that is under way.
#[derive(Debug)]
pub struct SqliteJournal {
    path: PathBuf,
    queue: Option<mpsc::Sender<Queued>>,
    writer: Option<thread::JoinHandle<()>>,
    counters: Arc<Counters>,
    _lock: Lock,
}

/// What the writer has done since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statistics {
    /// Batches answered, refused ones included.
    pub batches: u64,
    /// Transactions they took, each with one fsync.
    pub transactions: u64,
}

#[derive(Debug, Default)]
struct Counters {
    batches: AtomicU64,
    transactions: AtomicU64,
}

impl SqliteJournal {
    /// Opens the journal at `path`, or makes it with mode 0600; its directory must exist.
    ///
    /// # Errors
    /// When another process holds it, when it is newer than this program or not a journal at all,
    /// or when files, SQLite or threads fail.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = path.as_ref().to_owned();
        let lock = Lock::take(&path)?;
        create_private(&path).map_err(|source| OpenError::File {
            path: path.clone(),
            source,
        })?;
        let (connection, reserve) = open_with_reserve(&path)?;
        let counters = Arc::new(Counters::default());
        let (queue, queued) = mpsc::channel(QUEUE_BATCHES);
        let writer = Writer::new(connection, reserve, queued, Arc::clone(&counters));
        let writer = thread::Builder::new()
            .name("journal-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(OpenError::Thread)?;
        Ok(Self {
            path,
            queue: Some(queue),
            writer: Some(writer),
            counters,
            _lock: lock,
        })
    }

    /// What the writer has done so far.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        Statistics {
            batches: self.counters.batches.load(Ordering::Relaxed),
            transactions: self.counters.transactions.load(Ordering::Relaxed),
        }
    }
}

/// Even to open a database takes room, for the log and its index: on a full disk the reserve gives
/// it. A journal that cannot have its reserve then only gives things up.
fn open_with_reserve(path: &Path) -> Result<(Connection, Reserve), OpenError> {
    let failed = |source| OpenError::File {
        path: path.to_owned(),
        source,
    };
    let mut reserve = Reserve::open(path).map_err(failed)?;
    let connection = match schema::open(path) {
        Err(OpenError::Database { .. }) if reserve.spend().map_err(failed)? => schema::open(path)?,
        opened => opened?,
    };
    if !reserve.hold().map_err(failed)? {
        tracing::warn!(journal = %path.display(), "disk full: nothing new will be journalled");
    }
    Ok((connection, reserve))
}

/// SQLite gives the write-ahead log the mode of the database (`findCreateFileMode`, os_unix.c), so
/// making this one file private is enough. The directory is synced, or a power cut could forget it.
fn create_private(path: &Path) -> io::Result<()> {
    let file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::File::open(directory)?.sync_all()
}

#[async_trait]
impl Journal for SqliteJournal {
    fn load(&self) -> Result<Vec<Row>, LoadError> {
        read::every_row(&self.path)
    }

    async fn commit(&self, batch: Batch) -> Result<(), CommitError> {
        let room = batch.room;
        let outcome = outcome_of(batch)?;
        let (answer, answered) = oneshot::channel();
        let work = Work { outcome, room };
        let queued = Queued { work, answer };
        let queue = self.queue.as_ref().ok_or_else(writer_gone)?;
        queue.send(queued).await.map_err(|_| writer_gone())?;
        answered.await.map_err(|_| writer_gone())?
    }
}

/// The writer answers everything until it is told to end, so its absence is a bug in it.
fn writer_gone() -> CommitError {
    CommitError::Broken(Arc::new(io::Error::other("the writer thread has ended")))
}

impl Drop for SqliteJournal {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the journal's writer thread panicked");
        }
    }
}
