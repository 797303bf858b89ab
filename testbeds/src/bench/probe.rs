//! The proof that a NIC is usable: echo requests from the host until the first reply.
//!
//! ```text
//!   start ─► request ─► request ─► … one a millisecond ─► first reply ─► its time, the end
//! ```
//!
//! The requests come from an address outside the container's subnet, so that a reply needs all of
//! it: link up, address, and the default route. The container's MAC address is known beforehand
//! and entered by the caller: a host that resolves an address which does not answer yet asks once
//! a second, and would see a usable NIC up to a second late.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect, ipproto, recv,
    send, socket_with,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

use crate::netns::HostNetns;
use crate::site::{BRIDGE, Site};
use nic_model::MacAddr;

/// Where the requests come from (TEST-NET-1, RFC 5737): only a default route leads back there.
pub const SOURCE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// Pause between two requests, and so how much later than true a time can be.
pub const PERIOD: Duration = Duration::from_millis(1);

/// ICMP types (RFC 792).
const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;
/// An ICMP echo without data: type, code, checksum, identifier, sequence number.
const ECHO_LEN: usize = 8;

/// Gives a site the address that probes come from.
///
/// # Errors
/// When the caller may not.
pub async fn prepare(site: &Site) -> Result<()> {
    let address = format!("address add {SOURCE}/32 dev lo");
    site.netns.ip(&address).await.map(drop)
}

/// Tells a site the MAC address of `address` for good.
///
/// # Errors
/// When the caller may not.
pub async fn introduce(site: &Site, address: Ipv4Addr, mac: MacAddr) -> Result<()> {
    let entry = format!("neigh replace {address} lladdr {mac} dev {BRIDGE} nud permanent");
    site.netns.ip(&entry).await.map(drop)
}

/// Requests under way; dropping it ends them.
#[derive(Debug)]
pub struct Probe {
    stop: Arc<AtomicBool>,
    first_reply: oneshot::Receiver<io::Result<Instant>>,
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Probe {
    /// Begins to send requests to `to`; `identifier` tells them from those of other probes.
    ///
    /// # Errors
    /// When no socket can be had in the namespace.
    pub async fn start(netns: &HostNetns, to: Ipv4Addr, identifier: u16) -> Result<Self> {
        let path = Path::new("/run/netns").join(netns.name());
        let stop = Arc::new(AtomicBool::new(false));
        let (tell_ready, ready) = oneshot::channel();
        let (tell, first_reply) = oneshot::channel();
        let stopped = Arc::clone(&stop);
        // A thread of its own: it changes its namespace for good.
        std::thread::Builder::new()
            .name("probe".to_owned())
            .spawn(move || {
                // Whoever has gone away does not want to know.
                match socket_in(&path, to) {
                    Ok(socket) => {
                        drop(tell_ready.send(Ok(())));
                        drop(tell.send(ask(&socket, identifier, &stopped)));
                    }
                    Err(error) => drop(tell_ready.send(Err(error))),
                }
            })?;
        ready.await?.context("making a socket for echo requests")?;
        Ok(Self { stop, first_reply })
    }

    /// When the first reply came.
    ///
    /// # Errors
    /// When none comes within `deadline`.
    pub async fn first_reply(mut self, deadline: Duration) -> Result<Instant> {
        let reply = tokio::time::timeout(deadline, &mut self.first_reply).await;
        let reply = reply.with_context(|| format!("no echo reply within {deadline:?}"))?;
        reply
            .context("the probe ended")?
            .context("receiving echo replies")
    }
}

fn socket_in(netns: &Path, to: Ipv4Addr) -> io::Result<OwnedFd> {
    let netns = File::open(netns)?;
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::RAW,
        flags,
        Some(ipproto::ICMP),
    )?;
    bind(&socket, &SocketAddrV4::new(SOURCE, 0))?;
    connect(&socket, &SocketAddrV4::new(to, 0))?;
    Ok(socket)
}

fn ask(socket: &OwnedFd, identifier: u16, stop: &AtomicBool) -> io::Result<Instant> {
    let mut next_at = Instant::now();
    for sequence in (0..=u16::MAX).cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        // What cannot be sent now is sent again in a millisecond, by the next request.
        let _sent = send(
            socket,
            &echo_request(identifier, sequence),
            SendFlags::empty(),
        );
        next_at += PERIOD;
        while readable(socket, next_at)? {
            if let Some(at) = received_reply(socket, identifier)? {
                return Ok(at);
            }
        }
    }
    Err(io::Error::other("the probe was stopped"))
}

/// Whether there is something to receive before `until`.
fn readable(socket: &OwnedFd, until: Instant) -> io::Result<bool> {
    let left = until.saturating_duration_since(Instant::now());
    let timeout = Timespec {
        tv_sec: 0,
        tv_nsec: i64::from(left.subsec_nanos()),
    };
    match poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

fn received_reply(socket: &OwnedFd, identifier: u16) -> io::Result<Option<Instant>> {
    let mut packet = [0; 256];
    match recv(socket, &mut packet, RecvFlags::empty()) {
        Ok((len, _)) => {
            let at = Instant::now();
            Ok(is_reply(&packet[..len], identifier).then_some(at))
        }
        // An error of an earlier request, such as "host unreachable", or nothing after all.
        Err(_) => Ok(None),
    }
}

fn echo_request(identifier: u16, sequence: u16) -> [u8; ECHO_LEN] {
    let [id_high, id_low] = identifier.to_be_bytes();
    let [sequence_high, sequence_low] = sequence.to_be_bytes();
    let sum = u32::from(ECHO_REQUEST) << 8;
    let sum = sum + u32::from(identifier) + u32::from(sequence);
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    let [.., checksum_high, checksum_low] = (!folded).to_be_bytes();
    [
        ECHO_REQUEST,
        0,
        checksum_high,
        checksum_low,
        id_high,
        id_low,
        sequence_high,
        sequence_low,
    ]
}

/// Whether an IPv4 packet, as raw sockets give it with its header, is our reply.
fn is_reply(packet: &[u8], identifier: u16) -> bool {
    let header_len = packet.first().map(|first| usize::from(first & 0xf) * 4);
    let echo = header_len.and_then(|len| packet.get(len..));
    let [id_high, id_low] = identifier.to_be_bytes();
    echo.is_some_and(|echo| {
        echo.len() >= ECHO_LEN && echo[..2] == [ECHO_REPLY, 0] && echo[4..6] == [id_high, id_low]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sum of all words of a message with a right checksum (RFC 1071).
    fn folded_sum(message: &[u8]) -> u32 {
        let words = message
            .chunks(2)
            .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
        let sum: u32 = words.sum();
        (sum & 0xffff) + (sum >> 16)
    }

    #[test]
    fn a_request_has_a_right_checksum_whatever_it_carries() {
        for (identifier, sequence) in [(0, 0), (1, 2), (0xffff, 0xffff), (0xf7ff, 0)] {
            let request = echo_request(identifier, sequence);

            assert_eq!(folded_sum(&request), 0xffff, "{identifier} {sequence}");
        }
    }

    #[test]
    fn a_reply_is_ours_by_its_identifier_behind_a_header_of_any_length() {
        let mut reply = echo_request(0x1234, 9).to_vec();
        reply[0] = ECHO_REPLY;
        let plain = [vec![0x45; 1], vec![0; 19], reply.clone()].concat();
        let with_options = [vec![0x46; 1], vec![0; 23], reply].concat();

        assert!(is_reply(&plain, 0x1234) && is_reply(&with_options, 0x1234));
        assert!(!is_reply(&plain, 0x4321));
    }

    #[test]
    fn requests_and_fragments_are_no_replies() {
        let request = [vec![0x45; 1], vec![0; 19], echo_request(1, 1).to_vec()].concat();

        assert!(!is_reply(&request, 1));
        assert!(!is_reply(&request[..22], 1));
        assert!(!is_reply(&[], 1));
    }

    #[tokio::test]
    async fn a_host_that_answers_is_seen_and_one_that_does_not_is_not() {
        let netns = HostNetns::make().await.unwrap();
        netns
            .ip(&format!("address add {SOURCE}/32 dev lo"))
            .await
            .unwrap();
        netns.ip("route add 198.51.100.0/24 dev lo").await.unwrap();

        let answering = Probe::start(&netns, SOURCE, 7).await.unwrap();
        let reply = answering.first_reply(Duration::from_secs(20)).await;
        let silent = Probe::start(&netns, Ipv4Addr::new(198, 51, 100, 9), 8).await;
        let silence = silent.unwrap().first_reply(Duration::from_millis(50)).await;

        assert!(reply.is_ok(), "{reply:?}");
        let said = silence.unwrap_err().to_string();
        assert_eq!(said, "no echo reply within 50ms");
    }
}
