//! A token bucket (`sch_tbf`) and how it charges packets, as bytes on the wire.
//!
//! TBF limits bytes per second and knows no packets. But its rate has a least charge per packet
//! (`mpu` of `struct tc_ratespec`, honoured since Linux 5.17, commit fb80445c438c), so that one
//! bucket can limit both: if every packet counts for at least rate ÷ packet rate, then no more than
//! the packet rate gets through.
//!
//! Segmentation offload must not get around that: one buffer of 64 KiB may be a thousand packets on
//! the wire. A size table (`TCA_STAB`) therefore makes whatever is longer than a frame may be
//! longer than the bucket can hold, upon which TBF cuts it into segments (`tbf_segment` in
//! net/sched/sch_tbf.c) or, when it is no such buffer, drops it:
//!
//! ```text
//!   frame ──► size table ──fits──────────────────────► FIFO ──► charged, at least the minimum
//!                   └──────longer than a frame──► segments ──┘
//! ```
//!
//! The table also charges the minimum, for the sake of the FIFO: its limit, in bytes, then means
//! the same waiting time for small packets as for large ones.

use netlink_packet_core::{DefaultNla, NlasIterator};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};

use super::{BUCKET, QueueingPlace, QueueingView, message};
use crate::netlink::link_view::LinkIndex;

// include/uapi/linux/pkt_sched.h
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
const TCA_STAB_BASE: u16 = 1;
const TCA_STAB_DATA: u16 = 2;
/// Charging by the byte: no table of transmission times is needed then (Linux 3.8).
const TC_LINKLAYER_ETHERNET: u8 = 1;

/// Length of a packet is looked up in steps of 8 bytes, each charged as its longest.
const CELL_LOG: u8 = 3;

/// Longest buffer the kernel passes down in one piece (`GSO_MAX_SIZE` with BIG TCP, Linux 6.3).
const LONGEST_BUFFER_BYTES: u32 = 8 * 65536;

/// Nanoseconds of one tick of the packet scheduler (`PSCHED_SHIFT` in include/net/pkt_sched.h).
const TICK_NANOSECONDS: u128 = 64;

/// A limit to what leaves a link: never more than `burst + rate × time` in any stretch of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenBucket {
    rate: u64,
    burst: u32,
    queue: u32,
    size_table: Option<SizeTable>,
}

/// How a bucket charges packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SizeTable {
    /// Longest frame there may be, in bytes, Ethernet header counted. What is longer is segmented
    /// or dropped.
    pub longest_frame: u32,
    /// What a packet is charged at least, in bytes.
    pub minimum_charge: u16,
}

/// Numbers no bucket can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBucket {
    /// Nothing would ever pass.
    #[error("the rate is zero")]
    NoRate,
    /// The largest packet would never pass.
    #[error("the burst of {burst} bytes is less than the largest charge, {charge} bytes")]
    BurstTooSmall {
        /// The burst.
        burst: u32,
        /// Charge of the largest packet.
        charge: u32,
    },
    /// The kernel computes charges in 31 bits and would overflow.
    #[error("the burst of {burst} bytes is too large for a size table")]
    BurstTooLarge {
        /// The burst.
        burst: u32,
    },
}

impl TokenBucket {
    /// A bucket of `rate` bytes per second and `burst` bytes, before which `queue` bytes wait, the
    /// rest being dropped.
    ///
    /// # Errors
    /// When the numbers contradict each other.
    pub fn new(
        rate: u64,
        burst: u32,
        queue: u32,
        size_table: Option<SizeTable>,
    ) -> Result<Self, InvalidBucket> {
        if rate == 0 {
            return Err(InvalidBucket::NoRate);
        }
        if let Some(table) = size_table {
            table.check(burst)?;
        }
        Ok(Self {
            rate,
            burst,
            queue,
            size_table,
        })
    }

    /// Bytes per second.
    #[must_use]
    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// Bytes that may pass at once.
    #[must_use]
    pub fn burst(&self) -> u32 {
        self.burst
    }

    /// How it charges packets; `None`: by their length, and a buffer that is still to be segmented
    /// by the length of its segments.
    #[must_use]
    pub fn size_table(&self) -> Option<SizeTable> {
        self.size_table
    }

    /// Whether `found`, as read back, is this bucket. The kernel keeps the burst as a time, in
    /// ticks.
    #[must_use]
    pub fn is_same(&self, found: &Self) -> bool {
        let tolerance = self.burst / 64 + 1;
        self.rate == found.rate
            && self.queue == found.queue
            && self.size_table == found.size_table
            && self.burst.abs_diff(found.burst) <= tolerance
    }

    pub(super) fn root_message(&self, index: LinkIndex) -> TcMessage {
        let mut message = message(index, TcHandle::ROOT);
        message.header.handle = BUCKET;
        message.attributes = vec![
            TcAttribute::Kind("tbf".to_owned()),
            TcAttribute::Options(self.options()),
        ];
        message.attributes.extend(self.table_attribute());
        message
    }

    fn options(&self) -> Vec<TcOption> {
        let mut options = vec![
            (TCA_TBF_PARMS, self.parameters()),
            (TCA_TBF_BURST, self.burst.to_ne_bytes().to_vec()),
        ];
        if u32::try_from(self.rate).is_err() {
            options.push((TCA_TBF_RATE64, self.rate.to_ne_bytes().to_vec()));
        }
        let option = |(kind, value)| TcOption::Other(DefaultNla::new(kind, value));
        options.into_iter().map(option).collect()
    }

    /// `struct tc_tbf_qopt`: two of `struct tc_ratespec` (the second, the peak rate, unused), the
    /// limit of the queue, and burst and MTU in ticks, which `TCA_TBF_BURST` stands in for.
    fn parameters(&self) -> Vec<u8> {
        let minimum_charge = self.size_table.map_or(0, |table| table.minimum_charge);
        let mut bytes = vec![0, TC_LINKLAYER_ETHERNET, 0, 0, 0, 0];
        bytes.extend(minimum_charge.to_ne_bytes());
        bytes.extend(u32::try_from(self.rate).unwrap_or(u32::MAX).to_ne_bytes());
        bytes.extend([0; 12]);
        bytes.extend(self.queue.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes
    }

    fn table_attribute(&self) -> Option<TcAttribute> {
        let table = self.size_table?;
        Some(TcAttribute::Stab(table.attribute(self.burst)))
    }
}

impl SizeTable {
    fn check(self, burst: u32) -> Result<(), InvalidBucket> {
        let charge = self.largest_charge();
        if charge > burst {
            return Err(InvalidBucket::BurstTooSmall { burst, charge });
        }
        if burst > self.largest_burst() {
            return Err(InvalidBucket::BurstTooLarge { burst });
        }
        Ok(())
    }

    /// The largest burst a bucket with this table can have, in bytes. Past the table's end the
    /// kernel multiplies, charge × (length ÷ table) in an `int`; half of it is left for rounding
    /// up.
    #[must_use]
    pub fn largest_burst(self) -> u32 {
        let repeats = LONGEST_BUFFER_BYTES / self.longest_frame.max(1) + 2;
        i32::MAX.cast_unsigned() / 2 / repeats
    }

    /// What the longest frame is charged, in bytes: the least burst that lets it through.
    #[must_use]
    pub fn largest_charge(self) -> u32 {
        self.longest_frame
            .next_multiple_of(1 << CELL_LOG)
            .max(self.minimum_charge.into())
    }

    /// The charges, in units of `1 << size_log` bytes, rounded up; the last one is more than
    /// `burst`.
    fn charges(self, burst: u32) -> (u8, Vec<u16>) {
        let mut size_log = 0_u8;
        while (burst >> size_log) + 1 > u32::from(u16::MAX) {
            size_log += 1;
        }
        let units = |bytes: u32| {
            let units = bytes.div_ceil(1 << size_log);
            u16::try_from(units).expect("no charge exceeds the burst, whose units fit")
        };
        let cells = self.longest_frame.div_ceil(1 << CELL_LOG);
        let longest_of = |cell: u32| (cell + 1) << CELL_LOG;
        let charge = |cell| units(longest_of(cell).max(self.minimum_charge.into()));
        let beyond = u16::try_from((burst >> size_log) + 1).expect("the loop has made it fit");
        (size_log, (0..cells).map(charge).chain([beyond]).collect())
    }

    /// The nested attributes of `TCA_STAB`: `struct tc_sizespec` and the charges. The kernel makes
    /// nothing of the field `mtu` (`__qdisc_calculate_pkt_len`) but hands it back, without the
    /// charges: it tells a later reader which table it is.
    fn attribute(self, burst: u32) -> Vec<u8> {
        let (size_log, charges) = self.charges(burst);
        let length = u32::try_from(charges.len()).expect("at most 8193 cells");
        let mut base = vec![CELL_LOG, size_log];
        // One less, so that a cell ends with its longest length.
        base.extend((-1_i16).to_ne_bytes());
        let linklayer = u32::from(TC_LINKLAYER_ETHERNET);
        for field in [
            0,
            linklayer,
            self.minimum_charge.into(),
            self.longest_frame,
            length,
        ] {
            base.extend(field.to_ne_bytes());
        }
        let data = charges.into_iter().flat_map(u16::to_ne_bytes).collect();
        [nested(TCA_STAB_BASE, base), nested(TCA_STAB_DATA, data)].concat()
    }
}

/// One attribute within another: length, kind, value, padding to four bytes.
fn nested(kind: u16, value: Vec<u8>) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).expect("a table of 8193 charges has 16 KiB");
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// A queueing discipline of link `index`, unless the kernel has put it there by itself.
pub(super) fn view(message: RouteNetlinkMessage, index: LinkIndex) -> Option<QueueingView> {
    let RouteNetlinkMessage::NewQueueDiscipline(message) = message else {
        return None;
    };
    let header = &message.header;
    if header.index != index.0.cast_signed() || header.handle == TcHandle::UNSPEC {
        return None;
    }
    let place = match header.parent {
        TcHandle::ROOT => QueueingPlace::Root,
        TcHandle::INGRESS => QueueingPlace::Ingress,
        _ => QueueingPlace::Inner,
    };
    let mut view = QueueingView {
        kind: String::new(),
        place,
        bucket: None,
    };
    let mut longest_frame = None;
    let mut options = Vec::new();
    for attribute in message.attributes {
        if let TcAttribute::Kind(kind) = attribute {
            view.kind = kind;
        } else if let TcAttribute::Stab(bytes) = attribute {
            longest_frame = self::longest_frame(&bytes);
        } else if let TcAttribute::Options(found) = attribute {
            options = found;
        }
    }
    if view.kind == "tbf" {
        view.bucket = bucket(&options, longest_frame);
    }
    Some(view)
}

fn longest_frame(nested: &[u8]) -> Option<u32> {
    u32_at(&value(nested, TCA_STAB_BASE)?, 16)
}

fn bucket(options: &[TcOption], longest_frame: Option<u32>) -> Option<TokenBucket> {
    let bytes = options.iter().find_map(|option| {
        if let TcOption::Other(attribute) = option {
            Some(raw_value(attribute))
        } else {
            None
        }
    })?;
    let parameters = value(&bytes, TCA_TBF_PARMS)?;
    let large = value(&bytes, TCA_TBF_RATE64).and_then(|bytes| bytes.try_into().ok());
    let rate = match large {
        Some(bytes) => u64::from_ne_bytes(bytes),
        None => u32_at(&parameters, 8)?.into(),
    };
    let minimum_charge = u16::from_ne_bytes(parameters.get(6..8)?.try_into().ok()?);
    let size_table = longest_frame.map(|longest_frame| SizeTable {
        longest_frame,
        minimum_charge,
    });
    let time = u128::from(u32_at(&parameters, 28)?) * TICK_NANOSECONDS;
    let burst = u32::try_from(u128::from(rate) * time / 1_000_000_000).unwrap_or(u32::MAX);
    Some(TokenBucket {
        rate,
        burst,
        queue: u32_at(&parameters, 24)?,
        size_table,
    })
}

fn raw_value(attribute: &DefaultNla) -> Vec<u8> {
    use netlink_packet_core::Nla;
    let mut bytes = vec![0; attribute.value_len()];
    attribute.emit_value(&mut bytes);
    bytes
}

fn value(nested: &[u8], kind: u16) -> Option<Vec<u8>> {
    let mut attributes = NlasIterator::new(nested).filter_map(Result::ok);
    attributes
        .find(|attribute| attribute.kind() == kind)
        .map(|found| found.value().to_vec())
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(
        bytes.get(offset..offset + 4)?.try_into().ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel does with a table, after `__qdisc_calculate_pkt_len` in net/sched/sch_api.c.
    fn kernel_charge(size_log: u8, table: &[u16], length: u32) -> i64 {
        let slot = usize::try_from((length - 1) >> CELL_LOG).unwrap();
        let size = table.len();
        let charge = match table.get(slot) {
            Some(charge) => i64::from(*charge),
            None => {
                i64::from(table[size - 1]) * i64::try_from(slot / size).unwrap()
                    + i64::from(table[slot % size])
            }
        };
        charge << size_log
    }

    #[test]
    fn no_packet_is_charged_less_than_its_length_or_the_minimum() {
        for (minimum, burst) in [
            (0, 65_536),
            (100, 65_536),
            (3000, 65_536),
            (40_000, 4_000_000),
        ] {
            let table = SizeTable {
                longest_frame: 1522,
                minimum_charge: minimum,
            };
            let (size_log, charges) = table.charges(burst);

            for length in 1..=1522 {
                let charge = kernel_charge(size_log, &charges, length);
                let least = i64::from(length.max(minimum.into()));
                assert!(
                    charge >= least,
                    "{length} bytes are charged {charge} of {least}"
                );
                assert!(
                    charge < least + 8 + (1 << size_log),
                    "{length} bytes: {charge}"
                );
            }
        }
    }

    #[test]
    fn whatever_is_longer_than_a_frame_is_charged_more_than_the_burst() {
        for (longest_frame, burst) in [(1522, 65_536), (9022, 2_000_000), (65_535, 100_000)] {
            let table = SizeTable {
                longest_frame,
                minimum_charge: 0,
            };
            table.check(burst).unwrap();
            let (size_log, charges) = table.charges(burst);

            for length in [
                longest_frame.next_multiple_of(8) + 1,
                65_600,
                100_000,
                524_288,
            ] {
                let charge = kernel_charge(size_log, &charges, length);
                assert!(charge > burst.into(), "{length} bytes are charged {charge}");
                assert!(
                    charge <= i32::MAX.into(),
                    "{length} bytes overflow: {charge}"
                );
            }
        }
    }

    #[test]
    fn numbers_that_would_let_nothing_or_everything_through_are_refused() {
        let table = |longest_frame, minimum_charge| {
            Some(SizeTable {
                longest_frame,
                minimum_charge,
            })
        };

        assert_eq!(TokenBucket::new(0, 1, 1, None), Err(InvalidBucket::NoRate));
        assert_eq!(
            TokenBucket::new(1, 1500, 1, table(1514, 0)),
            Err(InvalidBucket::BurstTooSmall {
                burst: 1500,
                charge: 1520
            })
        );
        assert_eq!(
            TokenBucket::new(1, 50_000_000, 1, table(1514, 0)),
            Err(InvalidBucket::BurstTooLarge { burst: 50_000_000 })
        );
    }
}
