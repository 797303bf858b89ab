//! One error for each thing that can be asked of a journal.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::{Claim, Row, RowKind};

/// From [`crate::SqliteJournal::open`].
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process works on this journal.
    #[error("the journal {} is held by {}", path.display(), holder(*pid))]
    Held {
        /// The journal.
        path: PathBuf,
        /// Who, where the lock file tells.
        pid: Option<u32>,
    },
    /// A newer hostd has written it; an older one would misread it.
    #[error(
        "the journal {} has schema version {found}, this program knows versions up to {supported}",
        path.display()
    )]
    NewerSchema {
        /// The journal.
        path: PathBuf,
        /// Version in the file.
        found: i64,
        /// Newest version this program knows.
        supported: i64,
    },
    /// A database of something else.
    #[error("{} is not a journal of hostd", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A file or directory could not be used.
    #[error("failed to use {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// SQLite could not open it or make its tables.
    #[error("failed to open the journal {}", path.display())]
    Database {
        /// The journal.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// The writer thread could not be started.
    #[error("failed to start the journal's writer")]
    Thread(#[source] io::Error),
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or("another process".to_owned(), |pid| format!("pid {pid}"))
}

/// From [`crate::Journal::load`].
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A row is not what was written: torn, or changed by something else than hostd.
    #[error("row {key:?} of kind {kind:?} in {} is damaged: its checksum differs", file.display())]
    Damaged {
        /// The row's kind as it stands in the file.
        kind: String,
        /// The row's key.
        key: String,
        /// The journal.
        file: PathBuf,
    },
    /// The store as a whole cannot be read.
    #[error("failed to read the journal {}", file.display())]
    Unreadable {
        /// The journal.
        file: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
}

/// From [`crate::Journal::commit`]. Only [`CommitError::Broken`] says anything about the store's
/// health; in the other cases the batch is not applied and the next one may well be.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    /// Another row holds something the batch claims.
    #[error("{claim} is taken by {by}")]
    ClaimTaken {
        /// What was claimed.
        claim: Claim,
        /// Key of the row that holds it.
        by: String,
    },
    /// A body is longer than the journal keeps.
    #[error(
        "the body of {kind} {key} has {bytes} bytes, more than {}",
        Row::BODY_MAX_BYTES
    )]
    TooLarge {
        /// The row's kind.
        kind: RowKind,
        /// The row's key.
        key: String,
        /// Length of its body.
        bytes: usize,
    },
    /// No space left on the device or in the quota, but for what is kept back for batches that may
    /// use it ([`crate::Room::Reserve`]): they go through all the same, until that is used up too.
    #[error("the journal's disk is full")]
    Full,
    /// Anything else, a failed fsync above all. Whether the batch is on the disk is unknown and
    /// cannot be found out by trying again (Rebello et al., "Can Applications Recover from fsync
    /// Failures?", ATC '20): the process must abort and load what is there.
    #[error("the journal is broken")]
    Broken(#[source] Arc<dyn Error + Send + Sync>),
}
