//! The limits an operator sets: per class of VM, per tenant, per host.

use std::fmt;

use nic_model::{BitRate, Direction, PacketRate, RateLimit, RateLimits, VmClassName};
use serde::{Deserialize, Serialize};

/// What a VM of a class may have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmClass {
    /// The name that VMs refer to.
    pub name: VmClassName,
    /// NICs of ours at once, arriving and leaving ones counted.
    pub max_nics: u64,
    /// Static addresses of one NIC.
    pub max_addresses_per_nic: u64,
    /// Queues of one NIC.
    pub max_queues: u16,
    /// Most that one NIC may pass, whatever it asks for.
    #[serde(default)]
    pub rates: RateLimits,
}

impl VmClass {
    /// The rates in force for a NIC that asks for `asked`: the stricter of the two.
    #[must_use]
    pub fn effective_rates(&self, asked: RateLimits) -> RateLimits {
        RateLimits {
            inbound: stricter(self.rates.inbound, asked.inbound),
            outbound: stricter(self.rates.outbound, asked.outbound),
        }
    }
}

fn stricter(one: RateLimit, other: RateLimit) -> RateLimit {
    fn least<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
        one.into_iter().chain(other).min()
    }
    RateLimit {
        bandwidth: least::<BitRate>(one.bandwidth, other.bandwidth),
        packets: least::<PacketRate>(one.packets, other.packets),
    }
}

/// What one host and each tenant on it may have. Absent is unlimited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostQuota {
    /// NIC records on this host.
    pub max_nics_per_host: Option<u64>,
    /// NIC records of one tenant on this host.
    pub max_nics_per_tenant: Option<u64>,
    /// Addresses of one tenant on this host.
    pub max_addresses_per_tenant: Option<u64>,
}

/// The limits by name, as refusals and reports show them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LimitName {
    /// [`VmClass::max_nics`].
    NicsPerVm,
    /// Hot-plug slots of a VM.
    SlotsOfVm,
    /// [`VmClass::max_addresses_per_nic`].
    AddressesPerNic,
    /// [`VmClass::max_queues`].
    QueuesPerNic,
    /// Bandwidth of [`VmClass::rates`].
    Bandwidth(Direction),
    /// Packet rate of [`VmClass::rates`].
    Packets(Direction),
    /// [`HostQuota::max_nics_per_host`].
    NicsPerHost,
    /// [`HostQuota::max_nics_per_tenant`].
    NicsPerTenant,
    /// [`HostQuota::max_addresses_per_tenant`].
    AddressesPerTenant,
    /// Free addresses of a network's subnet.
    AddressesOfSubnet,
}

impl fmt::Display for LimitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NicsPerVm => "max_nics",
            Self::SlotsOfVm => "hotplug_slots",
            Self::AddressesPerNic => "max_addresses_per_nic",
            Self::QueuesPerNic => "max_queues",
            Self::Bandwidth(Direction::In) => "bandwidth_in",
            Self::Bandwidth(Direction::Out) => "bandwidth_out",
            Self::Packets(Direction::In) => "packets_in",
            Self::Packets(Direction::Out) => "packets_out",
            Self::NicsPerHost => "max_nics_per_host",
            Self::NicsPerTenant => "max_nics_per_tenant",
            Self::AddressesPerTenant => "max_addresses_per_tenant",
            Self::AddressesOfSubnet => "subnet_addresses",
        })
    }
}

/// One limit with what is used of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitUse {
    /// Which.
    pub name: LimitName,
    /// Its value; `None` is unlimited.
    pub value: Option<u64>,
    /// What is used.
    pub usage: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stricter_rate_is_in_force() {
        let megabits = |n| Some(BitRate::from_megabits_per_second(n));
        let class = VmClass {
            name: "small".parse().unwrap(),
            max_nics: 1,
            max_addresses_per_nic: 1,
            max_queues: 1,
            rates: RateLimits {
                inbound: RateLimit {
                    bandwidth: megabits(100),
                    packets: None,
                },
                outbound: RateLimit::default(),
            },
        };
        let asked = RateLimits {
            inbound: RateLimit {
                bandwidth: megabits(200),
                packets: None,
            },
            outbound: RateLimit {
                bandwidth: megabits(5),
                packets: None,
            },
        };

        let effective = class.effective_rates(asked);

        assert_eq!(effective.inbound.bandwidth, megabits(100));
        assert_eq!(effective.outbound.bandwidth, megabits(5));
    }
}
