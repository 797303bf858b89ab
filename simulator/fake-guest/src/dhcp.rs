//! A DHCPv4 server and the clock of its clients, as far as either can go wrong.
//!
//! The server belongs to a segment, not to a guest: guests of one network share one, so that it
//! gives no address away twice. Times are those a client of mozim keeps.
//!
//! ```text
//!   first question ──► granted ──► renewed at ½, else at ⅞ ──► over at 1
//!        │ silent: nothing │ refuses: the client begins anew
//! ```

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use guest_agent::kernel::Lease;
use nic_model::{IpNet, Ipv4Net, MacAddr, Route};

/// A pool that was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("pool: {first} to {last} is not a range of host addresses in {subnet}")]
pub struct InvalidPool {
    /// Its first address.
    pub first: Ipv4Addr,
    /// Its last.
    pub last: Ipv4Addr,
    /// The subnet it should lie in.
    pub subnet: Ipv4Net,
}

/// How a server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DhcpMode {
    /// As it should.
    Answers,
    /// Not at all.
    Silent,
    /// So much later.
    Slow(Duration),
    /// With a refusal of whatever is requested (`DHCPNAK`).
    Refuses,
    /// It grants leases and renews none.
    StopsRenewing,
}

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DhcpQuestion {
    /// An address, any.
    First,
    /// The one it has, for longer.
    Renewal(Ipv4Addr),
}

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DhcpAnswer {
    /// Nothing.
    Silence,
    /// The address is granted, and the answer comes so much later.
    Granted {
        /// What the client gets.
        lease: Lease,
        /// For how long.
        lasts: Duration,
        /// When it hears of it.
        after: Duration,
    },
    /// It is not: the client begins anew.
    Refused,
}

/// A server with its pool and the leases it has granted.
#[derive(Debug, Clone)]
pub struct DhcpServer {
    subnet: Ipv4Net,
    router: Option<Ipv4Addr>,
    first: u32,
    last: u32,
    lasts: Duration,
    mode: DhcpMode,
    leases: BTreeMap<Ipv4Addr, (MacAddr, Duration)>,
    /// What each client has asked for and got so far.
    dealings: BTreeMap<MacAddr, Dealings>,
}

/// What a server has had to do with one client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dealings {
    /// How often it has begun to look for a server.
    pub discoveries: usize,
    /// How often it was granted its lease.
    pub grants: usize,
}

impl DhcpServer {
    /// A server that grants `first` to `last`, each for `lasts`, with a default route by way of
    /// `router`.
    ///
    /// # Errors
    /// When the pool does not lie in the subnet.
    pub fn new(
        subnet: Ipv4Net,
        router: Option<Ipv4Addr>,
        (first, last): (Ipv4Addr, Ipv4Addr),
        lasts: Duration,
    ) -> Result<Self, InvalidPool> {
        let is_host = |address: &Ipv4Addr| {
            subnet.contains(address)
                && *address != subnet.broadcast()
                && *address != subnet.network()
        };
        if first > last || !is_host(&first) || !is_host(&last) {
            return Err(InvalidPool {
                first,
                last,
                subnet,
            });
        }
        Ok(Self {
            subnet,
            router,
            first: first.into(),
            last: last.into(),
            lasts,
            mode: DhcpMode::Answers,
            leases: BTreeMap::new(),
            dealings: BTreeMap::new(),
        })
    }

    /// Changes how it answers.
    pub fn set_mode(&mut self, mode: DhcpMode) {
        self.mode = mode;
    }

    /// What it has had to do with a client.
    #[must_use]
    pub fn dealings(&self, mac: MacAddr) -> Dealings {
        self.dealings.get(&mac).copied().unwrap_or_default()
    }

    /// Answers a client. A client that has an address gets it again.
    pub fn answer(&mut self, mac: MacAddr, question: DhcpQuestion, now: Duration) -> DhcpAnswer {
        let answer = self.consider(mac, question, now);
        let dealings = self.dealings.entry(mac).or_default();
        dealings.discoveries += usize::from(question == DhcpQuestion::First);
        dealings.grants += usize::from(matches!(answer, DhcpAnswer::Granted { .. }));
        answer
    }

    fn consider(&mut self, mac: MacAddr, question: DhcpQuestion, now: Duration) -> DhcpAnswer {
        let after = match (self.mode, question) {
            (DhcpMode::Silent, _) | (DhcpMode::StopsRenewing, DhcpQuestion::Renewal(_)) => {
                return DhcpAnswer::Silence;
            }
            (DhcpMode::Refuses, _) => return DhcpAnswer::Refused,
            (DhcpMode::Slow(after), _) => after,
            (DhcpMode::Answers, _) | (DhcpMode::StopsRenewing, DhcpQuestion::First) => {
                Duration::ZERO
            }
        };
        self.leases.retain(|_, (_, until)| *until > now);
        let mut leases = self.leases.iter();
        let held = leases.find(|(_, (holder, _))| *holder == mac);
        let held = held.map(|(address, _)| *address);
        let address = match (held, question) {
            // One that another has got meanwhile, or that has expired and was not asked anew.
            (held, DhcpQuestion::Renewal(address)) if held != Some(address) => {
                return DhcpAnswer::Refused;
            }
            (Some(held), _) => held,
            (None, _) => match self.free() {
                Some(free) => free,
                None => return DhcpAnswer::Silence,
            },
        };
        self.leases.insert(address, (mac, now + self.lasts));
        DhcpAnswer::Granted {
            lease: self.lease(address),
            lasts: self.lasts,
            after,
        }
    }

    /// A client gives its address back.
    pub fn release(&mut self, mac: MacAddr) {
        self.leases.retain(|_, (holder, _)| *holder != mac);
    }

    /// Who has which address now.
    pub fn leases(&self, now: Duration) -> impl Iterator<Item = (Ipv4Addr, MacAddr)> {
        let valid = self
            .leases
            .iter()
            .filter(move |(_, (_, until))| *until > now);
        valid.map(|(address, (mac, _))| (*address, *mac))
    }

    fn free(&self) -> Option<Ipv4Addr> {
        let mut pool = (self.first..=self.last).map(Ipv4Addr::from);
        let is_free = |address: &Ipv4Addr| {
            !self.leases.contains_key(address) && Some(*address) != self.router
        };
        pool.find(is_free)
    }

    fn lease(&self, address: Ipv4Addr) -> Lease {
        let default = |router: Ipv4Addr| Route {
            destination: IpNet::V4(Ipv4Net::default()),
            gateway: Some(router.into()),
            metric: None,
        };
        let prefix_len = self.subnet.prefix_len();
        Lease {
            address: Ipv4Net::new(address, prefix_len).expect("it is that of a subnet"),
            routes: self.router.map(default).into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> DhcpServer {
        let pool = ([192, 0, 2, 100].into(), [192, 0, 2, 101].into());
        let subnet = "192.0.2.0/24".parse().unwrap();
        let router = Some([192, 0, 2, 1].into());
        DhcpServer::new(subnet, router, pool, Duration::from_secs(120)).unwrap()
    }

    fn mac(number: u8) -> MacAddr {
        MacAddr::local([0, 0, 0, 0, number])
    }

    fn address(answer: &DhcpAnswer) -> Option<String> {
        match answer {
            DhcpAnswer::Granted { lease, .. } => Some(lease.address.addr().to_string()),
            DhcpAnswer::Silence | DhcpAnswer::Refused => None,
        }
    }

    #[test]
    fn no_address_is_granted_twice_until_it_has_expired() {
        let mut server = server();
        let mut first = |number, seconds| {
            let now = Duration::from_secs(seconds);
            address(&server.answer(mac(number), DhcpQuestion::First, now))
        };

        assert_eq!(first(1, 0).as_deref(), Some("192.0.2.100"));
        assert_eq!(first(2, 60).as_deref(), Some("192.0.2.101"));
        assert_eq!(first(1, 61).as_deref(), Some("192.0.2.100"));
        assert_eq!(first(3, 100), None);
        assert_eq!(first(3, 180).as_deref(), Some("192.0.2.101"));
    }

    #[test]
    fn an_address_that_has_expired_is_not_renewed() {
        let mut server = server();
        server.answer(mac(1), DhcpQuestion::First, Duration::ZERO);
        let renewal = DhcpQuestion::Renewal([192, 0, 2, 100].into());

        let in_time = server.answer(mac(1), renewal, Duration::from_secs(60));
        let late = server.answer(mac(1), renewal, Duration::from_secs(181));

        assert_eq!(address(&in_time).as_deref(), Some("192.0.2.100"));
        assert_eq!(late, DhcpAnswer::Refused);
    }

    #[test]
    fn a_pool_outside_its_subnet_is_refused() {
        let subnet = "192.0.2.0/24".parse().unwrap();
        for (first, last) in [
            ([192, 0, 2, 9], [192, 0, 2, 8]),
            ([192, 0, 2, 0], [192, 0, 2, 8]),
        ] {
            let pool = (first.into(), last.into());

            assert!(DhcpServer::new(subnet, None, pool, Duration::ZERO).is_err());
        }
    }
}
