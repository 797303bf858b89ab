//! Every limit refuses in the same way: by name, with its value, with what is used or asked, and
//! with what would help. A limit that is added does not compile here until it has its case.

#![expect(clippy::unwrap_used, reason = "set-up that fails is a failed test")]

mod support;

use nic_lifecycle::{
    HostQuota, Ledger, LimitName, LimitRefusal, NewNic, Refusal, RefusalKind, RequestedAddressing,
    VmClass,
};
use nic_model::{BitRate, Direction, PacketRate, RateLimit, RateLimits};
use support::{class, create, ledger, ledger_of, new_nic, place};

const SUBNETS: [&str; 2] = ["10.77.0.0/16", "fd77::/64"];

/// How a limit is met, and what is to be said then.
struct Case {
    refusal: Refusal,
    value: u64,
    usage: u64,
    frees: &'static str,
}

#[test]
fn every_limit_is_refused_by_name_with_its_value_its_usage_and_a_remedy() {
    let limits: Vec<_> = std::iter::successors(Some(FIRST), |name| next(*name)).collect();

    for name in limits {
        let case = case(name);

        let limit = LimitRefusal {
            name,
            value: case.value,
            usage: case.usage,
            frees: case.frees.to_owned(),
        };
        assert_eq!(case.refusal.limit, Some(limit), "{name}");
        assert_eq!(case.refusal.kind, RefusalKind::LimitExceeded, "{name}");
        assert!(!case.frees.is_empty(), "{name} names no remedy");
        let parts = [
            name.to_string(),
            case.value.to_string(),
            case.usage.to_string(),
            case.frees.to_owned(),
        ];
        for part in parts {
            let message = &case.refusal.message;
            assert!(message.contains(&part), "{part} is not in {message:?}");
        }
    }
}

const FIRST: LimitName = LimitName::NicsPerVm;

/// All limits, one after the other.
fn next(name: LimitName) -> Option<LimitName> {
    match name {
        LimitName::NicsPerVm => Some(LimitName::SlotsOfVm),
        LimitName::SlotsOfVm => Some(LimitName::AddressesPerNic),
        LimitName::AddressesPerNic => Some(LimitName::QueuesPerNic),
        LimitName::QueuesPerNic => Some(LimitName::Bandwidth(Direction::In)),
        LimitName::Bandwidth(Direction::In) => Some(LimitName::Bandwidth(Direction::Out)),
        LimitName::Bandwidth(Direction::Out) => Some(LimitName::Packets(Direction::In)),
        LimitName::Packets(Direction::In) => Some(LimitName::Packets(Direction::Out)),
        LimitName::Packets(Direction::Out) => Some(LimitName::NicsPerHost),
        LimitName::NicsPerHost => Some(LimitName::NicsPerTenant),
        LimitName::NicsPerTenant => Some(LimitName::AddressesPerTenant),
        LimitName::AddressesPerTenant => Some(LimitName::AddressesOfSubnet),
        LimitName::AddressesOfSubnet => None,
    }
}

fn case(name: LimitName) -> Case {
    match name {
        LimitName::NicsPerVm => nics_per_vm(),
        LimitName::SlotsOfVm => slots_of_vm(),
        LimitName::AddressesPerNic => addresses_per_nic(),
        LimitName::QueuesPerNic => queues_per_nic(),
        LimitName::Bandwidth(direction) => bandwidth(direction),
        LimitName::Packets(direction) => packets(direction),
        LimitName::NicsPerHost => nics_per_host(),
        LimitName::NicsPerTenant => nics_per_tenant(),
        LimitName::AddressesPerTenant => addresses_per_tenant(),
        LimitName::AddressesOfSubnet => addresses_of_subnet(),
    }
}

fn nics_per_vm() -> Case {
    let ledger = ledger(4, 2, HostQuota::default());
    Case {
        refusal: one_attach_too_many(ledger, 2),
        value: 2,
        usage: 2,
        frees: "detach a NIC from VM vm1",
    }
}

fn slots_of_vm() -> Case {
    let ledger = ledger(3, 8, HostQuota::default());
    Case {
        refusal: one_attach_too_many(ledger, 3),
        value: 3,
        usage: 3,
        frees: "unplug a device from VM vm1, or give it more pcie-root-ports at its next start",
    }
}

/// What the attach after `fitting` ones is refused with.
fn one_attach_too_many(mut ledger: Ledger, fitting: u16) -> Refusal {
    for number in 1..=fitting {
        let record = create(&mut ledger, number);
        let attaching = ledger.admit_attach(&record, place("vm1", number), 0);
        ledger.put(attaching.unwrap());
    }
    let surplus = fitting + 1;
    let record = create(&mut ledger, surplus);
    let attaching = ledger.admit_attach(&record, place("vm1", surplus), 0);
    attaching.unwrap_err()
}

fn addresses_per_nic() -> Case {
    let address = |number| format!("10.77.1.{number}/16").parse().unwrap();
    let new = NewNic {
        addressing: RequestedAddressing::Static((1..=5).map(address).collect()),
        ..new_nic(1)
    };
    Case {
        refusal: attach_over_class(class(), new),
        value: 4,
        usage: 5,
        frees: "create the NIC with fewer addresses",
    }
}

fn queues_per_nic() -> Case {
    let new = NewNic {
        queue_count: 3,
        ..new_nic(1)
    };
    Case {
        refusal: attach_over_class(class(), new),
        value: 2,
        usage: 3,
        frees: "create the NIC with fewer queues",
    }
}

fn bandwidth(direction: Direction) -> Case {
    let rate = |bits| RateLimit {
        bandwidth: Some(BitRate::from_bits_per_second(bits)),
        packets: None,
    };
    Case {
        refusal: attach_over_rate(direction, rate(8_000), rate(8_001)),
        value: 8_000,
        usage: 8_001,
        frees: "ask for less bandwidth",
    }
}

fn packets(direction: Direction) -> Case {
    let rate = |packets| RateLimit {
        bandwidth: None,
        packets: Some(PacketRate::from_packets_per_second(packets)),
    };
    Case {
        refusal: attach_over_rate(direction, rate(500), rate(501)),
        value: 500,
        usage: 501,
        frees: "ask for fewer packets per second",
    }
}

fn attach_over_rate(direction: Direction, most: RateLimit, asked: RateLimit) -> Refusal {
    let limits = |rate| match direction {
        Direction::In => RateLimits {
            inbound: rate,
            outbound: RateLimit::default(),
        },
        Direction::Out => RateLimits {
            inbound: RateLimit::default(),
            outbound: rate,
        },
    };
    let class = VmClass {
        rates: limits(most),
        ..class()
    };
    let new = NewNic {
        limits: limits(asked),
        ..new_nic(1)
    };
    attach_over_class(class, new)
}

/// What a NIC that asks for more than its VM's class allows is refused with.
fn attach_over_class(class: VmClass, new: NewNic) -> Refusal {
    let mut ledger = ledger_of(1, class, &SUBNETS, HostQuota::default());
    let record = ledger.admit_create(new).unwrap();
    ledger.put(record.clone());
    let attaching = ledger.admit_attach(&record, place("vm1", 1), 0);
    attaching.unwrap_err()
}

fn nics_per_host() -> Case {
    let quota = HostQuota {
        max_nics_per_host: Some(1),
        ..HostQuota::default()
    };
    Case {
        refusal: second_nic(&SUBNETS, quota),
        value: 1,
        usage: 1,
        frees: "delete a NIC on this host",
    }
}

fn nics_per_tenant() -> Case {
    let quota = HostQuota {
        max_nics_per_tenant: Some(1),
        ..HostQuota::default()
    };
    Case {
        refusal: second_nic(&SUBNETS, quota),
        value: 1,
        usage: 1,
        frees: "delete a NIC of tenant acme",
    }
}

/// Each NIC gets an address of either subnet.
fn addresses_per_tenant() -> Case {
    let quota = HostQuota {
        max_addresses_per_tenant: Some(3),
        ..HostQuota::default()
    };
    Case {
        refusal: second_nic(&SUBNETS, quota),
        value: 3,
        usage: 2,
        frees: "delete a NIC of tenant acme",
    }
}

/// Of its four addresses only one is left for a NIC: the others are the network's own, the
/// gateway's and the broadcast address.
fn addresses_of_subnet() -> Case {
    Case {
        refusal: second_nic(&["10.77.0.0/30"], HostQuota::default()),
        value: 1,
        usage: 1,
        frees: "delete a NIC with an address in 10.77.0.0/30",
    }
}

fn second_nic(subnets: &[&str], quota: HostQuota) -> Refusal {
    let mut ledger = ledger_of(1, class(), subnets, quota);
    create(&mut ledger, 1);
    ledger.admit_create(new_nic(2)).unwrap_err()
}
