//! Asking an address for an echo, without a `ping` that the machine may not have.
//!
//! A raw socket (`CAP_NET_RAW` in the own user namespace is enough) sends ICMP echo requests one
//! after the other: RFC 792 for IPv4, RFC 4443 §4 for IPv6.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto};

/// An address from which no echo came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PingError {
    #[error("no echo of packet {sequence} from {to} within {patience:?}")]
    Silent {
        to: IpAddr,
        sequence: u16,
        patience: Duration,
    },
    #[error("failed to ping {to}")]
    System {
        to: IpAddr,
        #[source]
        cause: io::Error,
    },
}

/// What kind of packet asks and what kind answers.
#[derive(Debug, Clone, Copy)]
struct Kinds {
    request: u8,
    reply: u8,
}

const V4: Kinds = Kinds {
    request: 8,
    reply: 0,
};
const V6: Kinds = Kinds {
    request: 128,
    reply: 129,
};

/// Behind its header a packet has this to say; as much as ping(8) has.
const PAYLOAD: [u8; 56] = [0x6e; 56];

/// A host that is not known yet says so at once (`EHOSTUNREACH` when nobody answers ARP); how long
/// until it is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Asks from the namespace of the calling thread, and waits for one echo after the other.
///
/// # Errors
/// When one does not come in time, or there is no way there.
pub(crate) fn ping(to: IpAddr, count: u16, patience: Duration) -> Result<Vec<Duration>, PingError> {
    let system = |cause| PingError::System { to, cause };
    let socket = socket(to).map_err(system)?;
    (1..=count)
        .map(|sequence| {
            let found = echo(&socket, to, sequence, patience).map_err(system)?;
            found.ok_or(PingError::Silent {
                to,
                sequence,
                patience,
            })
        })
        .collect()
}

fn socket(to: IpAddr) -> io::Result<OwnedFd> {
    let (family, protocol) = match to {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
    };
    let flags = SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(
        family,
        SocketType::RAW,
        flags,
        Some(protocol),
    )?)
}

/// Sends one request until its echo comes.
fn echo(
    socket: &OwnedFd,
    to: IpAddr,
    sequence: u16,
    patience: Duration,
) -> io::Result<Option<Duration>> {
    let identity = u16::try_from(std::process::id() & 0xffff).unwrap_or_default();
    let begun = Instant::now();
    while begun.elapsed() < patience {
        let asked = Instant::now();
        let request = request(to, identity, sequence);
        match rustix::net::sendto(
            socket,
            &request,
            SendFlags::empty(),
            &SocketAddr::new(to, 0),
        ) {
            Ok(_) => {}
            Err(errno) if is_passing(errno) => {
                std::thread::sleep(RETRY_PAUSE);
                continue;
            }
            Err(errno) => return Err(errno.into()),
        }
        // A request that was lost is sent again, well before all patience is gone.
        let until = Duration::from_millis(500).min(patience.saturating_sub(begun.elapsed()));
        if wait_for(socket, to, (identity, sequence), asked + until)? {
            return Ok(Some(asked.elapsed()));
        }
    }
    Ok(None)
}

fn is_passing(errno: rustix::io::Errno) -> bool {
    use rustix::io::Errno;
    [
        Errno::HOSTUNREACH,
        Errno::NETUNREACH,
        Errno::NETDOWN,
        Errno::NOBUFS,
    ]
    .contains(&errno)
}

fn wait_for(
    socket: &OwnedFd,
    to: IpAddr,
    expected: (u16, u16),
    until: Instant,
) -> io::Result<bool> {
    let mut buffer = [0; 2048];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        set_socket_timeout(socket, Timeout::Recv, Some(left))?;
        match rustix::net::recv(socket, &mut buffer, RecvFlags::empty()) {
            Ok((length, _)) if is_echo(&buffer[..length], to, expected) => return Ok(true),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => return Ok(false),
            Err(errno) if is_passing(errno) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn request(to: IpAddr, identity: u16, sequence: u16) -> Vec<u8> {
    let kinds = kinds(to);
    let mut packet = vec![kinds.request, 0, 0, 0];
    packet.extend(identity.to_be_bytes());
    packet.extend(sequence.to_be_bytes());
    packet.extend(PAYLOAD);
    // Of ICMPv6 the kernel does it (RFC 3542 §3.1).
    if to.is_ipv4() {
        let sum = checksum(&packet).to_be_bytes();
        packet[2..4].copy_from_slice(&sum);
    }
    packet
}

fn kinds(to: IpAddr) -> Kinds {
    match to {
        IpAddr::V4(_) => V4,
        IpAddr::V6(_) => V6,
    }
}

/// RFC 1071.
fn checksum(packet: &[u8]) -> u16 {
    let word = |pair: &[u8]| {
        let low = pair.get(1).copied().unwrap_or_default();
        u32::from(u16::from_be_bytes([pair[0], low]))
    };
    let mut sum: u32 = packet.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

/// An IPv4 raw socket gives the IP header too, an IPv6 one does not (raw(7), ipv6(7)).
fn is_echo(packet: &[u8], to: IpAddr, (identity, sequence): (u16, u16)) -> bool {
    let header_length = match (to, packet.first()) {
        (IpAddr::V4(_), Some(first)) => usize::from(first & 0x0f) * 4,
        _ => 0,
    };
    let Some(&[kind, _, _, _, id_1, id_2, sequence_1, sequence_2]) = packet
        .get(header_length..)
        .and_then(|icmp| icmp.first_chunk::<8>())
    else {
        return false;
    };
    kind == kinds(to).reply
        && u16::from_be_bytes([id_1, id_2]) == identity
        && u16::from_be_bytes([sequence_1, sequence_2]) == sequence
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checked_packet_sums_up_to_nothing() {
        let packet = request("10.0.0.1".parse().unwrap(), 0x1234, 7);

        assert_eq!(checksum(&packet), 0);
    }

    #[test]
    fn only_the_echo_of_the_own_request_counts() {
        let to: IpAddr = "10.0.0.1".parse().unwrap();
        let mut reply = vec![0x45; 20];
        reply.extend([0, 0, 0, 0, 0x12, 0x34, 0, 7]);

        assert!(is_echo(&reply, to, (0x1234, 7)));
        assert!(!is_echo(&reply, to, (0x1234, 8)));
        assert!(!is_echo(&reply, to, (0x1235, 7)));
        assert!(!is_echo(&reply[..24], to, (0x1234, 7)));
        assert!(!is_echo(&[], to, (0x1234, 7)));
    }
}
