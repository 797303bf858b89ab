//! Network namespaces: getting hold of one, and doing something inside it.
//!
//! Names and pids come from other parties and are slippery: a name may be a symlink that leads
//! elsewhere, a pid may belong to another process by now. A [`Netns`] is therefore always a
//! descriptor of the namespace itself, obtained in a way that cannot be diverted, and stays the
//! same namespace whatever happens to the name or the process.
//!
//! ```text
//!   named_or_create: file under /run/netns ──► new namespace, on a thread ──► mounted on the file
//!   remove_named:    unmount ──► unlink    (the namespace lives on while a Netns or task has it)
//! ```

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use nic_model::{NetnsInode, NetnsName};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::process::{Pid, PidfdFlags};
use rustix::thread::LinkNameSpaceType;
use tokio::sync::oneshot;

/// Where `ip netns` keeps names (iproute2, `NETNS_RUN_DIR`).
const NAMES: &str = "/run/netns";

/// The namespace of whichever thread opens it.
const OWN: &str = "/proc/thread-self/ns/net";

/// A network namespace, held open.
#[derive(Debug, Clone)]
pub struct Netns {
    descriptor: Arc<OwnedFd>,
    inode: NetnsInode,
}

/// Why a namespace could not be had.
#[derive(Debug, thiserror::Error)]
pub enum OpenNetnsError {
    /// There is no such name.
    #[error("there is no network namespace named {0}")]
    NoSuchName(NetnsName),
    /// There is no such process, or it ended while it was looked at.
    #[error("process {0} does not exist")]
    NoSuchProcess(u32),
    /// The name leads to something that is not a network namespace.
    #[error("{0} is not a network namespace")]
    NotANamespace(String),
    /// The kernel refused a step.
    #[error("failed to {step} for network namespace {of}")]
    System {
        /// Which namespace.
        of: String,
        /// What was attempted.
        step: &'static str,
        /// Why.
        #[source]
        cause: io::Error,
    },
}

/// From [`Netns::remove_named`].
#[derive(Debug, thiserror::Error)]
#[error("failed to remove network namespace {name}")]
pub struct RemoveNetnsError {
    /// Which.
    pub name: NetnsName,
    /// Why.
    #[source]
    pub cause: io::Error,
}

/// From [`Netns::run`].
#[derive(Debug, thiserror::Error)]
pub enum RunInNetnsError {
    /// No thread could be started.
    #[error("failed to start thread {name}")]
    Thread {
        /// Its name.
        name: &'static str,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The thread could not enter the namespace: usually for lack of `CAP_SYS_ADMIN`.
    #[error("failed to enter network namespace {}", inode.0)]
    Enter {
        /// Which.
        inode: NetnsInode,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The work panicked.
    #[error("thread {name} panicked")]
    Panicked {
        /// Name of the thread.
        name: &'static str,
    },
}

impl Netns {
    /// The namespace of the calling thread, which is the process's own on every thread that is not
    /// inside [`Netns::run`].
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn own() -> Result<Self, OpenNetnsError> {
        let of = "of the calling thread";
        let opened = rustix::fs::open(OWN, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        Self::checked(opened.map_err(system(of, "open it"))?, of)
    }

    /// A new namespace without a name: it ends when the last clone of it, socket in it and task in
    /// it is gone, and every link in it that was made by software with it.
    ///
    /// # Errors
    /// When that is not permitted.
    pub fn unnamed() -> Result<Self, OpenNetnsError> {
        let of = "without a name";
        let made = on_thread("netns-create", || {
            unshare_network()?;
            rustix::fs::open(OWN, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        });
        match made {
            Ok(Ok(descriptor)) => Self::checked(descriptor, of),
            Ok(Err(errno)) => Err(system(of, "make it")(errno)),
            Err(cause) => Err(OpenNetnsError::System {
                of: of.to_owned(),
                step: "make it",
                cause,
            }),
        }
    }

    /// The namespace named `name` under `/run/netns`, made if there is none. It outlives the
    /// process, as `ip netns add` leaves it.
    ///
    /// # Errors
    /// When the name leads elsewhere, or mounting is not permitted.
    pub fn named_or_create(name: &NetnsName) -> Result<Self, OpenNetnsError> {
        match Self::open_named(name) {
            Err(OpenNetnsError::NoSuchName(_) | OpenNetnsError::NotANamespace(_)) => {}
            result => return result,
        }
        prepare_names().map_err(system(name, "prepare /run/netns"))?;
        let file = claim_name(name).map_err(system(name, "claim the name"))?;
        let made = on_thread("netns-create", move || pin_new_namespace(file.as_fd()));
        made.and_then(|pinned| pinned.map_err(io::Error::from))
            .map_err(|cause| OpenNetnsError::System {
                of: name.to_string(),
                step: "make and mount it",
                cause,
            })?;
        Self::open_named(name)
    }

    /// The namespace named `name` under `/run/netns`.
    ///
    /// # Errors
    /// When there is none, or the name is a symlink or a file of another kind.
    pub fn open_named(name: &NetnsName) -> Result<Self, OpenNetnsError> {
        match open_name(name, OFlags::RDONLY) {
            Ok(descriptor) => Self::checked(descriptor, name.as_str()),
            Err(Errno::NOENT) => Err(OpenNetnsError::NoSuchName(name.clone())),
            Err(Errno::LOOP) => Err(OpenNetnsError::NotANamespace(name.to_string())),
            Err(errno) => Err(system(name, "open it")(errno)),
        }
    }

    /// The namespace process `pid` is in. The process is held by a pidfd meanwhile and still alive
    /// afterwards, so what was opened is not that of a later process with the same number.
    ///
    /// # Errors
    /// When the process does not exist or its namespace may not be opened.
    pub fn open_pid(pid: u32) -> Result<Self, OpenNetnsError> {
        let gone = || OpenNetnsError::NoSuchProcess(pid);
        let of = format!("of process {pid}");
        let number = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(gone)?;
        let process = match rustix::process::pidfd_open(number, PidfdFlags::empty()) {
            Ok(process) => process,
            Err(Errno::SRCH) => return Err(gone()),
            Err(errno) => return Err(system(&of, "hold the process")(errno)),
        };
        let path = format!("/proc/{pid}/ns/net");
        let opened = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        if has_ended(process.as_fd()).map_err(system(&of, "check the process"))? {
            return Err(gone());
        }
        match opened {
            Ok(descriptor) => Self::checked(descriptor, &of),
            Err(Errno::NOENT | Errno::SRCH) => Err(gone()),
            Err(errno) => Err(system(&of, "open it")(errno)),
        }
    }

    /// Takes the name away and the mount with it. The namespace itself ends when nothing holds it;
    /// no such name is fine.
    ///
    /// # Errors
    /// When the name leads elsewhere, or unmounting is not permitted.
    pub fn remove_named(name: &NetnsName) -> Result<(), RemoveNetnsError> {
        let failed = |errno: Errno| RemoveNetnsError {
            name: name.clone(),
            cause: errno.into(),
        };
        let path = Path::new(NAMES).join(name.as_str());
        unmount_all(&path).map_err(failed)?;
        match rustix::fs::unlink(&path) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(failed(errno)),
        }
    }

    /// Every name under `/run/netns`, ours or not, whatever it leads to.
    ///
    /// # Errors
    /// When the directory exists and cannot be read.
    pub fn names() -> io::Result<Vec<NetnsName>> {
        let entries = match fs::read_dir(NAMES) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let name = |entry: io::Result<fs::DirEntry>| entry.ok()?.file_name().into_string().ok();
        Ok(entries
            .filter_map(name)
            .filter_map(|name| name.parse().ok())
            .collect())
    }

    /// Which namespace this is.
    #[must_use]
    pub fn inode(&self) -> NetnsInode {
        self.inode
    }

    /// Runs `work` inside the namespace, on a thread named `name` that ends with it. For short work
    /// (making a socket, writing a sysctl); whoever needs a deadline puts one around the future:
    /// the thread then finishes unobserved.
    ///
    /// # Errors
    /// When the thread cannot be started or cannot enter the namespace, or `work` panics.
    pub fn run<T: Send + 'static, W: FnOnce() -> T + Send + 'static>(
        &self,
        name: &'static str,
        work: W,
    ) -> impl Future<Output = Result<T, RunInNetnsError>> + Send + 'static + use<T, W> {
        let (sender, receiver) = oneshot::channel();
        let netns = self.clone();
        let body = move || {
            let outcome = netns.enter().map(|()| work());
            // Refused only when the caller no longer waits: nobody is left to tell.
            sender.send(outcome).unwrap_or_default();
        };
        async move {
            let started = thread::Builder::new().name(name.to_owned()).spawn(body);
            started.map_err(|cause| RunInNetnsError::Thread { name, cause })?;
            receiver
                .await
                .unwrap_or(Err(RunInNetnsError::Panicked { name }))
        }
    }

    /// setns(2) asks for `CAP_SYS_ADMIN` even of a thread that is there already, and whoever works
    /// in the process's own namespace alone can do without it.
    fn enter(&self) -> Result<(), RunInNetnsError> {
        let kind = Some(LinkNameSpaceType::Network);
        let entered = rustix::thread::move_into_link_name_space(self.as_fd(), kind);
        let is_there = || rustix::fs::stat(OWN).is_ok_and(|here| here.st_ino == self.inode.0);
        match entered {
            Err(Errno::PERM) if is_there() => Ok(()),
            done => done.map_err(|errno| RunInNetnsError::Enter {
                inode: self.inode,
                cause: errno.into(),
            }),
        }
    }

    fn checked(descriptor: OwnedFd, of: &str) -> Result<Self, OpenNetnsError> {
        if !is_network_namespace(descriptor.as_fd()) {
            return Err(OpenNetnsError::NotANamespace(of.to_owned()));
        }
        let status = rustix::fs::fstat(&descriptor).map_err(system(of, "read its inode"))?;
        Ok(Self {
            descriptor: Arc::new(descriptor),
            inode: NetnsInode(status.st_ino),
        })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl PartialEq for Netns {
    fn eq(&self, other: &Self) -> bool {
        self.inode == other.inode
    }
}

impl Eq for Netns {}

fn system(of: impl ToString, step: &'static str) -> impl FnOnce(Errno) -> OpenNetnsError {
    move |errno| OpenNetnsError::System {
        of: of.to_string(),
        step,
        cause: errno.into(),
    }
}

/// Whether `descriptor` is in nsfs and of the network kind: a file system's magic alone would let
/// through a mount or pid namespace.
fn is_network_namespace(descriptor: BorrowedFd<'_>) -> bool {
    // NSFS_MAGIC, include/uapi/linux/magic.h.
    const NSFS: i64 = 0x6e73_6673;
    rustix::fs::fstatfs(descriptor).is_ok_and(|status| status.f_type == NSFS)
        && namespace_type(descriptor) == libc::CLONE_NEWNET
}

#[expect(
    unsafe_code,
    reason = "NS_GET_NSTYPE returns its answer as the ioctl's value, which rustix cannot express"
)]
fn namespace_type(descriptor: BorrowedFd<'_>) -> i32 {
    // _IO(0xb7, 0x3), include/uapi/linux/nsfs.h.
    const NS_GET_NSTYPE: u32 = 0xb703;
    // SAFETY: the descriptor is open for the call, and the request takes no argument.
    unsafe { libc::ioctl(descriptor.as_raw_fd(), NS_GET_NSTYPE.into()) }
}

/// A pidfd becomes readable when its process ends (pidfd_open(2)).
fn has_ended(process: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut polled = [PollFd::from_borrowed_fd(process, PollFlags::IN)];
    Ok(poll(&mut polled, Some(&Timespec::default()))? > 0)
}

/// Opens the file of a name; no component of it may lead anywhere else.
fn open_name(name: &NetnsName, flags: OFlags) -> Result<OwnedFd, Errno> {
    let directory = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
    let names = rustix::fs::open(NAMES, directory, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::CLOEXEC;
    rustix::fs::openat2(names, name.as_str(), flags, Mode::empty(), resolve)
}

/// Makes the directory a shared mount, as iproute2 does, so that removing a name here also removes
/// it in every other mount namespace that has inherited it.
fn prepare_names() -> Result<(), Errno> {
    match rustix::fs::mkdir(NAMES, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    match rustix::mount::mount_change(NAMES, shared) {
        // EINVAL: not a mount point yet.
        Err(Errno::INVAL) => {
            rustix::mount::mount_bind_recursive(NAMES, NAMES)?;
            rustix::mount::mount_change(NAMES, shared)
        }
        result => result,
    }
}

/// The file that the namespace will be mounted on. One that is there already is what an interrupted
/// creation left: it is used.
fn claim_name(name: &NetnsName) -> Result<OwnedFd, Errno> {
    let path = Path::new(NAMES).join(name.as_str());
    let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    match rustix::fs::open(&path, flags, Mode::empty()) {
        Ok(_) | Err(Errno::EXIST) => open_name(name, OFlags::PATH),
        Err(errno) => Err(errno),
    }
}

/// Puts the calling thread into a new namespace and mounts that on `file`.
fn pin_new_namespace(file: BorrowedFd<'_>) -> Result<(), Errno> {
    unshare_network()?;
    // Through the descriptor, so that nobody can put a symlink in between.
    let target = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::mount::mount_bind(OWN, target)
}

#[expect(
    unsafe_code,
    reason = "rustix marks unshare unsafe because of its FILES flag"
)]
fn unshare_network() -> Result<(), Errno> {
    // SAFETY: NEWNET leaves the thread's table of descriptors alone, which is what the contract of
    // the function is about.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
}

/// Two creators at once leave two mounts, one on the other; a loop without a bound would trust the
/// other one to stop.
fn unmount_all(path: &Path) -> Result<(), Errno> {
    const MOUNTS_AT_MOST: usize = 16;
    let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
    for _ in 0..MOUNTS_AT_MOST {
        match rustix::mount::unmount(path, flags) {
            Ok(()) => {}
            // EINVAL: nothing is mounted on it, or no more.
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::BUSY)
}

fn on_thread<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let handle = thread::Builder::new().name(name.to_owned()).spawn(work)?;
    handle
        .join()
        .map_err(|_panic| io::Error::other("the thread panicked"))
}
