//! The shared libraries of a program, so that it runs in a guest that has nothing else.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::command;

const DEADLINE: Duration = Duration::from_secs(30);

/// Every library `program` is loaded with on this host, the loader included, by absolute path.
///
/// # Errors
/// When a library is missing on this host.
pub(super) async fn of(program: &Path) -> Result<Vec<PathBuf>> {
    let mut query = Command::new("ldd");
    query.arg(program).env("LC_ALL", "C");
    let listing = command::succeed(&mut query, DEADLINE).await?;
    listed(&listing).with_context(|| format!("looking for the libraries of {}", program.display()))
}

fn listed(listing: &str) -> Result<Vec<PathBuf>> {
    let mut libraries = Vec::new();
    for line in listing.lines().map(str::trim) {
        let (name, path) = line.split_once(" => ").unwrap_or(("", line));
        if path.starts_with("not found") {
            bail!("this host has no {name}");
        }
        // "linux-vdso.so.1 (0x…)" is the kernel's own and has no file.
        let path = path.split(' ').next().unwrap_or_default();
        if path.starts_with('/') {
            libraries.push(PathBuf::from(path));
        }
    }
    Ok(libraries)
}

/// A program of this host, in the places where administrators' programs are too.
///
/// # Errors
/// When it is not there.
pub fn host_program(name: &str) -> Result<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/sbin", "/usr/sbin"])
        .map(|directory| Path::new(directory).join(name))
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("this host has no program {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_loader_are_read_from_the_listing() {
        let listing = "\tlinux-vdso.so.1 (0x00007fff)\n\
            \tlibmnl.so.0 => /lib/x86_64-linux-gnu/libmnl.so.0 (0x00007f)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";

        let libraries = listed(listing).unwrap();

        let expected = [
            "/lib/x86_64-linux-gnu/libmnl.so.0",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(libraries, expected.map(PathBuf::from));
    }

    #[test]
    fn a_missing_library_is_named() {
        let error = listed("\tlibnuma.so.1 => not found\n").unwrap_err();

        assert_eq!(error.to_string(), "this host has no libnuma.so.1");
    }
}
