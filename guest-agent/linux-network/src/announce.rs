//! Telling the segment where an address now is, so that neighbours and switches do not keep sending
//! to where it was.
//!
//! The frames leave through a packet socket, not through the address's own: they may be sent while
//! the address is still optimistic, and no route is looked up for them. They carry the NIC's own
//! source address, from which every bridge on the way learns the port.

use std::io;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nic_model::MacAddr;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::netlink::link_view::LinkIndex;
use crate::netlink::{ConnectNetlinkError, Netlink, raw_socket};
use crate::netns::{Netns, RunInNetnsError};

const DEADLINE: Duration = Duration::from_secs(2);

/// A packet socket in one namespace. It only sends.
#[derive(Debug)]
pub struct Announcer {
    socket: OwnedFd,
}

/// From [`Announcer::open`].
#[derive(Debug, thiserror::Error)]
pub enum OpenAnnouncerError {
    /// The namespace could not be entered.
    #[error("failed to open a packet socket")]
    Namespace(#[source] RunInNetnsError),
    /// The socket could not be made: usually for lack of `CAP_NET_RAW`.
    #[error("failed to open a packet socket")]
    Socket(#[source] io::Error),
    /// The netlink socket that was asked for beside it could not be made.
    #[error("failed to open a netlink socket beside a packet socket")]
    Netlink(#[source] ConnectNetlinkError),
}

/// From the methods of [`Announcer`] that send.
#[derive(Debug, thiserror::Error)]
#[error("failed to announce an address on link {index}")]
pub struct AnnounceError {
    /// On which link.
    pub index: LinkIndex,
    /// Why: `ENETDOWN` when the link is down, `ENXIO` when it is gone.
    #[source]
    pub cause: io::Error,
}

impl Announcer {
    /// Opens a packet socket inside `netns`.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the socket not be made.
    pub async fn open(netns: &Netns) -> Result<Self, OpenAnnouncerError> {
        let socket = in_netns(netns, packet_socket).await?;
        let socket = socket.map_err(OpenAnnouncerError::Socket)?;
        Ok(Self { socket })
    }

    /// The same and a [`Netlink`] beside it, for one thread and one setns(2).
    ///
    /// # Errors
    /// When the namespace cannot be entered or one of the sockets not be made.
    pub async fn open_with_netlink(netns: &Netns) -> Result<(Self, Netlink), OpenAnnouncerError> {
        let (packets, netlink) = in_netns(netns, || (packet_socket(), raw_socket(&[]))).await?;
        let socket = packets.map_err(OpenAnnouncerError::Socket)?;
        let netlink = netlink
            .map_err(ConnectNetlinkError::Socket)
            .map_err(OpenAnnouncerError::Netlink)?;
        Ok((Self { socket }, Netlink::over(netlink)))
    }

    /// Sends one ARP announcement: a request whose sender and target are `address` (RFC 5227 §3).
    ///
    /// # Errors
    /// When the link is down or gone.
    pub fn gratuitous_arp(
        &self,
        index: LinkIndex,
        mac: MacAddr,
        address: Ipv4Addr,
    ) -> Result<(), AnnounceError> {
        self.send(index, &arp_announcement(mac, address))
    }

    /// Sends one unsolicited neighbour advertisement to all nodes, with the override flag
    /// (RFC 4861 §7.2.6).
    ///
    /// # Errors
    /// When the link is down or gone.
    pub fn unsolicited_neighbour_advertisement(
        &self,
        index: LinkIndex,
        mac: MacAddr,
        address: Ipv6Addr,
    ) -> Result<(), AnnounceError> {
        self.send(index, &neighbour_advertisement(mac, address))
    }

    fn send(&self, index: LinkIndex, frame: &[u8]) -> Result<(), AnnounceError> {
        send_frame(&self.socket, index, frame).map_err(|cause| AnnounceError { index, cause })
    }
}

async fn in_netns<T: Send + 'static>(
    netns: &Netns,
    make: fn() -> T,
) -> Result<T, OpenAnnouncerError> {
    let made = netns.run("packet-socket", make);
    match tokio::time::timeout(DEADLINE, made).await {
        Ok(outcome) => outcome.map_err(OpenAnnouncerError::Namespace),
        Err(elapsed) => Err(OpenAnnouncerError::Socket(elapsed.into())),
    }
}

fn packet_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // Protocol 0: nothing is ever received.
    let socket = rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?;
    Ok(socket)
}

#[expect(unsafe_code, reason = "rustix has no packet socket addresses")]
fn send_frame(socket: &OwnedFd, index: LinkIndex, frame: &[u8]) -> io::Result<()> {
    // SAFETY: sockaddr_ll is plain integers, for which all zero is a value.
    let mut target: libc::sockaddr_ll = unsafe { mem::zeroed() };
    target.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    target.sll_ifindex = i32::try_from(index.0).map_err(io::Error::other)?;
    let length = u32::try_from(size_of_val(&target)).map_err(io::Error::other)?;
    // SAFETY: frame and address are valid for reads of the lengths given, for the call.
    let sent = unsafe {
        let target = (&raw const target).cast::<libc::sockaddr>();
        let bytes = frame.as_ptr().cast::<libc::c_void>();
        libc::sendto(
            socket.as_raw_fd(),
            bytes,
            frame.len(),
            libc::MSG_DONTWAIT,
            target,
            length,
        )
    };
    if sent < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Ethernet (14 bytes) and ARP for IPv4 over Ethernet (28 bytes, RFC 826).
fn arp_announcement(mac: MacAddr, address: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    frame.extend([0xff; 6]);
    frame.extend(mac.octets());
    frame.extend([0x08, 0x06]);
    // Hardware type 1, protocol type 0x0800, lengths 6 and 4, operation 1 (request).
    frame.extend([0, 1, 0x08, 0x00, 6, 4, 0, 1]);
    frame.extend(mac.octets());
    frame.extend(address.octets());
    frame.extend([0; 6]);
    frame.extend(address.octets());
    frame
}

/// Ethernet (14 bytes), IPv6 (40 bytes), neighbour advertisement with the target's link-layer
/// address as an option (32 bytes, RFC 4861 §4.4).
fn neighbour_advertisement(mac: MacAddr, address: Ipv6Addr) -> Vec<u8> {
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    const OVERRIDE: u8 = 0x20;
    const ICMPV6: u8 = 58;
    let mut icmp = vec![136, 0, 0, 0, OVERRIDE, 0, 0, 0];
    icmp.extend(address.octets());
    icmp.extend([2, 1]);
    icmp.extend(mac.octets());
    let checksum = icmpv6_checksum(address, ALL_NODES, &icmp);
    icmp[2..4].copy_from_slice(&checksum.to_be_bytes());

    let mut frame = Vec::with_capacity(86);
    frame.extend([0x33, 0x33, 0, 0, 0, 1]);
    frame.extend(mac.octets());
    frame.extend([0x86, 0xdd]);
    // Hop limit 255: receivers drop anything else, since it would have come through a router.
    frame.extend([0x60, 0, 0, 0, 0, 32, ICMPV6, 255]);
    frame.extend(address.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(icmp);
    frame
}

/// The Internet checksum (RFC 1071) over `message` and IPv6's pseudo-header (RFC 8200 §8.1).
fn icmpv6_checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let addresses = source.octets().into_iter().chain(destination.octets());
    let bytes: Vec<u8> = addresses
        .chain([0, 0, 0, 32, 0, 0, 0, 58])
        .chain(message.iter().copied())
        .collect();
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair[1]);
    let mut sum: u32 = bytes.chunks_exact(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let folded = u16::try_from(sum).expect("the loop has folded it to 16 bits");
    !folded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advertisement_has_the_checksum_its_receiver_computes() {
        let address = "2001:db8::1".parse().unwrap();

        let frame = neighbour_advertisement("52:54:00:12:34:56".parse().unwrap(), address);

        // With the checksum in place the sum over everything is all ones (RFC 1071 §1).
        let all_nodes = "ff02::1".parse().unwrap();
        assert_eq!(icmpv6_checksum(address, all_nodes, &frame[54..]), 0);
        assert_eq!(frame.len(), 86);
    }
}
