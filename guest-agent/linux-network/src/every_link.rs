//! Every link of a namespace that may have very many.
//!
//! The list that [`Netlink::links`](crate::Netlink::links) reads is taken apart in whole and waits
//! in a queue without end: 13 KiB for each link (measured), so ten thousand of them need 130 MiB
//! for a moment. Here the kernel is read a datagram at a time, and of sixty things that it tells of
//! a link those are kept that a [`LinkView`] has.
//!
//! ```text
//!   a socket of its own ──► datagram ──► its links' views ──► next, … ──► end of the list
//!                              └── the links changed meanwhile: once more, with another socket
//! ```

use std::future::poll_fn;
use std::io;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{AsyncSocket, TokioSocket};

use crate::NetlinkError;
use crate::netlink::link::question;
use crate::netlink::link_view::LinkView;
use crate::netlink::{ConnectNetlinkError, LIST_ATTEMPTS, end_of_list, refusal, socket_in};
use crate::netns::Netns;

/// How long one reading may take: the kernel needs some 5 µs for a link.
const DEADLINE: Duration = Duration::from_secs(5);

/// A part of a list has at most 32 KiB (`NLMSG_GOODSIZE` and Linux commit d35c99ff77ec).
const DATAGRAM_BYTES: usize = 64 * 1024;

/// `RTM_NEWLINK`, include/uapi/linux/rtnetlink.h.
const NEW_LINK: u16 = 16;

/// From [`every_link`].
#[derive(Debug, thiserror::Error)]
pub enum EveryLinkError {
    /// The namespace could not be entered, or the socket not be made.
    #[error("failed to reach the kernel's network")]
    Connect(#[from] ConnectNetlinkError),
    /// The socket broke.
    #[error("failed to talk to the kernel")]
    Socket(#[from] io::Error),
    /// The kernel does not list them.
    #[error("failed to list the links")]
    List(#[from] NetlinkError),
}

/// Every link of `netns`, from one reading during which none came or went.
///
/// # Errors
/// When the kernel does not answer, or its links never stay the same for as long as it takes.
pub async fn every_link(netns: &Netns) -> Result<Vec<LinkView>, EveryLinkError> {
    for _ in 0..LIST_ATTEMPTS {
        let socket = socket_in(netns, &[]).await?;
        let reading = tokio::time::timeout(DEADLINE, read_all(socket)).await;
        let read = reading.unwrap_or(Err(NetlinkError::Deadline(DEADLINE).into()))?;
        if let Some(links) = read {
            return Ok(links);
        }
    }
    Err(NetlinkError::Inconsistent.into())
}

/// One reading; `None` when the links changed meanwhile.
async fn read_all(socket: TokioSocket) -> Result<Option<Vec<LinkView>>, EveryLinkError> {
    let request = request();
    poll_fn(|context| socket.poll_send(context, &request)).await?;
    let mut reading = Reading::default();
    let mut datagram = Vec::with_capacity(DATAGRAM_BYTES);
    while reading.progress == Progress::UnderWay {
        datagram.clear();
        let sender = poll_fn(|context| socket.poll_recv_from(context, &mut datagram)).await?;
        // Anybody may send here; the kernel is port 0.
        if sender.port_number() == 0 {
            reading.take(&datagram)?;
        }
    }
    Ok(reading.changed.is_none().then_some(reading.links))
}

fn request() -> Vec<u8> {
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetLink(question()));
    message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// What has been read so far.
#[derive(Debug, Default)]
struct Reading {
    links: Vec<LinkView>,
    changed: Option<Changed>,
    progress: Progress,
}

/// Links came or went while they were read.
#[derive(Debug)]
struct Changed;

#[derive(Debug, Default, PartialEq, Eq)]
enum Progress {
    #[default]
    UnderWay,
    Ended,
}

impl Reading {
    fn take(&mut self, mut datagram: &[u8]) -> Result<(), NetlinkError> {
        while !datagram.is_empty() {
            let message = NetlinkBuffer::new_checked(datagram);
            let message = message.map_err(|_| NetlinkError::Unexpected)?;
            let length = usize::try_from(message.length()).unwrap_or(usize::MAX);
            if message.flags() & NLM_F_DUMP_INTR != 0 {
                self.changed = Some(Changed);
            }
            match message.message_type() {
                NEW_LINK => {
                    let link = LinkView::read(message.payload());
                    self.links.push(link.ok_or(NetlinkError::Unexpected)?);
                }
                _ => self.end(&datagram[..length])?,
            }
            datagram = datagram
                .get(length.next_multiple_of(4)..)
                .unwrap_or_default();
        }
        Ok(())
    }

    fn end(&mut self, message: &[u8]) -> Result<(), NetlinkError> {
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message);
        let message = message.map_err(|_| NetlinkError::Unexpected)?;
        refusal(&message)?;
        let NetlinkPayload::Done(done) = message.payload else {
            return Err(NetlinkError::Unexpected);
        };
        self.progress = Progress::Ended;
        end_of_list(done.code)
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::DoneMessage;
    use netlink_packet_route::link::{LinkAttribute, LinkMessage};

    use super::*;

    fn bytes(mut message: NetlinkMessage<RouteNetlinkMessage>, flags: u16) -> Vec<u8> {
        message.header.flags = flags;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    fn link(name: &str, flags: u16) -> Vec<u8> {
        let mut link = LinkMessage::default();
        link.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        bytes(RouteNetlinkMessage::NewLink(link).into(), flags)
    }

    fn done(code: i32) -> Vec<u8> {
        let mut done = DoneMessage::default();
        done.code = code;
        let mut message =
            NetlinkMessage::from(RouteNetlinkMessage::NewLink(LinkMessage::default()));
        message.payload = NetlinkPayload::Done(done);
        bytes(message, 0)
    }

    fn read(datagrams: &[Vec<u8>]) -> Result<Reading, NetlinkError> {
        let mut reading = Reading::default();
        for datagram in datagrams {
            reading.take(datagram)?;
        }
        Ok(reading)
    }

    #[test]
    fn links_come_several_to_a_datagram_until_the_end() {
        let first = [link("a", 0), link("bc", 0)].concat();
        let reading = read(&[first.clone(), link("d", 0)]).unwrap();
        assert_eq!(reading.progress, Progress::UnderWay);

        let whole = read(&[first, link("d", 0), done(0)]).unwrap();

        let names: Vec<_> = whole.links.iter().map(|link| link.name.as_str()).collect();
        assert_eq!(names, ["a", "bc", "d"]);
        assert!(whole.progress == Progress::Ended && whole.changed.is_none());
    }

    #[test]
    fn a_list_that_changed_or_failed_or_is_none_is_not_used() {
        let changed = read(&[link("a", NLM_F_DUMP_INTR), done(0)]).unwrap();
        assert!(changed.changed.is_some());

        assert_eq!(
            read(&[done(-19)]).unwrap_err().errno(),
            Some(crate::Errno::NODEV)
        );
        assert!(read(&[vec![1, 2, 3]]).is_err());
        let mut cut = link("a", 0);
        cut.truncate(cut.len() - 4);
        assert!(read(&[cut]).is_err());
    }
}
