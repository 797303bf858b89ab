//! One hostd a journal: two of them would each plug by a ledger of their own.
//!
//! SQLite's own locks last for a transaction, so a second lock for the life of the process sits in
//! a sibling file. The kernel drops it with the process, `kill -9` included; the pid in it is for
//! the message alone and is never trusted.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::OpenError;

/// An exclusive `flock` for as long as the value lives.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock beside `journal`, without waiting.
    pub(super) fn take(journal: &Path) -> Result<Self, OpenError> {
        let path = lock_path(journal);
        let failed = |source| OpenError::File {
            path: path.clone(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::Held {
                    path: journal.to_owned(),
                    pid: read_pid(&mut file),
                });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        write_pid(&mut file).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

fn lock_path(journal: &Path) -> PathBuf {
    let mut name = journal.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    // Ten digits and a newline: whatever else the file holds is not read.
    file.take(11).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}
