//! The disk of a host: small, its own, and full when somebody wants it to be.
//!
//! ```text
//!   mount ──► has room ── fill ──► full ── free ──► has room
//!                                   │ what was kept back is kept back still, and what is on it
//!                                   └ can be written over
//! ```
//!
//! A file system in memory, which an ordinary user may mount in a user namespace, and no part of
//! any disk of the machine. It is really full: what hostd makes of that is hostd's own.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};

/// Room for the journal of thousands of NICs, its log, and what hostd keeps back.
const OPTIONS: &std::ffi::CStr = c"mode=0700,size=32m";
/// What takes all room.
const FILLER: &str = "filler";
/// What a file system in memory gives out at a time, in bytes.
static PAGE: [u8; 4096] = [0; 4096];
/// Many of them at once.
static CHUNK: [u8; 64 * 4096] = [0; 64 * 4096];

/// One disk, by the directory it is mounted at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDisk {
    directory: PathBuf,
}

impl HostDisk {
    /// That at a directory.
    #[must_use]
    pub const fn at(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Makes the directory and mounts it in the caller's mount namespace; files that were there are
    /// on it.
    ///
    /// # Errors
    /// When the kernel does not permit it, or the files do not fit.
    pub fn mount(&self) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        let mut kept = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            kept.push((fs::read(&path)?, path));
        }
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        rustix::mount::mount("tmpfs", &self.directory, "tmpfs", flags, Some(OPTIONS))?;
        for (content, path) in kept {
            fs::write(path, content)?;
        }
        Ok(())
    }

    /// Takes it away, also from under those who use it; none is fine.
    pub fn unmount(directory: &Path) {
        // One that is not mounted here is as it should be.
        rustix::mount::unmount(directory, UnmountFlags::DETACH).unwrap_or_default();
    }

    /// Takes all the room there is; a disk that is full stays so all the while.
    ///
    /// # Errors
    /// When that goes wrong otherwise than by the disk's being full.
    pub fn fill(&self) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.append(true).create(true);
        let mut filler = options.open(self.directory.join(FILLER))?;
        for piece in [CHUNK.as_slice(), PAGE.as_slice()] {
            fill_by(&mut filler, piece)?;
        }
        Ok(())
    }

    /// Whether [`Self::fill`] has been called since it last had room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.directory.join(FILLER).exists()
    }

    /// Ends [`Self::fill`]; a disk that is not full is fine.
    ///
    /// # Errors
    /// When the room cannot be given back.
    pub fn free(&self) -> io::Result<()> {
        match fs::remove_file(self.directory.join(FILLER)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn fill_by(filler: &mut File, piece: &[u8]) -> io::Result<()> {
    loop {
        match filler.write_all(piece) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_takes_nothing_until_it_is_freed_and_keeps_what_it_has() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("journal"), "kept").unwrap();
        let disk = HostDisk::at(path.clone());
        disk.mount().unwrap();

        disk.fill().unwrap();
        let refused = fs::write(path.join("more"), PAGE).map_err(|error| error.kind());
        let kept = fs::read_to_string(path.join("journal"));
        disk.free().unwrap();
        let taken = fs::write(path.join("more"), PAGE);
        HostDisk::unmount(&path);

        assert_eq!(refused, Err(io::ErrorKind::StorageFull));
        assert_eq!(kept.unwrap(), "kept");
        taken.unwrap();
    }

    #[test]
    fn a_full_disk_that_is_filled_again_has_no_room_meanwhile() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        let disk = HostDisk::at(path.clone());
        disk.mount().unwrap();
        disk.fill().unwrap();
        let filler = path.join(FILLER);
        let mut options = OpenOptions::new();
        let mut marked = options.write(true).open(&filler).unwrap();
        marked.write_all(b"mark").unwrap();

        disk.fill().unwrap();
        let filled = fs::read(&filler);
        HostDisk::unmount(&path);

        // Nothing of it was ever given back.
        assert!(filled.unwrap().starts_with(b"mark"));
    }
}
