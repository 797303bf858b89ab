//! The networks of a host and the addresses in them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use nic_model::{IpNet, Mtu, NetworkName};

use crate::limits::LimitName;
use crate::refusal::{LimitRefusal, Refusal, RefusalKind};

/// One network that ports are made on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Its name.
    pub name: NetworkName,
    /// Where its NICs' addresses come from. Empty: addresses are not this host's business.
    pub subnets: Vec<IpNet>,
    /// Largest packet of the network.
    pub mtu: Mtu,
}

/// Addresses looked at before a subnet counts as full: bounds the time of one request.
const MAX_PROBES: usize = 1 << 16;

impl Network {
    /// Checks addresses that a client chose.
    pub(crate) fn check(&self, wanted: &[IpNet], taken: &BTreeSet<IpAddr>) -> Result<(), Refusal> {
        let mut seen = BTreeSet::new();
        for address in wanted {
            self.check_one(*address)?;
            if taken.contains(&address.addr()) || !seen.insert(address.addr()) {
                return Err(Refusal::new(
                    RefusalKind::Conflict,
                    format!(
                        "address {} is taken on network {}",
                        address.addr(),
                        self.name
                    ),
                )
                .at("addressing.addresses")
                .hint("leave the addresses out to have free ones allocated"));
            }
        }
        Ok(())
    }

    fn check_one(&self, address: IpNet) -> Result<(), Refusal> {
        let Some(subnet) = self
            .subnets
            .iter()
            .find(|subnet| subnet.contains(&address.addr()))
        else {
            let subnets: Vec<_> = self.subnets.iter().map(IpNet::to_string).collect();
            return Err(Refusal::invalid(
                "addressing.addresses",
                format!(
                    "address {address} is outside the subnets of network {}",
                    self.name
                ),
            )
            .hint(format!("its subnets are {}", subnets.join(", "))));
        };
        if address.prefix_len() != subnet.prefix_len() {
            return Err(Refusal::invalid(
                "addressing.addresses",
                format!(
                    "address {address} must have its subnet's prefix length, {}",
                    subnet.prefix_len()
                ),
            ));
        }
        if is_reserved(*subnet, address.addr()) {
            return Err(Refusal::invalid(
                "addressing.addresses",
                format!("address {} is reserved in subnet {subnet}", address.addr()),
            )
            .hint(
                "the first address is the gateway's; the network's own and broadcast are nobody's",
            ));
        }
        Ok(())
    }

    /// One free address of each subnet of this network that `wanted` lets through.
    pub(crate) fn allocate(
        &self,
        taken: &BTreeSet<IpAddr>,
        wanted: impl Fn(&IpNet) -> bool,
    ) -> Result<Vec<IpNet>, Refusal> {
        self.subnets
            .iter()
            .filter(|subnet| wanted(subnet))
            .map(|subnet| free_in(*subnet, taken))
            .collect()
    }
}

fn free_in(subnet: IpNet, taken: &BTreeSet<IpAddr>) -> Result<IpNet, Refusal> {
    let free = subnet
        .hosts()
        .take(MAX_PROBES)
        .find(|address| !is_reserved(subnet, *address) && !taken.contains(address));
    match free {
        Some(address) => Ok(IpNet::new_assert(address, subnet.prefix_len())),
        None => {
            let usage = taken
                .iter()
                .filter(|address| subnet.contains(*address))
                .count() as u64;
            Err(Refusal::over_limit(LimitRefusal {
                name: LimitName::AddressesOfSubnet,
                value: usage,
                usage,
                frees: format!("delete a NIC with an address in {subnet}"),
            }))
        }
    }
}

/// Network address, gateway (the first host address) and IPv4 broadcast belong to no NIC.
fn is_reserved(subnet: IpNet, address: IpAddr) -> bool {
    if subnet.prefix_len() >= subnet.max_prefix_len() - 1 {
        return false;
    }
    let gateway = match subnet.network() {
        IpAddr::V4(network) => IpAddr::V4((u32::from(network) + 1).into()),
        IpAddr::V6(network) => IpAddr::V6((u128::from(network) + 1).into()),
    };
    address == subnet.network()
        || address == gateway
        || (address.is_ipv4() && address == subnet.broadcast())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> Network {
        Network {
            name: "blue".parse().unwrap(),
            subnets: vec![
                "10.77.0.0/29".parse().unwrap(),
                "fd77::/64".parse().unwrap(),
            ],
            mtu: Mtu::ETHERNET,
        }
    }

    #[test]
    fn the_first_free_address_after_the_gateway_is_allocated() {
        let taken = BTreeSet::from(["10.77.0.2".parse().unwrap()]);

        let addresses = network().allocate(&taken, |_| true).unwrap();

        let expected: Vec<IpNet> = vec![
            "10.77.0.3/29".parse().unwrap(),
            "fd77::2/64".parse().unwrap(),
        ];
        assert_eq!(addresses, expected);
    }

    #[test]
    fn a_full_subnet_is_a_limit_that_names_itself() {
        let taken: BTreeSet<IpAddr> = (2..7)
            .map(|n| format!("10.77.0.{n}").parse().unwrap())
            .collect();

        let refusal = network().allocate(&taken, |_| true).unwrap_err();

        assert_eq!(refusal.kind, RefusalKind::LimitExceeded);
        assert_eq!(refusal.limit.unwrap().usage, 5);
    }

    #[test]
    fn addresses_that_cannot_be_given_are_refused_by_field() {
        let taken = BTreeSet::from(["10.77.0.2".parse().unwrap()]);
        let cases = [
            ("10.78.0.2/29", "outside the subnets"),
            ("10.77.0.3/24", "prefix length"),
            ("10.77.0.1/29", "reserved"),
            ("10.77.0.7/29", "reserved"),
            ("10.77.0.2/29", "taken"),
        ];
        for (address, why) in cases {
            let refusal = network()
                .check(&[address.parse().unwrap()], &taken)
                .unwrap_err();
            assert!(refusal.message.contains(why), "{address}: {refusal}");
            assert_eq!(refusal.field, Some("addressing.addresses"));
        }
    }
}
