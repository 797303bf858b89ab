//! The repository's own text files, in memory: some hundred kilobytes, read once.
//!
//! Taken from git and not from the disk, so that build output and a person's private notes are
//! nobody's business; files not yet added count, so that tidy complains before the commit.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::process;

/// Path relative to the root → content. Files that are not UTF-8 have a path and no text.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    texts: BTreeMap<String, String>,
    paths: BTreeSet<String>,
}

impl Tree {
    pub(crate) fn load() -> anyhow::Result<Self> {
        let root = process::root()?;
        let mut git = process::command("git")?;
        // CI often clones as one user and runs as another; listing files needs no trust in either.
        git.args(["-c", "safe.directory=*"]);
        git.args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ]);
        let listing = process::output(&mut git)?;
        let mut tree = Self::default();
        for path in listing.split_terminator('\0') {
            tree.read(&root, path);
        }
        Ok(tree)
    }

    /// A file that git lists and the disk lacks is one that is about to be deleted.
    fn read(&mut self, root: &Path, path: &str) {
        if let Ok(bytes) = std::fs::read(root.join(path)) {
            self.add_path(path);
            self.texts
                .extend(String::from_utf8(bytes).map(|text| (path.to_owned(), text)));
        }
    }

    fn add_path(&mut self, path: &str) {
        let ancestors = Path::new(path).ancestors().filter_map(Path::to_str);
        self.paths
            .extend(ancestors.filter(|path| !path.is_empty()).map(str::to_owned));
    }

    pub(crate) fn len(&self) -> usize {
        self.texts.len()
    }

    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.texts.get(path).map(String::as_str)
    }

    /// Every text file, by path.
    pub(crate) fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts
            .iter()
            .map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// Whether a file or a folder of this name, relative to the root, exists.
    pub(crate) fn contains(&self, path: &str) -> bool {
        self.paths.contains(path.trim_end_matches('/'))
    }

    /// Whether some path ends with this one, `nic-model/src`.
    pub(crate) fn contains_ending(&self, ending: &str) -> bool {
        let ending = ending.trim_end_matches('/');
        let below = format!("/{ending}");
        self.paths
            .iter()
            .any(|path| path == ending || path.ends_with(&below))
    }
}

#[cfg(test)]
impl Tree {
    /// A tree made by hand.
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let mut tree = Self::default();
        for (path, text) in files {
            tree.add_path(path);
            tree.texts.insert((*path).to_owned(), (*text).to_owned());
        }
        tree
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_exist_through_their_files() {
        let tree = Tree::of(&[("hostd/src/main.rs", "")]);

        assert!(tree.contains("hostd/src/"));
        assert!(tree.contains("hostd/src/main.rs"));
        assert!(!tree.contains("hostd/main.rs"));
    }

    #[test]
    fn a_path_is_found_by_its_ending_only_at_a_folder_boundary() {
        let tree = Tree::of(&[("hostd/src/main.rs", "")]);

        assert!(tree.contains_ending("src/main.rs"));
        assert!(!tree.contains_ending("rc/main.rs"));
    }
}
