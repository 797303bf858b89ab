//! Where the files of a simulated cloud are: a directory of its own for each, private to the user.
//!
//! ```text
//!   $XDG_RUNTIME_DIR/nicferry/NAME   or   /tmp/nicferry-UID/NAME
//!     plan.json  state.json  control.sock  control-tcp.sock     of the simulator
//!     host1.sock host1.toml  host1.disk/journal.sqlite …    of each host
//!     vm1.qmp    vm1.agent   vm1.guest  vm1.log   of each VM
//! ```

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nic_model::VmId;
use rustix::fs::FlockOperation;
use rustix::io::FdFlags;
use tokio::sync::oneshot;

use super::disk::HostDisk;
use super::topology::HostName;
use super::trouble::{Doing, Trouble};

/// The name of a simulated cloud.
pub type CloudName = VmId;

/// Longest path of a socket (`sun_path` of unix(7), less its terminator).
const SOCKET_PATH_MAX: usize = 107;
/// What the name of a disk's directory ends with.
const DISK: &str = "disk";

/// The directory of one simulated cloud.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    directory: PathBuf,
}

/// A directory that nobody else uses while this is held, or any process that has inherited it.
#[derive(Debug)]
pub struct Claim {
    site: Site,
    lock: File,
}

/// The lock of a cloud that runs, to be awaited.
#[derive(Debug)]
pub(super) struct Held {
    lock: File,
}

/// Another one uses the directory.
#[derive(Debug, thiserror::Error)]
#[error("it runs already")]
struct RunsAlready;

/// A directory that others can write to.
#[derive(Debug, thiserror::Error)]
#[error("it is not this user's alone")]
struct NotPrivate;

/// A name that leads to sockets which cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("{path} is longer than the {SOCKET_PATH_MAX} bytes that a socket's path may have")]
struct PathTooLong {
    path: String,
}

impl Site {
    /// That of the cloud `name` of this user.
    #[must_use]
    pub fn of(name: &CloudName) -> Self {
        let uid = rustix::process::getuid().as_raw();
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let usable = |path: &PathBuf| path.is_absolute() && path.is_dir();
        let base = match runtime.filter(usable) {
            Some(runtime) => runtime.join("nicferry"),
            None => PathBuf::from(format!("/tmp/nicferry-{uid}")),
        };
        Self::at(base.join(name.as_str()))
    }

    /// That in a directory.
    #[must_use]
    pub const fn at(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// The directory itself.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes the directory, empty, unless the cloud runs.
    ///
    /// # Errors
    /// When it runs, or the directory cannot be had for this user alone.
    pub fn claim(&self) -> Result<Claim, Trouble> {
        let claim = format!("claim {}", self.directory.display());
        let parent = self.directory.parent().unwrap_or(Path::new("/"));
        make_private(parent).doing(&claim)?;
        let lock = loop {
            let lock = File::create(self.lock_file()).doing(&claim)?;
            if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
                return Err(Trouble::new(claim, RunsAlready));
            }
            // Whoever had it before removes it last of all.
            if self.has(&lock).doing(&claim)? {
                break lock;
            }
        };
        self.sweep_directory().doing(&claim)?;
        make_private(&self.directory).doing(&claim)?;
        let site = self.clone();
        Ok(Claim { site, lock })
    }

    /// The lock of whoever has claimed it; `None` when nobody has.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(super) fn held(&self) -> io::Result<Option<Held>> {
        match File::open(self.lock_file()) {
            Ok(lock) => Ok(Some(Held { lock })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether this is the lock by now, and not one that has been removed. No other can have its
    /// number while it is open.
    fn has(&self, lock: &File) -> io::Result<bool> {
        let there = fs::symlink_metadata(self.lock_file()).map(|there| there.ino());
        Ok(there.ok() == Some(lock.metadata()?.ino()))
    }

    /// Removes the directory, by one who has claimed it; none is fine.
    ///
    /// # Errors
    /// When something in it cannot be removed.
    pub fn sweep(&self) -> io::Result<()> {
        self.sweep_directory()?;
        unless_missing(fs::remove_file(self.lock_file()))
    }

    /// Beside the directory, so that it outlives what is in it.
    fn lock_file(&self) -> PathBuf {
        let mut lock = self.directory.clone().into_os_string();
        lock.push(".lock");
        lock.into()
    }

    /// Those that are mounted where this process is; nobody can remove them meanwhile.
    fn unmount_disks(&self) -> io::Result<()> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == DISK) {
                HostDisk::unmount(&path);
            }
        }
        Ok(())
    }

    /// It goes by another name first, so that a process which has yet to end cannot put anything
    /// new into it.
    fn sweep_directory(&self) -> io::Result<()> {
        let mut going = self.directory.clone().into_os_string();
        going.push(".gone");
        self.unmount_disks()?;
        unless_missing(fs::remove_dir_all(&going))?;
        unless_missing(fs::rename(&self.directory, &going))?;
        unless_missing(fs::remove_dir_all(&going))
    }

    /// Whether sockets of this host or VM can be made here.
    ///
    /// # Errors
    /// When their paths would be too long.
    pub fn check_name(&self, name: &VmId) -> Result<(), Trouble> {
        let path = self.file(name.as_str(), "control").display().to_string();
        if path.len() > SOCKET_PATH_MAX {
            let doing = format!("use the name {name}");
            return Err(Trouble::new(doing, PathTooLong { path }));
        }
        Ok(())
    }

    /// What the processes of the cloud are told.
    #[must_use]
    pub fn plan(&self) -> PathBuf {
        self.directory.join("plan.json")
    }

    /// What others are told of it once it runs.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.directory.join("state.json")
    }

    /// Where it takes orders.
    #[must_use]
    pub fn control(&self) -> PathBuf {
        self.directory.join("control.sock")
    }

    /// The same for what comes over TCP, from whoever can reach the loopback.
    #[must_use]
    pub fn control_over_tcp(&self) -> PathBuf {
        self.directory.join("control-tcp.sock")
    }

    /// The API of a host's hostd.
    #[must_use]
    pub fn api(&self, host: &HostName) -> PathBuf {
        self.file(host.as_str(), "sock")
    }

    /// The disk of a host, on which the journal of its hostd is.
    #[must_use]
    pub fn disk(&self, host: &HostName) -> HostDisk {
        HostDisk::at(self.file(host.as_str(), DISK))
    }

    /// The journal of a host's hostd.
    #[must_use]
    pub fn journal(&self, host: &HostName) -> PathBuf {
        self.file(host.as_str(), DISK).join("journal.sqlite")
    }

    /// The configuration of a host's hostd.
    #[must_use]
    pub fn configuration(&self, host: &HostName) -> PathBuf {
        self.file(host.as_str(), "toml")
    }

    /// What a process has to say.
    #[must_use]
    pub fn log(&self, of: &str) -> PathBuf {
        self.file(of, "log")
    }

    /// What the agent in a VM has to say.
    #[must_use]
    pub fn agent_log(&self, vm: &VmId) -> PathBuf {
        self.log(&format!("{vm}-agent"))
    }

    /// The monitor of a VM.
    #[must_use]
    pub fn monitor(&self, vm: &VmId) -> PathBuf {
        self.file(vm.as_str(), "qmp")
    }

    /// Another monitor of a VM, which hostd leaves to people and tests.
    #[must_use]
    pub fn spare_monitor(&self, vm: &VmId) -> PathBuf {
        self.file(vm.as_str(), "monitor")
    }

    /// The channel to the agent in a VM.
    #[must_use]
    pub fn channel(&self, vm: &VmId) -> PathBuf {
        self.file(vm.as_str(), "agent")
    }

    /// Where the simulated hardware of a VM takes orders.
    #[must_use]
    pub fn hardware(&self, vm: &VmId) -> PathBuf {
        self.file(vm.as_str(), "control")
    }

    /// Where the guest in a VM takes orders.
    #[must_use]
    pub fn guest(&self, vm: &VmId) -> PathBuf {
        self.file(vm.as_str(), "guest")
    }

    fn file(&self, stem: &str, extension: &str) -> PathBuf {
        self.directory.join(format!("{stem}.{extension}"))
    }
}

impl Claim {
    /// Has the programs that are started from now on hold it too.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn pass_on(&self) -> io::Result<()> {
        Ok(rustix::io::fcntl_setfd(&self.lock, FdFlags::empty())?)
    }

    /// Removes the directory, unless another process that holds this has: it may be somebody
    /// else's already.
    ///
    /// # Errors
    /// When something in it cannot be removed.
    pub(super) fn sweep(&self) -> io::Result<()> {
        match self.site.has(&self.lock)? {
            true => self.site.sweep(),
            false => Ok(()),
        }
    }
}

impl Held {
    /// Waits until every process that has held it has ended.
    ///
    /// # Errors
    /// When the kernel cannot be asked, or that takes longer than `patience`.
    pub(super) async fn until_free(self, patience: Duration) -> io::Result<()> {
        let (sender, free) = oneshot::channel();
        // The kernel tells of a lock to whoever waits for it alone, and that holds up a thread.
        let wait = move || {
            let locked = rustix::fs::flock(&self.lock, FlockOperation::LockShared);
            // Refused when nobody waits any more.
            sender.send(locked).unwrap_or_default();
        };
        std::thread::Builder::new()
            .name("lock".to_owned())
            .spawn(wait)?;
        let told = tokio::time::timeout(patience, free).await?;
        Ok(told.map_err(io::Error::other)??)
    }
}

fn unless_missing(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Makes a directory for this user alone, or sees that it is one: in `/tmp` anybody may have made
/// one of that name before.
fn make_private(directory: &Path) -> io::Result<()> {
    let made = DirBuilder::new().mode(0o700).create(directory);
    match made {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = fs::symlink_metadata(directory)?;
    let own = found.uid() == rustix::process::geteuid().as_raw();
    if !found.is_dir() || !own || found.mode() & 0o022 != 0 {
        return Err(io::Error::other(NotPrivate));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_cloud_that_runs_is_not_swept_away() {
        let base = tempfile::tempdir().unwrap();
        let site = Site::at(base.path().join("default"));
        let claim = site.claim().unwrap();
        fs::write(site.plan(), "{}").unwrap();

        let refused = site.claim().unwrap_err();

        assert!(site.plan().exists(), "{refused}");
        drop(claim);
        let _claim = site.claim().unwrap();
        assert!(!site.plan().exists());
    }

    #[test]
    fn a_cloud_that_has_been_swept_away_leaves_the_next_one_be() {
        let base = tempfile::tempdir().unwrap();
        let site = Site::at(base.path().join("default"));
        let first = site.claim().unwrap();
        site.sweep().unwrap();
        let second = site.claim().unwrap();

        first.sweep().unwrap();

        assert!(site.directory().exists());
        second.sweep().unwrap();
        assert!(!site.directory().exists());
    }

    #[tokio::test]
    async fn a_lock_is_awaited_until_it_is_free_and_no_longer_than_patience_lasts() {
        let base = tempfile::tempdir().unwrap();
        let site = Site::at(base.path().join("default"));
        let claim = site.claim().unwrap();
        let held = || site.held().unwrap().expect("it is claimed");
        let (impatient, patient) = (held(), held());

        let refused = impatient.until_free(Duration::ZERO).await.unwrap_err();
        drop(claim);
        let freed = patient.until_free(Duration::from_secs(20)).await;

        assert_eq!(refused.kind(), io::ErrorKind::TimedOut);
        freed.unwrap();
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_refused() {
        let base = tempfile::tempdir().unwrap();
        fs::set_permissions(base.path(), fs::Permissions::from_mode(0o777)).unwrap();

        let refused = Site::at(base.path().join("default")).claim().unwrap_err();

        let cause = refused.cause.to_string();
        assert!(cause.contains("this user's alone"), "{cause}");
    }

    #[test]
    fn a_name_too_long_for_a_socket_is_refused_before_anything_is_made() {
        let long = format!("/tmp/{}", "x".repeat(60));
        let site = Site::at(long.into());
        let name = "y".repeat(40).parse().unwrap();

        let refused = site.check_name(&name).unwrap_err().to_string();

        assert!(refused.contains("use the name yyy"), "{refused}");
    }
}
