//! Rates, each with its unit in the type.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Bits per second on the wire, Ethernet header counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BitRate(u64);

impl BitRate {
    /// From bits per second.
    #[must_use]
    pub const fn from_bits_per_second(bits: u64) -> Self {
        Self(bits)
    }

    /// From megabits (10⁶ bits) per second.
    #[must_use]
    pub const fn from_megabits_per_second(megabits: u64) -> Self {
        Self(megabits * 1_000_000)
    }

    /// Bits per second.
    #[must_use]
    pub const fn bits_per_second(self) -> u64 {
        self.0
    }

    /// Bytes per second, as the kernel's traffic control counts.
    #[must_use]
    pub const fn bytes_per_second(self) -> u64 {
        self.0 / 8
    }
}

impl fmt::Display for BitRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bits if bits >= 1_000_000 && bits % 1_000_000 == 0 => {
                write!(f, "{} Mbit/s", bits / 1_000_000)
            }
            bits => write!(f, "{bits} bit/s"),
        }
    }
}

/// Packets per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PacketRate(u64);

impl PacketRate {
    /// From packets per second.
    #[must_use]
    pub const fn from_packets_per_second(packets: u64) -> Self {
        Self(packets)
    }

    /// Packets per second.
    #[must_use]
    pub const fn packets_per_second(self) -> u64 {
        self.0
    }
}

impl fmt::Display for PacketRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} packets/s", self.0)
    }
}

/// Which way traffic goes, as seen from the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Towards the VM.
    In,
    /// Out of the VM.
    Out,
}

/// Limits of one direction; what is absent is unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RateLimit {
    /// Most bits per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<BitRate>,
    /// Most packets per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packets: Option<PacketRate>,
}

/// Limits of one NIC, both directions as seen from the VM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RateLimits {
    /// Towards the VM.
    #[serde(rename = "in")]
    pub inbound: RateLimit,
    /// Out of the VM.
    #[serde(rename = "out")]
    pub outbound: RateLimit,
}
