//! The durable store of hostd.
//!
//! hostd acts on the world only after its intent would survive `kill -9`, so every side effect
//! waits for a [`Journal::commit`] to resolve. The journal knows nothing of NICs: a [`Row`] is a
//! kind, a key and a text, and a [`Claim`] is something that one row at most may hold. Claims are
//! where two NICs can never get one MAC address, whatever the code above believes.
//!
//! ```text
//!   open ──► load (every row, checked) ──► commit … commit ──► dropped, or killed at any point
//!                                            │
//!                                            ├─ ClaimTaken, TooLarge   this batch refused alone
//!                                            ├─ Full                   nothing applied, go on:
//!                                            │                         removals have a reserve
//!                                            └─ Broken                 state unknown: abort
//! ```

mod batch;
mod error;
mod memory;
mod row;
mod sqlite;

use async_trait::async_trait;

pub use batch::{Batch, Change, Room};
pub use error::{CommitError, LoadError, OpenError};
pub use memory::MemoryJournal;
pub use row::{Claim, Row, RowKind};
pub use sqlite::{SqliteJournal, Statistics};

/// A store of rows whose commits are atomic and survive the process.
#[async_trait]
pub trait Journal: Send + Sync + 'static {
    /// Every row, ordered by kind and key, each one's claims in order. Reads from the disk: call
    /// it at start-up, not on the way of a request.
    ///
    /// # Errors
    /// When the store cannot be read, or a row is not what was written.
    fn load(&self) -> Result<Vec<Row>, LoadError>;

    /// Applies all of `batch` or nothing; durable once it has resolved to `Ok`.
    ///
    /// Dropping the future leaves open whether the batch is applied. There is no deadline here,
    /// since a write to a disk cannot be called back.
    ///
    /// # Errors
    /// See [`CommitError`]: after [`CommitError::Broken`] the process must end.
    async fn commit(&self, batch: Batch) -> Result<(), CommitError>;
}
