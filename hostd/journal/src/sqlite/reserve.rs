//! Room on the disk that is kept back for giving things up.
//!
//! ```text
//!   held ──(a batch that may use it meets a full disk)──► spent
//!    ▲                                                      │
//!    └──(another batch comes, and there is room again)──────┘   until then that one is refused
//! ```
//!
//! On a full disk nothing new is promised, but what was promised must still be taken back: only so
//! does a host get out of it. SQLite cannot tell the one from the other: even a DELETE is appended
//! to its log first, and `max_page_count` bounds the database but not the disk, which others fill
//! too. So a file beside the journal holds blocks that nobody else can have. Emptied, it leaves
//! them to the log, which grows to some 4 MiB (a checkpoint every 1000 pages: sqlite.org/wal.html)
//! and is then written over from its beginning: from there on a removal needs no more room.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

/// Twice what the log grows to.
const RESERVE_BYTES: u64 = 8 * 1024 * 1024;
/// What SQLite writes at once, but for the head of a frame.
const PAGE: [u8; 4096] = [0; 4096];

/// The file, and whether it has its blocks.
#[derive(Debug)]
pub(super) struct Reserve {
    file: File,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Held,
    /// Spent, or as an earlier life left it.
    Unsure,
}

impl Reserve {
    /// Opens the reserve of `journal` as an earlier life left it.
    pub(super) fn open(journal: &Path) -> io::Result<Self> {
        let mut name = journal.as_os_str().to_owned();
        name.push(".reserve");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&name)?;
        let state = State::Unsure;
        Ok(Self { file, state })
    }

    /// Whether the reserve is held, or could be had just now.
    pub(super) fn hold(&mut self) -> io::Result<bool> {
        if self.state == State::Held {
            return Ok(true);
        }
        match allocate(&self.file) {
            Ok(()) => {
                self.state = State::Held;
                Ok(true)
            }
            Err(error) if says_no_room(&error) => {
                // A part of it may have been had: that is for removals as well.
                self.spend()?;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Gives up what is held, and tells whether that was anything.
    pub(super) fn spend(&mut self) -> io::Result<bool> {
        let was_something = self.file.metadata()?.len() > 0;
        self.state = State::Unsure;
        self.file.set_len(0)?;
        Ok(was_something)
    }

    /// Whether there is no room for a page more.
    pub(super) fn lacks_room(&self) -> io::Result<bool> {
        let len = self.file.metadata()?.len();
        let written = self.file.write_all_at(&PAGE, len);
        self.file.set_len(len)?;
        Ok(written.is_err_and(|error| says_no_room(&error)))
    }
}

fn says_no_room(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Not every file system allocates blocks that nobody has written (NFS before 4.2 does not).
fn allocate(file: &File) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, RESERVE_BYTES) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP) => fill(file),
        Err(error) => Err(error.into()),
    }
}

fn fill(file: &File) -> io::Result<()> {
    let mut at = 0;
    while at < RESERVE_BYTES {
        file.write_all_at(&PAGE, at)?;
        at += PAGE.len() as u64;
    }
    file.sync_data()
}
