//! Limits, measured with frames through the taps. What is asserted is the bound that the limit is:
//! in no stretch of time does more pass than burst + rate × time, however busy the machine.

use std::time::{Duration, Instant};

use nic_model::{BitRate, MacAddr, PacketRate, RateLimit, RateLimits};
use port::PortSpec;

use crate::common::{VIRTIO_HEADER, Vm, bridge, spec};

/// What the documentation of the limits promises as the burst of a slow NIC.
const BURST_BYTES: f64 = 65_536.0;

/// Rounding of the kernel's rate to a multiplication and a shift, and of the table to 8 bytes.
const TOLERANCE: f64 = 1.02;

#[derive(Debug, Clone, Copy)]
enum Towards {
    Vm,
    Network,
}

/// A limited VM and an unlimited one, as sender and receiver of what is limited.
async fn pair(limit: RateLimit, towards: Towards) -> (Vm, Vm) {
    let (_netns, ports) = bridge().await;
    let limits = match towards {
        Towards::Vm => RateLimits {
            inbound: limit,
            outbound: RateLimit::default(),
        },
        Towards::Network => RateLimits {
            outbound: limit,
            inbound: RateLimit::default(),
        },
    };
    let limited = Vm::plug(&ports, &PortSpec { limits, ..spec(1) }).await;
    let free = Vm::plug(&ports, &spec(2)).await;
    match towards {
        Towards::Vm => (free, limited),
        Towards::Network => (limited, free),
    }
}

/// What has passed, and how long it took.
#[derive(Debug, Clone, Copy)]
struct Passed {
    packets: f64,
    bytes: f64,
    seconds: f64,
}

/// Offers far more than the limit until `wanted` packets have passed.
fn flood(sender: &impl Fn(), receiver: &Vm, wanted: usize) -> Passed {
    let start = Instant::now();
    let (mut packets, mut bytes) = (0, 0);
    while packets < wanted {
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "{packets} of {wanted} have passed"
        );
        for _ in 0..20 {
            sender();
        }
        receiver.wait();
        for frame in receiver.received() {
            packets += 1;
            bytes += frame.len();
        }
    }
    let number = |count: usize| f64::from(u32::try_from(count).unwrap());
    Passed {
        packets: number(packets),
        bytes: number(bytes),
        seconds: start.elapsed().as_secs_f64(),
    }
}

fn bandwidth(megabits: u64) -> RateLimit {
    RateLimit {
        bandwidth: Some(BitRate::from_megabits_per_second(megabits)),
        packets: None,
    }
}

fn packets(per_second: u64) -> RateLimit {
    let packets = Some(PacketRate::from_packets_per_second(per_second));
    RateLimit {
        bandwidth: None,
        packets,
    }
}

#[tokio::test]
async fn bandwidth_is_never_exceeded_in_either_direction() {
    for towards in [Towards::Vm, Towards::Network] {
        for length in [60, 1514] {
            let (sender, receiver) = pair(bandwidth(8), towards).await;
            let send = || sender.send(sender.mac, receiver.mac, length);

            let passed = flood(&send, &receiver, 300_000 / length);

            let allowed = BURST_BYTES + 1_000_000.0 * passed.seconds * TOLERANCE;
            assert!(
                passed.bytes <= allowed,
                "{towards:?} {length}: {passed:?} > {allowed}"
            );
        }
    }
}

#[tokio::test]
async fn the_packet_rate_is_never_exceeded_in_either_direction() {
    for towards in [Towards::Vm, Towards::Network] {
        for length in [60, 1514] {
            let (sender, receiver) = pair(packets(1000), towards).await;
            let send = || sender.send(sender.mac, receiver.mac, length);

            let passed = flood(&send, &receiver, 250);

            let allowed = BURST_BYTES / 1500.0 + 1000.0 * passed.seconds * TOLERANCE;
            assert!(
                passed.packets <= allowed,
                "{towards:?} {length}: {passed:?} > {allowed}"
            );
        }
    }
}

#[tokio::test]
async fn of_two_limits_neither_is_exceeded() {
    let limit = RateLimit {
        packets: packets(2000).packets,
        ..bandwidth(8)
    };
    for towards in [Towards::Vm, Towards::Network] {
        for (length, wanted) in [(60, 500), (1514, 200)] {
            let (sender, receiver) = pair(limit, towards).await;
            let send = || sender.send(sender.mac, receiver.mac, length);

            let passed = flood(&send, &receiver, wanted);

            let bytes = BURST_BYTES + 1_000_000.0 * passed.seconds * TOLERANCE;
            let packets = BURST_BYTES / 500.0 + 2000.0 * passed.seconds * TOLERANCE;
            assert!(
                passed.bytes <= bytes,
                "{towards:?} {length}: {passed:?} > {bytes} bytes"
            );
            assert!(
                passed.packets <= packets,
                "{towards:?} {length}: {passed:?} > {packets}"
            );
        }
    }
}

/// A buffer of `segments` TCP segments of 100 bytes, left to the host to cut, as a guest's driver
/// sends it (virtio 1.2 §5.1.6.2).
fn offloaded(from: MacAddr, to: MacAddr, segments: usize) -> Vec<u8> {
    const HEADERS: u16 = 14 + 20 + 20;
    let length = u16::try_from(40 + segments * 100).unwrap();
    let mut ip = vec![0x45, 0];
    ip.extend(length.to_be_bytes());
    ip.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    let words = ip
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let checksum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    // NEEDS_CSUM, TCPV4, length of the headers, size of a segment, where the checksum goes.
    let mut bytes = vec![1, 1];
    for field in [HEADERS, 100, 34, 16] {
        bytes.extend(field.to_ne_bytes());
    }
    assert_eq!(bytes.len(), VIRTIO_HEADER);
    bytes.extend(to.octets());
    bytes.extend(from.octets());
    bytes.extend([8, 0]);
    bytes.extend(ip);
    // Ports 1 and 2, sequence 1, acknowledgement 1, header of 5 words, ACK.
    bytes.extend([
        0, 1, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0,
    ]);
    bytes.resize(bytes.len() + segments * 100, 0x5a);
    bytes
}

#[tokio::test]
async fn segmentation_offload_does_not_get_around_the_packet_rate() {
    for towards in [Towards::Vm, Towards::Network] {
        let (sender, receiver) = pair(packets(1000), towards).await;
        let buffer = offloaded(sender.mac, receiver.mac, 40);

        let passed = flood(&|| sender.send_raw(&buffer), &receiver, 250);

        assert!(
            passed.bytes <= 160.0 * passed.packets,
            "the buffers were cut: {passed:?}"
        );
        let allowed = BURST_BYTES / 1500.0 + 1000.0 * passed.seconds * TOLERANCE;
        assert!(
            passed.packets <= allowed,
            "{towards:?}: {passed:?} > {allowed}"
        );
    }
}

#[tokio::test]
async fn segmentation_offload_does_not_get_around_the_bandwidth() {
    for towards in [Towards::Vm, Towards::Network] {
        let (sender, receiver) = pair(bandwidth(8), towards).await;
        let buffer = offloaded(sender.mac, receiver.mac, 600);

        let passed = flood(&|| sender.send_raw(&buffer), &receiver, 2000);

        let allowed = BURST_BYTES + 1_000_000.0 * passed.seconds * TOLERANCE;
        assert!(
            passed.bytes <= allowed,
            "{towards:?}: {passed:?} > {allowed}"
        );
    }
}

#[tokio::test]
async fn frames_longer_than_the_mtu_do_not_pass_a_packet_limit_at_a_discount() {
    let (sender, receiver) = pair(packets(1000), Towards::Network).await;

    sender.send(sender.mac, receiver.mac, 60_000);
    sender.send(sender.mac, receiver.mac, 100);

    assert_eq!(receiver.receive().len(), 100);
}
