//! Debian packages, downloaded and unpacked into the cache without being installed.
//!
//! ```text
//!   meta package ─► real package ─► .deb in the cache ─► unpacked directory
//!   (apt-cache)     (its version)    (apt-get download)   (dpkg-deb -x)
//! ```
//!
//! Once downloaded, a package serves without a network: when apt cannot deliver the newest kernel,
//! the one that was used last is used again.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::cache::{Cache, CacheLock};
use crate::command;

/// Reading apt's lists takes a second on a slow disk.
const QUERY_DEADLINE: Duration = Duration::from_secs(60);
/// A kernel is 30 to 60 MB, and mirrors may be slow.
const DOWNLOAD_DEADLINE: Duration = Duration::from_secs(600);

/// Kernels without drivers for hardware no VM has, Debian's first, then Ubuntu's: the smaller the
/// kernel, the faster it boots under emulation.
const KERNEL_META_PACKAGES: [&str; 3] = [
    "linux-image-cloud-amd64",
    "linux-image-kvm",
    "linux-image-virtual",
];

/// A package's name and version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PackageId {
    /// As apt knows it.
    pub(super) name: String,
    /// Version of the candidate.
    pub(super) version: String,
}

impl PackageId {
    fn directory_name(&self) -> String {
        format!(
            "unpacked/{}_{}",
            self.name,
            self.version.replace(':', "%3a")
        )
    }
}

/// The distribution's newest kernel for VMs, and beside it the package with its modules where the
/// distribution splits them (Ubuntu does).
///
/// # Errors
/// When apt knows no such kernel and none was used before.
pub(super) async fn newest_kernel(cache: &Cache) -> Result<Vec<PackageId>> {
    for meta in KERNEL_META_PACKAGES {
        let Ok(control) = control_of(meta).await else {
            continue;
        };
        let depends = field(&control, "Depends").unwrap_or_default();
        let image = dependencies(depends).find(|name| name.starts_with("linux-image-"));
        if let Some(image) = image {
            return with_modules(image).await;
        }
    }
    last_used(cache).context(
        "apt knows no kernel for VMs (linux-image-cloud-amd64 or linux-image-virtual): \
         run `apt-get update` first",
    )
}

async fn with_modules(image: &str) -> Result<Vec<PackageId>> {
    let control = control_of(image).await?;
    let depends = field(&control, "Depends").unwrap_or_default();
    let mut packages = vec![id_from(&control)?];
    for modules in dependencies(depends).filter(|name| name.starts_with("linux-modules-")) {
        packages.push(id_from(&control_of(modules).await?)?);
    }
    Ok(packages)
}

/// A directory with the content of the newest version of one package; when apt cannot deliver it,
/// of a version that was delivered before.
///
/// # Errors
/// When apt does not know the package, or cannot deliver it and never did.
pub(super) async fn obtained(cache: &Cache, lock: &CacheLock, name: &str) -> Result<PathBuf> {
    let newest = async {
        let candidate = id_from(&control_of(name).await?)?;
        unpacked(cache, lock, &candidate).await
    };
    match newest.await {
        Ok(directory) => Ok(directory),
        Err(error) => any_version(cache, name).ok_or(error),
    }
}

fn any_version(cache: &Cache, name: &str) -> Option<PathBuf> {
    let prefix = format!("{name}_");
    let entries = fs::read_dir(cache.path("unpacked")).ok()?;
    entries
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
}

async fn control_of(name: &str) -> Result<String> {
    let mut query = Command::new("apt-cache");
    query
        .args(["show", "--no-all-versions", name])
        .env("LC_ALL", "C");
    command::succeed(&mut query, QUERY_DEADLINE)
        .await
        .with_context(|| format!("looking for the package {name}"))
}

fn id_from(control: &str) -> Result<PackageId> {
    let value = |name| field(control, name).with_context(|| format!("no {name} in {control:?}"));
    Ok(PackageId {
        name: value("Package")?.to_owned(),
        version: value("Version")?.to_owned(),
    })
}

fn field<'a>(control: &'a str, name: &str) -> Option<&'a str> {
    control
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

/// Names in a `Depends` field: versions and all alternatives but the first dropped.
fn dependencies(depends: &str) -> impl Iterator<Item = &str> {
    depends
        .split(',')
        .filter_map(|one| one.split(['|', '(']).next())
        .map(str::trim)
}

/// A directory with the content of one package; downloaded and unpacked unless it is there.
///
/// # Errors
/// When apt cannot deliver it or dpkg-deb cannot unpack it.
pub(super) async fn unpacked(
    cache: &Cache,
    _lock: &CacheLock,
    package: &PackageId,
) -> Result<PathBuf> {
    let directory = cache.path(&package.directory_name());
    if directory.exists() {
        return Ok(directory);
    }
    let parent = cache.path("unpacked");
    fs::create_dir_all(&parent)?;
    let work = tempfile::tempdir_in(&parent)?;
    let deb = download(package, work.path()).await?;
    let content = work.path().join("content");
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("-x").arg(&deb).arg(&content);
    command::succeed(&mut unpack, DOWNLOAD_DEADLINE).await?;
    fs::rename(&content, &directory)?;
    Ok(directory)
}

async fn download(package: &PackageId, into: &Path) -> Result<PathBuf> {
    let wanted = format!("{}={}", package.name, package.version);
    let mut fetch = Command::new("apt-get");
    // Run by root, apt would drop to a user who may not write here, and warn about it.
    fetch
        .args([
            "download",
            "--quiet",
            "-o",
            "APT::Sandbox::User=root",
            &wanted,
        ])
        .current_dir(into);
    command::succeed(&mut fetch, DOWNLOAD_DEADLINE).await?;
    let files = fs::read_dir(into)?.collect::<Result<Vec<_>, _>>()?;
    let is_deb = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "deb");
    match files.iter().map(fs::DirEntry::path).find(is_deb) {
        Some(deb) => Ok(deb),
        None => bail!("apt-get download {wanted} left no .deb behind"),
    }
}

/// Remembers which kernel works, for the day there is no network.
///
/// # Errors
/// When the cache cannot be written.
pub(super) fn remember(cache: &Cache, packages: &[PackageId]) -> Result<()> {
    let line = |package: &PackageId| format!("{} {}\n", package.name, package.version);
    let text: String = packages.iter().map(line).collect();
    cache.keep("kernel-packages", text.as_bytes()).map(drop)
}

/// The kernel that was used last, if it is still unpacked.
#[must_use]
pub(super) fn last_used(cache: &Cache) -> Option<Vec<PackageId>> {
    let text = cache.text("kernel-packages")?;
    let parse = |line: &str| {
        let (name, version) = line.split_once(' ')?;
        let package = PackageId {
            name: name.to_owned(),
            version: version.to_owned(),
        };
        cache
            .path(&package.directory_name())
            .exists()
            .then_some(package)
    };
    text.lines().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTROL: &str = "Package: linux-image-cloud-amd64\nSource: linux-signed-amd64\n\
        Version: 6.1.192-2\nDepends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2), kmod | x\n";

    #[test]
    fn the_real_kernel_is_read_out_of_the_meta_package() {
        let depends = field(CONTROL, "Depends").unwrap();

        let names: Vec<&str> = dependencies(depends).collect();

        assert_eq!(names, ["linux-image-6.1.0-56-cloud-amd64", "kmod"]);
    }

    #[test]
    fn name_and_version_come_from_the_control_fields() {
        let package = id_from(CONTROL).unwrap();

        assert_eq!(package.name, "linux-image-cloud-amd64");
        assert_eq!(package.version, "6.1.192-2");
    }
}
