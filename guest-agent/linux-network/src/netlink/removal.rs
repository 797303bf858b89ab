//! Deleting links where nobody else waits.
//!
//! Within the system call that asks for it, the kernel waits until nobody can still see the link:
//! 15 ms (an RCU barrier, `netdev_run_todo` in net/core/dev.c; measured on Linux 6.18). On a shared
//! connection every later request would wait with it, on a thread of the runtime every task there.
//! Hence a thread and a socket of its own.

use std::io;
use std::time::Duration;

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use nic_model::LinkName;

use super::{raw_socket, refusal};
use crate::error::{Errno, NetlinkError};
use crate::netns::{Netns, RunInNetnsError};

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
        name: LinkName,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The kernel would not.
    #[error("failed to delete link {name}")]
    Refused {
        /// Which.
        name: LinkName,
        /// Why.
        #[source]
        cause: NetlinkError,
    },
    /// It takes too long; it may still come about.
    #[error("links were not deleted within {DEADLINE:?}")]
    Deadline,
}

/// Deletes the links of these names in `netns`, one after the other; one that does not exist is
/// fine.
///
/// # Errors
/// See [`RemoveLinksError`]; links after the one that failed are still there.
pub async fn remove_links(netns: &Netns, names: Vec<LinkName>) -> Result<(), RemoveLinksError> {
    let removal = netns.run("remove-links", move || {
        names.into_iter().try_for_each(remove_here)
    });
    match tokio::time::timeout(DEADLINE, removal).await {
        Ok(outcome) => outcome.map_err(RemoveLinksError::Namespace)?,
        Err(_elapsed) => Err(RemoveLinksError::Deadline),
    }
}

fn remove_here(name: LinkName) -> Result<(), RemoveLinksError> {
    match ask(&name) {
        Ok(Err(error)) if error.errno() == Some(Errno::NODEV) => Ok(()),
        Ok(Err(cause)) => Err(RemoveLinksError::Refused { name, cause }),
        Ok(Ok(())) => Ok(()),
        Err(cause) => Err(RemoveLinksError::System { name, cause }),
    }
}

fn ask(name: &LinkName) -> io::Result<Result<(), NetlinkError>> {
    let mut link = LinkMessage::default();
    link.attributes = vec![LinkAttribute::IfName(name.to_string())];
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
