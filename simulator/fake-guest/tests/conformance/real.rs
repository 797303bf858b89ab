//! The running kernel, through the agent's own way to it.

use guest_agent::kernel::{
    Errno, GuestKernel, Ipv6, Ipv6Scope, LinkIndex, LinuxKernel, SysctlError,
};
use linux_network::{AdminState, DuplicateDetection, LinkChange, Netlink, Netns};
use nic_model::Route;
use std::process::Command;

use crate::step::{Seen, Step, System};

pub(crate) struct Real {
    spaces: Vec<(Netns, Netlink)>,
    /// Keeps the other ends of the links, up, so that those have carrier.
    _peers: Netns,
}

/// What both systems begin with. A veth answers to all that is asked here as virtio-net does.
pub(crate) const LINKS: [(usize, &str, &str); 3] = [
    (0, "one", "52:54:00:00:00:01"),
    (0, "two", "52:54:00:00:00:02"),
    (1, "taken", "52:54:00:00:00:03"),
];

impl Real {
    pub(crate) async fn start() -> Self {
        let mut spaces = Vec::new();
        for _ in 0..3 {
            let netns = Netns::unnamed().unwrap();
            let netlink = Netlink::connect(&netns).await.unwrap();
            spaces.push((netns, netlink));
        }
        let peers = Netns::unnamed().unwrap();
        for (number, (space, name, mac)) in (2..).zip(LINKS) {
            let (own, peer) = (&spaces[space].0, format!("peer{number}"));
            // The far end comes with a number, so that the near end gets the first one.
            let far = format!("link add {peer} index {} type veth", 100 + number);
            ip(own, &format!("{far} peer name {name} address {mac}")).await;
            let far = spaces[space].1.link_by_name(&peer.parse().unwrap()).await;
            let gone = LinkChange {
                move_to: Some(&peers),
                admin: Some(AdminState::Up),
                ..LinkChange::default()
            };
            let far = far.unwrap().unwrap().index;
            spaces[space].1.set_link(far, gone).await.unwrap();
        }
        Self {
            spaces,
            _peers: peers,
        }
    }

    async fn index(&self, space: usize, name: &str) -> LinkIndex {
        let found = self.spaces[space]
            .1
            .link_by_name(&name.parse().unwrap())
            .await;
        found.unwrap().map_or(LinkIndex(9999), |link| link.index)
    }
}

impl System for Real {
    async fn act(&mut self, step: &Step) -> Result<(), Option<Errno>> {
        match *step {
            Step::Set(space, link, change) => {
                let name = change.name.map(|name| name.parse().unwrap());
                let request = LinkChange {
                    move_to: change.to.map(|to| &self.spaces[to].0),
                    mac: change.mac.map(|mac| mac.parse().unwrap()),
                    mtu: change.mtu.map(|mtu| mtu.try_into().unwrap()),
                    name: name.as_ref(),
                    alias: change.alias,
                    admin: change.up.map(admin),
                };
                let index = self.index(space, link).await;
                let done = self.spaces[space].1.set_link(index, request).await;
                done.map_err(|error| error.errno())
            }
            Step::AddAddress(space, link, address) => {
                let index = self.index(space, link).await;
                let address = address.parse().unwrap();
                let off = DuplicateDetection::Off;
                let done = self.spaces[space].1.add_address(index, address, off).await;
                done.map_err(|error| error.errno())
            }
            Step::RemoveAddress(space, link, address) => {
                let index = self.index(space, link).await;
                let address = address.parse().unwrap();
                let done = self.spaces[space].1.remove_address(index, address).await;
                done.map_err(|error| error.errno())
            }
            Step::AddRoute(space, link, way) => {
                let index = self.index(space, link).await;
                let route = Route {
                    destination: way.to.parse().unwrap(),
                    gateway: way.by.map(|by| by.parse().unwrap()),
                    metric: way.metric,
                };
                let done = self.spaces[space].1.add_route(index, &route).await;
                done.map_err(|error| error.errno())
            }
            Step::DisableIpv6(space, link, off) => {
                let name = link.parse().unwrap();
                self.set_ipv6(space, Ipv6Scope::Link(&name), off).await
            }
            Step::DisableIpv6InAll(space, off) => self.set_ipv6(space, Ipv6Scope::All, off).await,
        }
    }

    async fn state(&mut self) -> Vec<Seen> {
        let mut seen = Vec::new();
        for (space, (_, netlink)) in self.spaces.iter().enumerate() {
            for link in netlink.links().await.unwrap() {
                let Some(mac) = link.mac else { continue };
                let addresses = netlink.addresses(link.index).await.unwrap();
                let routes = netlink.routes(link.index).await.unwrap();
                let own = |route: &Route| route.destination.to_string() != "fe80::/64";
                let addresses = addresses.iter().filter(|address| !address.link_local);
                let routes = routes.iter().filter(|view| own(&view.route));
                seen.push(Seen {
                    space,
                    index: link.index.0,
                    name: link.name,
                    mac: mac.to_string(),
                    mtu: link.mtu,
                    admin: format!("{:?}", link.admin),
                    alias: link.alias,
                    addresses: sorted(addresses.map(|view| view.address.to_string())),
                    routes: sorted(routes.map(|view| format!("{view:?}"))),
                });
            }
        }
        seen.sort();
        seen
    }
}

impl Real {
    async fn set_ipv6(
        &self,
        space: usize,
        scope: Ipv6Scope<'_>,
        off: bool,
    ) -> Result<(), Option<Errno>> {
        let setting = if off { Ipv6::Off } else { Ipv6::On };
        let done = LinuxKernel
            .set_ipv6(&self.spaces[space].0, scope, setting)
            .await;
        done.map_err(|error| match error.cause {
            SysctlError::File(error) => Errno::from_io_error(&error),
            other @ (SysctlError::Path | SysctlError::Namespace(_) | SysctlError::Deadline(_)) => {
                panic!("{other}")
            }
        })
    }
}

async fn ip(netns: &Netns, arguments: &str) {
    let words: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
    let run = netns.run("ip", move || Command::new("ip").args(words).output());
    let output = run.await.unwrap().unwrap();
    assert!(output.status.success(), "ip {arguments}: {output:?}");
}

pub(crate) fn admin(up: bool) -> AdminState {
    if up { AdminState::Up } else { AdminState::Down }
}

pub(crate) fn sorted(texts: impl Iterator<Item = String>) -> Vec<String> {
    let mut texts: Vec<String> = texts.collect();
    texts.sort();
    texts
}
