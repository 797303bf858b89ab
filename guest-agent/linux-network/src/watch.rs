//! Being told when links come, change and go.
//!
//! The kernel drops events when a listener is slow, and says so by an error on the next read
//! (`ENOBUFS`), once: until the listener has read everything that was queued, it drops more without
//! a word (`NETLINK_S_CONGESTED` in net/netlink/af_netlink.c). So the queue is emptied first, and
//! then [`LinkEvent::Overrun`] asks for the only right answer, to look at all links again. Nothing
//! is queued in this process beyond one datagram: a slow listener fills the kernel's buffer, whose
//! size is fixed.
//!
//! ```text
//!   subscribe ──► (now list the links: what came before) ──► next, next, …
//!                         ▲                                      │ ENOBUFS
//!                         └────────── Overrun ◄── queue emptied ◄┘
//! ```

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use netlink_packet_core::{NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{AsyncSocket, TokioSocket};

use crate::netlink::link_view::{LinkIndex, LinkView};
use crate::netlink::{ConnectNetlinkError, set_receive_buffer, socket_in};
use crate::netns::Netns;

/// `RTNLGRP_LINK`, include/uapi/linux/rtnetlink.h.
const LINK_GROUP: u32 = 1;

/// Unread events that the kernel keeps: about a thousand of 1 KiB each. It doubles the number for
/// its own bookkeeping and caps it at `net.core.rmem_max` (socket(7)).
const RECEIVE_BUFFER_BYTES: i32 = 1 << 20;

/// A datagram of events has at most 32 KiB (`NLMSG_GOODSIZE` and Linux commit d35c99ff77ec).
const DATAGRAM_BYTES: usize = 64 * 1024;

/// What became of the links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// A link is new, or something about it changed.
    Changed(LinkView),
    /// A link is gone from this namespace: deleted, unplugged or moved.
    Gone(LinkIndex),
    /// Events were lost: whatever is known about links may be wrong.
    Overrun,
}

/// A subscription to the links of one namespace.
pub struct LinkWatch {
    socket: TokioSocket,
    datagram: Vec<u8>,
    pending: VecDeque<LinkEvent>,
}

/// From [`LinkWatch::next`]: the subscription is over.
#[derive(Debug, thiserror::Error)]
#[error("failed to read link events")]
pub struct WatchLinksError(#[source] io::Error);

impl LinkWatch {
    /// Subscribes inside `netns`. Links that are there already are not told of: list them after
    /// subscribing, so that none falls between.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the socket not be made.
    pub async fn subscribe(netns: &Netns) -> Result<Self, ConnectNetlinkError> {
        let socket = socket_in(netns, &[LINK_GROUP]).await?;
        set_receive_buffer(&socket, RECEIVE_BUFFER_BYTES).map_err(ConnectNetlinkError::Socket)?;
        Ok(Self {
            socket,
            datagram: Vec::with_capacity(DATAGRAM_BYTES),
            pending: VecDeque::new(),
        })
    }

    /// Waits for the next event. Dropping the future loses none.
    ///
    /// # Errors
    /// When the socket fails for good.
    pub async fn next(&mut self) -> Result<LinkEvent, WatchLinksError> {
        poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<LinkEvent, WatchLinksError>> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Poll::Ready(Ok(event));
            }
            self.datagram.clear();
            match self.socket.poll_recv_from(context, &mut self.datagram) {
                // Only the kernel, port 0, tells of links; anybody may send here.
                Poll::Ready(Ok(sender)) if sender.port_number() != 0 => {}
                Poll::Ready(Ok(_)) => read(&self.datagram, &mut self.pending),
                Poll::Ready(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    return Poll::Ready(self.empty_queue().map(|()| LinkEvent::Overrun));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(WatchLinksError(error))),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Throws away what the kernel has queued. It ends, because reading a datagram is much quicker
    /// than changing a link. Past the runtime, whose cooperative budget would pretend after 128
    /// reads that the queue is empty.
    fn empty_queue(&mut self) -> Result<(), WatchLinksError> {
        loop {
            self.datagram.clear();
            let socket = self.socket.socket_ref();
            match socket.recv(&mut self.datagram, libc::MSG_DONTWAIT) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) => return Err(WatchLinksError(error)),
            }
        }
    }
}

/// Splits a datagram into events. A message that cannot be read is a lost event.
fn read(mut datagram: &[u8], events: &mut VecDeque<LinkEvent>) {
    while !datagram.is_empty() {
        let length = NetlinkBuffer::new_checked(datagram).map(|buffer| buffer.length());
        let Some(length) = length.ok().and_then(|length| usize::try_from(length).ok()) else {
            events.push_back(LinkEvent::Overrun);
            return;
        };
        match NetlinkMessage::<RouteNetlinkMessage>::deserialize(&datagram[..length]) {
            Ok(message) => events.extend(event(message.payload)),
            Err(_unreadable) => events.push_back(LinkEvent::Overrun),
        }
        datagram = datagram
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "two kinds of message of forty"
)]
fn event(payload: NetlinkPayload<RouteNetlinkMessage>) -> Option<LinkEvent> {
    match payload {
        // A bridge tells of its ports in messages of the same type: DELLINK then means that the
        // link has left the bridge.
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link),
        ) if link.header.interface_family == AddressFamily::Bridge => None,
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
            Some(LinkEvent::Changed(link.into()))
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => {
            Some(LinkEvent::Gone(LinkIndex(link.header.index)))
        }
        NetlinkPayload::Overrun(_) => Some(LinkEvent::Overrun),
        _ => None,
    }
}
