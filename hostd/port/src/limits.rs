//! From the limits of a NIC to token buckets: arithmetic only.
//!
//! A direction has one bucket whatever is limited; a packet rate becomes a least charge per packet
//! ([`linux_network::traffic`] says how the kernel charges).
//!
//! | limited | bucket's rate | charge of a packet |
//! | --- | --- | --- |
//! | bandwidth | bandwidth | its length |
//! | packets | packets × longest frame | longest frame |
//! | both | bandwidth | the larger of its length and bandwidth ÷ packets |

use linux_network::traffic::{InvalidBucket, SizeTable, TokenBucket};
use nic_model::{Mtu, RateLimit};

/// Ethernet header and two VLAN tags: what a frame has besides its packet at most.
const FRAME_OVERHEAD_BYTES: u32 = 14 + 2 * 4;

/// A bucket holds what its rate yields in 4 ms, one tick of a kernel with `CONFIG_HZ=250`: less,
/// and a late timer costs throughput (tc-tbf(8), "burst").
const BURSTS_PER_SECOND: u64 = 250;

/// But not less than a maximal buffer of segmentation offload, so that slow NICs need not segment.
const BURST_BYTES_MIN: u64 = 64 * 1024;

/// A packet waits at most a twentieth of a second, 50 ms (the `latency` of tc-tbf(8)'s examples),
/// and a burst may always wait.
const QUEUES_PER_SECOND: u64 = 20;

/// Beyond this, the most that fits `mpu` of `struct tc_ratespec`, a charge is halved together with
/// the rate, which lets the same packets through.
const CHARGE_BYTES_MAX: u64 = 0xffff;

/// The bucket that enforces `limit` on packets of up to `mtu`; `None` when nothing is limited.
pub(crate) fn bucket(limit: RateLimit, mtu: Mtu) -> Result<Option<TokenBucket>, InvalidBucket> {
    let longest_frame = u32::from(mtu.bytes()) + FRAME_OVERHEAD_BYTES;
    let bandwidth = limit.bandwidth.map(|rate| rate.bytes_per_second());
    let packets = limit.packets.map(|rate| rate.packets_per_second());
    match (bandwidth, packets) {
        (None, None) => Ok(None),
        (Some(bandwidth), None) => by_length(bandwidth, longest_frame).map(Some),
        (bandwidth, Some(packets)) => by_packet(bandwidth, packets, longest_frame).map(Some),
    }
}

fn by_length(rate: u64, longest_frame: u32) -> Result<TokenBucket, InvalidBucket> {
    let burst = saturated(burst(rate, longest_frame));
    TokenBucket::new(rate, burst, queue(rate, burst), None)
}

fn by_packet(
    bandwidth: Option<u64>,
    packets: u64,
    longest_frame: u32,
) -> Result<TokenBucket, InvalidBucket> {
    if packets == 0 {
        return Err(InvalidBucket::NoRate);
    }
    let longest_charge = u64::from(longest_frame.next_multiple_of(8));
    let (mut rate, mut charge) = match bandwidth {
        Some(bandwidth) => (bandwidth, bandwidth.div_ceil(packets)),
        None => (packets.saturating_mul(longest_charge), longest_charge),
    };
    while charge > CHARGE_BYTES_MAX {
        (rate, charge) = (rate / 2, charge.div_ceil(2));
    }
    let minimum_charge = u16::try_from(charge).expect("the loop has made it fit");
    let table = SizeTable {
        longest_frame,
        minimum_charge,
    };
    let burst = saturated(burst(rate, table.largest_charge())).min(table.largest_burst());
    TokenBucket::new(rate, burst, queue(rate, burst), Some(table))
}

fn burst(rate: u64, largest_charge: u32) -> u64 {
    BURST_BYTES_MIN
        .max(rate / BURSTS_PER_SECOND)
        .max(2 * u64::from(largest_charge))
}

fn queue(rate: u64, burst: u32) -> u32 {
    saturated(rate / QUEUES_PER_SECOND + u64::from(burst))
}

fn saturated(bytes: u64) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use nic_model::{BitRate, PacketRate};

    use super::*;

    fn limit(bits: Option<u64>, packets: Option<u64>) -> RateLimit {
        RateLimit {
            bandwidth: bits.map(BitRate::from_bits_per_second),
            packets: packets.map(PacketRate::from_packets_per_second),
        }
    }

    #[test]
    fn nothing_limited_needs_no_bucket() {
        assert_eq!(bucket(limit(None, None), Mtu::ETHERNET), Ok(None));
    }

    #[test]
    fn a_limit_of_nothing_is_refused() {
        for limit in [
            limit(Some(7), None),
            limit(None, Some(0)),
            limit(Some(0), Some(1)),
        ] {
            assert_eq!(
                bucket(limit, Mtu::ETHERNET),
                Err(InvalidBucket::NoRate),
                "{limit:?}"
            );
        }
    }

    #[test]
    fn neither_limit_is_exceeded_whatever_their_ratio() {
        let rates = [1_000_000, 100_000_000, 10_000_000_000, 400_000_000_000];
        let packet_rates = [1, 100, 10_000, 1_000_000, 100_000_000];
        let mtus = [1280, 1500, 9000, 65_535].map(|bytes| Mtu::try_from(bytes).unwrap());
        for mtu in mtus {
            for bits in rates.map(Some).into_iter().chain([None]) {
                for packets in packet_rates {
                    let bucket = bucket(limit(bits, Some(packets)), mtu).unwrap().unwrap();
                    let table = bucket.size_table().unwrap();

                    let passing = bucket.rate() / u64::from(table.minimum_charge);
                    assert!(passing <= packets, "{bits:?} {packets} {bucket:?}");
                    // Halving the rate below the bandwidth is made up for only by a charge that
                    // exceeds any frame's length.
                    let halved = bits.is_some_and(|bits| bucket.rate() < bits / 8);
                    let minimum_charge = u32::from(table.minimum_charge);
                    assert!(!halved || minimum_charge >= table.longest_frame.min(32_768));
                    assert!(bucket.burst() >= table.largest_charge());
                }
            }
        }
    }

    #[test]
    fn both_limits_can_be_reached() {
        let both = bucket(limit(Some(100_000_000), Some(50_000)), Mtu::ETHERNET)
            .unwrap()
            .unwrap();

        assert_eq!(both.rate(), 12_500_000, "full frames get the bandwidth");
        assert_eq!(
            both.size_table().unwrap().minimum_charge,
            250,
            "small ones the packet rate"
        );
    }
}
