//! A view of the file system for a simulated machine: its own `/proc`, its own `/run`.
//!
//! Names of network namespaces are mounts under `/run/netns`, so each machine needs a `/run` of its
//! own, and what is kept under `/run` for all of them has to be put back into it.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags};

use super::trouble::{Doing, Trouble};

/// Puts the calling process, which has just got its own mount namespace and is the first of its own
/// pid namespace, before its own `/proc` and an empty `/run` that holds `kept` alone.
///
/// # Errors
/// When the kernel does not permit it: a container in which parts of `/proc` are hidden, for one.
pub(crate) fn make_own_view(kept: &Path) -> Result<(), Trouble> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).doing("keep mounts to this process")?;
    let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("proc", "/proc", "proc", plain, None).doing("mount /proc")?;
    let kept_open = rustix::fs::open(kept, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .doing(format_args!("open {}", kept.display()))?;
    rustix::mount::mount("tmpfs", "/run", "tmpfs", plain, Some(c"mode=0755"))
        .doing("mount /run")?;
    let real = PathBuf::from("/run");
    if kept.starts_with(&real) {
        fs::create_dir_all(kept).doing("make room under /run")?;
        let source = format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(&kept_open)
        );
        rustix::mount::mount_bind(source, kept).doing("put back what is under /run")?;
    }
    Ok(())
}

/// Lets `/proc` show another boot id, as a machine that has booted on its own has one.
///
/// # Errors
/// When the kernel does not permit it.
pub(crate) fn set_boot_id(id: &str) -> Result<(), Trouble> {
    const SHOWN: &str = "/proc/sys/kernel/random/boot_id";
    const KEPT: &str = "/run/boot_id";
    let doing = "set the boot id";
    fs::write(KEPT, format!("{id}\n")).doing(doing)?;
    rustix::mount::mount_bind(KEPT, SHOWN).doing(doing)
}
