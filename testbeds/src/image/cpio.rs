//! The archive a Linux kernel unpacks as its first root: cpio in the "newc" format
//! (Documentation/driver-api/early-userspace/buffer-format.rst in the kernel's tree).
//!
//! Written here because it is forty lines, and because the host's `cpio` program is not part of a
//! minimal Debian.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

/// File type bits of `st_mode` (`include/uapi/linux/stat.h`).
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// One thing in the archive.
#[derive(Debug)]
enum Entry {
    Directory,
    File { mode: u32, content: Vec<u8> },
    Symlink { to: String },
    CharacterDevice { major: u32, minor: u32 },
}

/// A root file system in memory: each path once, parents before children, in a fixed order, so
/// that equal contents make equal archives.
#[derive(Debug, Default)]
pub(super) struct Archive {
    entries: BTreeMap<String, Entry>,
}

impl Archive {
    /// Adds a directory and its parents.
    pub(super) fn directory(&mut self, path: &str) {
        let path = path.trim_matches('/');
        if path.is_empty() || self.entries.contains_key(path) {
            return;
        }
        self.parents_of(path);
        self.entries.insert(path.to_owned(), Entry::Directory);
    }

    /// Adds a file that everybody may execute.
    pub(super) fn program(&mut self, path: &str, content: Vec<u8>) {
        let mode = 0o755;
        self.insert(path, Entry::File { mode, content });
    }

    /// Adds a file that everybody may read.
    pub(super) fn file(&mut self, path: &str, content: Vec<u8>) {
        let mode = 0o644;
        self.insert(path, Entry::File { mode, content });
    }

    /// Adds a symbolic link.
    pub(super) fn symlink(&mut self, path: &str, to: &str) {
        let to = to.to_owned();
        self.insert(path, Entry::Symlink { to });
    }

    /// Adds a device node.
    pub(super) fn character_device(&mut self, path: &str, major: u32, minor: u32) {
        self.insert(path, Entry::CharacterDevice { major, minor });
    }

    fn insert(&mut self, path: &str, entry: Entry) {
        let path = path.trim_matches('/');
        self.parents_of(path);
        self.entries.insert(path.to_owned(), entry);
    }

    fn parents_of(&mut self, path: &str) {
        if let Some(parent) = Path::new(path).parent().and_then(Path::to_str) {
            self.directory(parent);
        }
    }

    /// Writes the archive, trailer included.
    ///
    /// # Errors
    /// When `to` cannot be written, or a file is larger than the format's 4 GiB.
    pub(super) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        for (number, (path, entry)) in (1_u32..).zip(&self.entries) {
            let (mode, content, device) = match entry {
                Entry::Directory => (DIRECTORY | 0o755, &[] as &[u8], (0, 0)),
                Entry::File { mode, content } => (REGULAR | mode, content.as_slice(), (0, 0)),
                Entry::Symlink { to } => (SYMLINK | 0o777, to.as_bytes(), (0, 0)),
                Entry::CharacterDevice { major, minor } => {
                    (CHARACTER_DEVICE | 0o600, &[] as &[u8], (*major, *minor))
                }
            };
            write_entry(to, number, path, mode, content, device)?;
        }
        write_entry(to, 0, "TRAILER!!!", 0, &[], (0, 0))
    }
}

fn write_entry(
    to: &mut impl Write,
    inode: u32,
    path: &str,
    mode: u32,
    content: &[u8],
    (major, minor): (u32, u32),
) -> io::Result<()> {
    let too_large = |_| io::Error::other("a file is too large for a cpio archive");
    let content_len = u32::try_from(content.len()).map_err(too_large)?;
    let name_len = u32::try_from(path.len() + 1).map_err(too_large)?;
    // magic, ino, mode, uid, gid, nlink, mtime, filesize, dev, rdev, namesize, check.
    let fields = [
        inode,
        mode,
        0,
        0,
        1,
        0,
        content_len,
        0,
        0,
        major,
        minor,
        name_len,
        0,
    ];
    write!(to, "070701")?;
    for field in fields {
        write!(to, "{field:08X}")?;
    }
    write!(to, "{path}\0")?;
    pad(to, 110 + path.len() + 1)?;
    to.write_all(content)?;
    pad(to, content.len())
}

/// Header with name, and content, each end on a multiple of four bytes.
fn pad(to: &mut impl Write, written: usize) -> io::Result<()> {
    to.write_all(&[0; 3][..written.next_multiple_of(4) - written])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(archive: &Archive) -> Vec<u8> {
        let mut bytes = Vec::new();
        archive.write(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn parents_come_before_their_children() {
        let mut archive = Archive::default();
        archive.file("/etc/deep/motd", b"hello".to_vec());

        let names: Vec<&String> = archive.entries.keys().collect();

        assert_eq!(names, ["etc", "etc/deep", "etc/deep/motd"]);
    }

    #[test]
    fn an_entry_is_laid_out_as_the_kernel_reads_it() {
        let mut archive = Archive::default();
        archive.program("a", b"xy".to_vec());

        let bytes = bytes(&archive);

        let header = std::str::from_utf8(&bytes[..110]).unwrap();
        assert!(header.starts_with("07070100000001000081ED"), "{header}");
        assert_eq!(&header[54..62], "00000002", "file size");
        assert_eq!(&bytes[110..112], b"a\0");
        assert_eq!(&bytes[112..116], b"xy\0\0");
        assert_eq!(&bytes[116..122], b"070701");
        assert_eq!(bytes.len() % 4, 0);
    }
}
