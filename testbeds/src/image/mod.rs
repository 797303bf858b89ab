//! A guest made of the distribution's own packages, without installing any: kernel, busybox, `ip`,
//! qemu-guest-agent, and our agent, in an initramfs.
//!
//! ```text
//!   linux-image-… ─ unpack ─► vmlinuz ────────────────────────────────► GuestImage.kernel
//!                        └──► modules in load order ─┐
//!   busybox-static ─ unpack ─► sh, ping, nsenter … ──┤
//!   this host's ip and its libraries ────────────────┼─► cpio ─► GuestImage.initramfs
//!   qemu-guest-agent ─ unpack ─► qemu-ga + libraries ┤
//!   cargo build, static ─► guest-agent ──────────────┘
//! ```
//!
//! The initramfs is kept under a key made of everything that goes into it, so a changed agent or
//! script makes a new one, and nothing else does.

mod cpio;
mod libraries;
mod modules;
mod packages;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::build;
use crate::cache::{Cache, CacheLock, content_key};
use crate::command;

use cpio::Archive;
use packages::PackageId;

pub use libraries::host_program;

/// busybox answers at once; a machine full of builds may keep it waiting.
const BUSYBOX_DEADLINE: Duration = Duration::from_secs(30);

/// busybox init's table: what runs once, and what is started again when it ends. Each service is a
/// script of ours except the login on the console.
const INITTAB: &str = "\
::sysinit:/sbin/testbed-init
::respawn:/sbin/testbed-shell
::respawn:/sbin/testbed-agent
::respawn:/sbin/testbed-qemu-ga
ttyS0::askfirst:-/bin/sh
";

/// A guest that can be booted.
#[derive(Debug, Clone)]
pub struct GuestImage {
    /// For `-kernel`.
    pub kernel: PathBuf,
    /// For `-initrd`.
    pub initramfs: PathBuf,
    /// Which kernel it is, for people: package name and version.
    pub kernel_version: String,
}

/// The image of this workspace's agent on the distribution's newest kernel, made if need be.
///
/// # Errors
/// When a package cannot be had, the agent does not build, or the cache cannot be written.
pub async fn guest_image(cache: &Cache) -> Result<GuestImage> {
    let agent = build::static_guest_agent(cache).await?;
    let lock = cache.lock().await?;
    let (packages, roots) = kernel(cache, &lock).await?;
    let busybox = packages::obtained(cache, &lock, "busybox-static").await?;
    let guest_agent = packages::obtained(cache, &lock, "qemu-guest-agent").await?;
    let mut archive = base(&busybox).await?;
    add_modules(&mut archive, &roots).await?;
    add_host_program(&mut archive, "/sbin/ip", &host_program("ip")?).await?;
    let qemu_ga = guest_agent.join("usr/sbin/qemu-ga");
    add_host_program(&mut archive, "/sbin/qemu-ga", &qemu_ga).await?;
    archive.program("/sbin/guest-agent", read(&agent)?);
    let kernel = roots.iter().find_map(|root| vmlinuz(root));
    Ok(GuestImage {
        kernel: kernel.context("the kernel package has no boot/vmlinuz-*")?,
        initramfs: packed(cache, &archive)?,
        kernel_version: format!("{} {}", packages[0].name, packages[0].version),
    })
}

/// The newest kernel that can be had: without a network, the one used before.
async fn kernel(cache: &Cache, lock: &CacheLock) -> Result<(Vec<PackageId>, Vec<PathBuf>)> {
    let newest = packages::newest_kernel(cache).await?;
    let (packages, roots) = match all_unpacked(cache, lock, &newest).await {
        Ok(roots) => (newest, roots),
        Err(error) => {
            let older = packages::last_used(cache).ok_or(error)?;
            let roots = all_unpacked(cache, lock, &older).await?;
            (older, roots)
        }
    };
    packages::remember(cache, &packages)?;
    Ok((packages, roots))
}

async fn all_unpacked(
    cache: &Cache,
    lock: &CacheLock,
    packages: &[PackageId],
) -> Result<Vec<PathBuf>> {
    let mut roots = Vec::new();
    for package in packages {
        roots.push(packages::unpacked(cache, lock, package).await?);
    }
    Ok(roots)
}

fn vmlinuz(root: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(root.join("boot")).ok()?;
    let is_kernel = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("vmlinuz-"))
    };
    entries.flatten().map(|entry| entry.path()).find(is_kernel)
}

/// Everything that does not depend on kernel or agent: busybox with its applets, init and services.
async fn base(busybox_package: &Path) -> Result<Archive> {
    let busybox = ["bin/busybox", "usr/bin/busybox"]
        .map(|path| busybox_package.join(path))
        .into_iter()
        .find(|path| path.is_file())
        .context("the package busybox-static has no bin/busybox")?;
    let mut archive = Archive::default();
    for directory in ["dev", "proc", "root", "run", "sys", "tmp"] {
        archive.directory(directory);
    }
    // The kernel opens it for the first process before devtmpfs is mounted.
    archive.character_device("/dev/console", 5, 1);
    let mut list = tokio::process::Command::new(&busybox);
    for applet in command::succeed(list.arg("--list"), BUSYBOX_DEADLINE)
        .await?
        .lines()
    {
        // iproute2's has namespaces and JSON, busybox's has neither.
        if !["busybox", "ip"].contains(&applet) {
            archive.symlink(&format!("/bin/{applet}"), "busybox");
        }
    }
    archive.program("/bin/busybox", read(&busybox)?);
    archive.symlink("/init", "/bin/busybox");
    archive.file("/etc/inittab", INITTAB.into());
    archive.file("/etc/passwd", b"root::0:0:root:/:/bin/sh\n".into());
    archive.program("/sbin/testbed-init", include_bytes!("init.sh").into());
    archive.program("/sbin/testbed-shell", include_bytes!("shell.sh").into());
    archive.program("/sbin/testbed-agent", include_bytes!("agent.sh").into());
    archive.program("/sbin/testbed-qemu-ga", include_bytes!("qemu-ga.sh").into());
    Ok(archive)
}

async fn add_modules(archive: &mut Archive, roots: &[PathBuf]) -> Result<()> {
    let mut order = String::new();
    for module in modules::in_load_order(roots).await? {
        order = order + &module.name + "\n";
        archive.file(&format!("/lib/modules/{}.ko", module.name), module.content);
    }
    archive.file("/lib/modules/load-order", order.into());
    Ok(())
}

/// A dynamically linked program, with its libraries where the loader will look for them.
async fn add_host_program(archive: &mut Archive, path: &str, program: &Path) -> Result<()> {
    archive.program(path, read(program)?);
    for library in libraries::of(program).await? {
        let place = library.to_str().context("library paths are ASCII")?;
        archive.program(place, read(&library)?);
    }
    Ok(())
}

/// Uncompressed: a guest under emulation unpacks gzip no faster than it reads twice the bytes
/// (measured: 3.4 s to the shell either way).
fn packed(cache: &Cache, archive: &Archive) -> Result<PathBuf> {
    let mut plain = Vec::new();
    archive.write(&mut plain)?;
    let name = format!("initramfs-{}.cpio", content_key([plain.as_slice()]));
    let path = cache.path(&name);
    if path.exists() {
        return Ok(path);
    }
    forget_older_images(cache)?;
    cache.keep(&name, &plain)
}

/// An agent under development makes an image with every change: the last few are enough.
fn forget_older_images(cache: &Cache) -> Result<()> {
    const KEPT: usize = 3;
    let mut images = Vec::new();
    for entry in fs::read_dir(cache.path(""))? {
        let entry = entry?;
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with("initramfs-")
        {
            images.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    images.sort();
    for (_, path) in images.iter().rev().skip(KEPT) {
        fs::remove_file(path)?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}
