//! Asking the kernel about links, addresses and routes, and changing them.
//!
//! One [`Netlink`] is one rtnetlink socket in one namespace. The task that reads it lives on the
//! runtime that [`Netlink::connect`] was called on and ends when the last clone is dropped.
//!
//! ```text
//!   request ──► acknowledged            change: the kernel has done it, or says why not
//!          └──► answer                  get
//!          └──► part, part, … done      list: read again if it changed meanwhile
//! ```

pub(crate) mod address;
pub(crate) mod link;
pub(crate) mod link_view;
pub(crate) mod removal;
pub(crate) mod route;
pub(crate) mod veth;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, Socket, SocketAddr, TokioSocket};
use rtnetlink::Handle;
use rustix::io::Errno;
use tokio::sync::Mutex;

use crate::error::NetlinkError;
use crate::netns::{Netns, RunInNetnsError};

/// How long a request may take unless [`Netlink::with_deadline`] says otherwise. The kernel answers
/// within microseconds, except while another holder of the RTNL lock keeps it (a driver probing,
/// a namespace of many links being torn down).
const DEADLINE: Duration = Duration::from_secs(2);

/// How often a list is read before giving up on finding it at rest.
pub(crate) const LIST_ATTEMPTS: usize = 10;

/// A connection to the kernel's rtnetlink in one network namespace. Clones share it.
#[derive(Debug, Clone)]
pub struct Netlink {
    handle: Handle,
    deadline: Duration,
    /// Held while a list is read: a socket has room for one at a time and refuses a second with
    /// `EBUSY` (`__netlink_dump_start` in net/netlink/af_netlink.c). A list of some thousand links
    /// is long enough for the runtime to interrupt its reader, who then would send the next one.
    listing: Arc<Mutex<()>>,
}

/// From [`Netlink::connect`].
#[derive(Debug, thiserror::Error)]
pub enum ConnectNetlinkError {
    /// The namespace could not be entered.
    #[error("failed to open a netlink socket")]
    Namespace(#[source] RunInNetnsError),
    /// The socket could not be made.
    #[error("failed to set up a netlink socket")]
    Socket(#[source] io::Error),
}

impl Netlink {
    /// Connects inside `netns`. To be called on a tokio runtime, which will serve the connection.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the socket not be made.
    pub async fn connect(netns: &Netns) -> Result<Self, ConnectNetlinkError> {
        Ok(Self::serve(socket_in(netns, &[]).await?))
    }

    /// Connects over a socket of [`raw_socket`], made inside the namespace.
    pub(crate) fn over(socket: Socket) -> Self {
        Self::serve(register(socket))
    }

    fn serve(socket: TokioSocket) -> Self {
        let (mut connection, handle, unsolicited) = rtnetlink::from_socket(socket);
        // The end of a list carries its last NLM_F_DUMP_INTR.
        connection.set_forward_done(true);
        // A request socket has no subscriptions; late answers are not worth keeping.
        drop(unsolicited);
        tokio::spawn(connection);
        Self {
            handle,
            deadline: DEADLINE,
            listing: Arc::default(),
        }
    }

    /// The same connection with another deadline per request.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// Asks for a change; done when the kernel has acknowledged it.
    pub(crate) async fn change(
        &self,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), NetlinkError> {
        let exchange = async {
            let mut answers = self.send(request, NLM_F_ACK | flags)?;
            while let Some(answer) = answers.next().await {
                refusal(&answer)?;
            }
            Ok(())
        };
        self.within_deadline(exchange).await
    }

    /// Asks for one object.
    pub(crate) async fn get(
        &self,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<RouteNetlinkMessage, NetlinkError> {
        let exchange = async {
            let mut answers = self.send(request, flags)?;
            let answer = answers.next().await.ok_or(NetlinkError::Closed)?;
            refusal(&answer)?;
            if let NetlinkPayload::InnerMessage(message) = answer.payload {
                Ok(message)
            } else {
                Err(NetlinkError::Unexpected)
            }
        };
        self.within_deadline(exchange).await
    }

    /// Lists what `pick` makes of each part, from one reading during which nothing changed.
    pub(crate) async fn list<T>(
        &self,
        request: RouteNetlinkMessage,
        pick: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        let exchange = async {
            let _alone = self.listing.lock().await;
            for _ in 0..LIST_ATTEMPTS {
                let answers = self.send(request.clone(), NLM_F_DUMP)?;
                match read_list(answers, &pick).await {
                    Ok(Some(parts)) => return Ok(parts),
                    Ok(None) => {}
                    // A list that its reader gave up at the deadline is still being read.
                    Err(error) if error.errno() == Some(Errno::BUSY) => {}
                    Err(error) => return Err(error),
                }
            }
            Err(NetlinkError::Inconsistent)
        };
        self.within_deadline(exchange).await
    }

    fn send(
        &self,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<impl Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + use<>, NetlinkError> {
        let mut message = NetlinkMessage::from(request);
        message.header.flags = NLM_F_REQUEST | flags;
        self.handle
            .clone()
            .request(message)
            .map_err(|_gone| NetlinkError::Closed)
    }

    async fn within_deadline<T>(
        &self,
        exchange: impl Future<Output = Result<T, NetlinkError>>,
    ) -> Result<T, NetlinkError> {
        let outcome = tokio::time::timeout(self.deadline, exchange).await;
        outcome.unwrap_or(Err(NetlinkError::Deadline(self.deadline)))
    }
}

/// One reading of a list; `None` when it changed meanwhile.
async fn read_list<T>(
    mut answers: impl Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + Unpin,
    pick: &impl Fn(RouteNetlinkMessage) -> Option<T>,
) -> Result<Option<Vec<T>>, NetlinkError> {
    let mut parts = Vec::new();
    let mut changed = false;
    while let Some(answer) = answers.next().await {
        refusal(&answer)?;
        changed |= answer.header.flags & NLM_F_DUMP_INTR != 0;
        if let NetlinkPayload::InnerMessage(message) = answer.payload {
            parts.extend(pick(message));
        } else if let NetlinkPayload::Done(done) = answer.payload {
            return end_of_list(done.code).map(|()| (!changed).then_some(parts));
        } else {
            return Err(NetlinkError::Unexpected);
        }
    }
    Err(NetlinkError::Closed)
}

pub(crate) fn end_of_list(code: i32) -> Result<(), NetlinkError> {
    if code < 0 {
        let errno = Errno::from_raw_os_error(code.saturating_abs());
        return Err(NetlinkError::Refused {
            errno,
            explanation: None,
        });
    }
    Ok(())
}

pub(crate) fn refusal(answer: &NetlinkMessage<RouteNetlinkMessage>) -> Result<(), NetlinkError> {
    if let NetlinkPayload::Error(error) = &answer.payload
        && error.code.is_some()
    {
        return Err(NetlinkError::refused(error));
    }
    Ok(())
}

/// A rtnetlink socket inside `netns`, subscribed to `groups`, registered with the current runtime.
pub(crate) async fn socket_in(
    netns: &Netns,
    groups: &'static [u32],
) -> Result<TokioSocket, ConnectNetlinkError> {
    let made = netns.run("netlink-socket", move || raw_socket(groups));
    let socket = match tokio::time::timeout(DEADLINE, made).await {
        Ok(outcome) => outcome.map_err(ConnectNetlinkError::Namespace)?,
        Err(elapsed) => Err(io::Error::from(elapsed)),
    };
    let descriptor = socket.map_err(ConnectNetlinkError::Socket)?;
    Ok(register(descriptor))
}

/// A rtnetlink socket in the namespace of the calling thread, subscribed to `groups`.
pub(crate) fn raw_socket(groups: &[u32]) -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    // The kernel's reason in words, and the refused request not sent back with it.
    socket.set_ext_ack(true)?;
    socket.set_cap_ack(true)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    for group in groups {
        socket.add_membership(*group)?;
    }
    Ok(socket)
}

#[expect(
    unsafe_code,
    reason = "netlink-sys has no other way from a socket to an asynchronous one"
)]
fn register(socket: Socket) -> TokioSocket {
    use std::os::fd::{FromRawFd, IntoRawFd};
    // SAFETY: the descriptor is open, a netlink socket, and owned by nobody else once taken out.
    unsafe { TokioSocket::from_raw_fd(socket.into_raw_fd()) }
}

/// How many bytes of unread events the kernel keeps for `socket`.
pub(crate) fn set_receive_buffer(socket: &TokioSocket, bytes: i32) -> io::Result<()> {
    socket.socket_ref().set_rx_buf_sz(bytes)
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use netlink_packet_core::DoneMessage;
    use netlink_packet_route::link::LinkMessage;

    use super::*;

    fn part(flags: u16) -> NetlinkMessage<RouteNetlinkMessage> {
        let link = RouteNetlinkMessage::NewLink(LinkMessage::default());
        let mut message = NetlinkMessage::from(link);
        message.header.flags = flags;
        message
    }

    fn end(flags: u16, code: i32) -> NetlinkMessage<RouteNetlinkMessage> {
        let mut done = DoneMessage::default();
        done.code = code;
        let mut message = part(flags);
        message.payload = NetlinkPayload::Done(done);
        message
    }

    async fn read(
        answers: Vec<NetlinkMessage<RouteNetlinkMessage>>,
    ) -> Result<Option<usize>, NetlinkError> {
        let parts = read_list(stream::iter(answers), &Some).await?;
        Ok(parts.map(|parts| parts.len()))
    }

    #[tokio::test]
    async fn a_list_that_changed_while_it_was_read_is_not_used() {
        let changed = NLM_F_DUMP_INTR;

        assert_eq!(
            read(vec![part(0), part(0), end(0, 0)]).await.ok(),
            Some(Some(2))
        );
        assert_eq!(
            read(vec![part(changed), part(0), end(0, 0)]).await.ok(),
            Some(None)
        );
        assert_eq!(read(vec![part(0), end(changed, 0)]).await.ok(), Some(None));
    }

    #[tokio::test]
    async fn a_list_that_fails_or_ends_early_is_an_error() {
        let failed = read(vec![part(0), end(0, -19)]).await.unwrap_err();
        let cut = read(vec![part(0)]).await.unwrap_err();

        assert_eq!(failed.errno(), Some(Errno::NODEV));
        assert!(matches!(cut, NetlinkError::Closed));
    }
}
