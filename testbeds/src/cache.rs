//! What is made once and kept under `target/testbeds`: packages, guest images, decisions.
//!
//! Every entry appears whole or not at all (made beside its place, then renamed into it), and a
//! lock keeps two test runs from making the same entry at the same time.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// The directory of everything kept between runs.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

/// The right to make entries, held by one process at a time; given back when dropped.
#[derive(Debug)]
pub struct CacheLock {
    _file: File,
}

impl Cache {
    /// The workspace's own cache.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn open() -> Result<Self> {
        let root = target_directory().join("testbeds");
        fs::create_dir_all(&root).with_context(|| format!("making {}", root.display()))?;
        Ok(Self { root })
    }

    /// Where the entry `name` is or will be.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Waits until no other process makes entries.
    ///
    /// # Errors
    /// When the lock file cannot be opened or locked.
    pub async fn lock(&self) -> Result<CacheLock> {
        let path = self.path("lock");
        let file = File::create(&path).with_context(|| format!("opening {}", path.display()))?;
        let lock = move || file.lock().map(|()| CacheLock { _file: file });
        tokio::task::spawn_blocking(lock)
            .await?
            .with_context(|| format!("locking {}", path.display()))
    }

    /// A text kept under `name`, if there is one.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.path(name)).ok()
    }

    /// Keeps `content` under `name`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep(&self, name: &str, content: &[u8]) -> Result<PathBuf> {
        let path = self.path(name);
        let write = || -> Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(&self.root)?;
            file.write_all(content)?;
            fs::create_dir_all(path.parent().unwrap_or(&self.root))?;
            file.persist(&path)?;
            Ok(())
        };
        write().with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }
}

/// Cargo's target directory: above the running program (`target/debug/deps/scenarios-…`), wherever
/// `CARGO_TARGET_DIR` has put it.
#[must_use]
pub fn target_directory() -> PathBuf {
    let marked = |directory: &&Path| directory.join("CACHEDIR.TAG").exists();
    std::env::current_exe()
        .ok()
        .and_then(|program| program.ancestors().skip(1).find(marked).map(Path::to_owned))
        .unwrap_or_else(|| workspace_directory().join("target"))
}

/// Root of the workspace, as it was when this was compiled.
#[must_use]
pub fn workspace_directory() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

/// Sixteen hex digits that stand for the contents of `parts`: equal parts, equal digits.
#[must_use]
pub fn content_key<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    let digest = hash.finalize();
    digest[..8]
        .iter()
        .fold(String::new(), |key, byte| key + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_tells_apart_contents_that_only_differ_in_where_they_are_cut() {
        let whole = content_key([b"ab".as_slice(), b"c"]);
        let cut_elsewhere = content_key([b"a".as_slice(), b"bc"]);

        assert_ne!(whole, cut_elsewhere);
        assert_eq!(whole.len(), 16);
    }
}
