//! Deleting links where nobody else waits.
//!
//! Within the system call that asks for it, the kernel waits until nobody can still see the link:
//! 15 ms (an RCU barrier, `netdev_run_todo` in net/core/dev.c; measured on Linux 6.18). On a shared
//! connection every later request would wait with it, on a thread of the runtime every task there.
//! Hence a thread and a socket of its own.
//!
//! ```text
//!   remove_links(links, claim) ──► thread: delete, delete, … ──► claim dropped
//!        │                                                          ▲
//!        └─ deadline passed, or nobody waits any more: it goes on ──┘
//! ```
//!
//! Deleted is what has the index that was seen, which the kernel does not give to another link
//! (`dev_new_index` in net/core/dev.c counts up): one made meanwhile under the same name stays.

use std::io;
use std::time::Duration;

use super::link_view::{LinkIndex, LinkView};
use super::{raw_socket, refusal};
use crate::error::{Errno, NetlinkError};
use crate::netns::{Netns, RunInNetnsError};
use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkMessage;

/// For all links of one call together; the kernel needs 15 ms for each, more when it is busy.
const DEADLINE: Duration = Duration::from_secs(5);

/// From [`remove_links`].
#[derive(Debug, thiserror::Error)]
pub enum RemoveLinksError {
    /// The namespace could not be entered.
    #[error("failed to delete links")]
    Namespace(#[source] RunInNetnsError),
    /// The kernel could not be asked.
    #[error("failed to ask for the deletion of link {name}")]
    System {
        /// Which.
        name: String,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The kernel would not.
    #[error("failed to delete link {name}")]
    Refused {
        /// Which.
        name: String,
        /// Why.
        #[source]
        cause: NetlinkError,
    },
    /// It takes too long; it may still come about, and until then the claim is held.
    #[error("links were not deleted within {DEADLINE:?}")]
    Deadline,
}

/// Deletes these links of `netns`, one after the other; one that does not exist any more is fine.
/// `claim` is dropped when nothing more is going to be deleted, which may be after the deadline.
///
/// # Errors
/// See [`RemoveLinksError`]; links after the one that failed are still there.
pub async fn remove_links<C: Send + 'static>(
    netns: &Netns,
    links: Vec<LinkView>,
    claim: C,
) -> Result<(), RemoveLinksError> {
    let removal = netns.run("remove-links", move || {
        let outcome = links.into_iter().try_for_each(remove_here);
        drop(claim);
        outcome
    });
    match tokio::time::timeout(DEADLINE, removal).await {
        Ok(outcome) => outcome.map_err(RemoveLinksError::Namespace)?,
        Err(_elapsed) => Err(RemoveLinksError::Deadline),
    }
}

fn remove_here(link: LinkView) -> Result<(), RemoveLinksError> {
    let name = link.name;
    match ask(link.index) {
        Ok(Err(error)) if error.errno() == Some(Errno::NODEV) => Ok(()),
        Ok(Err(cause)) => Err(RemoveLinksError::Refused { name, cause }),
        Ok(Ok(())) => Ok(()),
        Err(cause) => Err(RemoveLinksError::System { name, cause }),
    }
}

fn ask(index: LinkIndex) -> io::Result<Result<(), NetlinkError>> {
    let mut link = LinkMessage::default();
    link.header.index = index.0;
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::DelLink(link));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    let socket = raw_socket(&[])?;
    socket.send(&bytes, 0)?;
    let (answer, _kernel) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer);
    Ok(refusal(&answer.map_err(io::Error::other)?))
}
