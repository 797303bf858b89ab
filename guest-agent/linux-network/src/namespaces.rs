//! Leaving the namespaces that a program was started in.
//!
//! What a program does to itself before it does anything else. Which of these an ordinary user may
//! leave depends on the order: the user namespace comes first, and brings the rights over whatever
//! is left afterwards.

use std::io;

use rustix::thread::UnshareFlags;

/// A kind of namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamespaceKind {
    /// Users and their rights. Only for a process of one thread.
    User,
    /// Mounts, as seen by the calling thread.
    Mount,
    /// Network, of the calling thread.
    Network,
    /// Process ids: of the children that the calling thread starts from now on.
    Process,
}

/// From [`leave_namespaces`].
#[derive(Debug, thiserror::Error)]
#[error("failed to leave namespaces {kinds:?}")]
pub struct LeaveNamespacesError {
    /// Which.
    pub kinds: Vec<NamespaceKind>,
    /// Why.
    #[source]
    pub cause: io::Error,
}

/// Puts the calling thread into new namespaces of these kinds.
///
/// # Errors
/// When one of them is not permitted, or the limit of their number is reached (`ENOSPC`), or a
/// process of several threads asks for a user namespace (`EINVAL`). None has been left then.
pub fn leave_namespaces(kinds: &[NamespaceKind]) -> Result<(), LeaveNamespacesError> {
    let flag = |kind: &NamespaceKind| match kind {
        NamespaceKind::User => UnshareFlags::NEWUSER,
        NamespaceKind::Mount => UnshareFlags::NEWNS,
        NamespaceKind::Network => UnshareFlags::NEWNET,
        NamespaceKind::Process => UnshareFlags::NEWPID,
    };
    let flags = kinds.iter().map(flag).collect();
    unshare(flags).map_err(|cause| LeaveNamespacesError {
        kinds: kinds.to_vec(),
        cause,
    })
}

#[expect(
    unsafe_code,
    reason = "rustix marks unshare unsafe because of its FILES flag"
)]
fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: none of the flags above touches the table of descriptors, which is what the contract
    // of the function is about.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}
