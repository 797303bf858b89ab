//! The model, asked in the same words.

use fake_guest::kernel::{Held, Kernel, KernelSettings, RenameWhileUp};
use guest_agent::kernel::{Errno, Ipv6, Ipv6Scope, LinkChange, LinkIndex};
use nic_model::{NetnsInode, Route};

use crate::real::{LINKS, admin, sorted};
use crate::step::{Seen, Step, System};

pub(crate) struct Model {
    kernel: Kernel,
    spaces: Vec<NetnsInode>,
}

impl Model {
    pub(crate) fn start() -> Self {
        let mut kernel = Kernel::new(KernelSettings {
            // Linux 6.2 and later, as the machines are that this runs on.
            rename_while_up: RenameWhileUp::Allowed,
            ..KernelSettings::default()
        });
        kernel.power_on();
        let mut spaces = Vec::new();
        for name in ["a", "b", "c"] {
            let netns = kernel.add_netns(&name.parse().unwrap()).unwrap();
            kernel.hold(netns, Held::Anew);
            spaces.push(netns);
        }
        for (space, name, mac) in LINKS {
            let (name, mac) = (name.parse().unwrap(), mac.parse().unwrap());
            kernel.add_link(spaces[space], &name, mac).unwrap();
        }
        Self { kernel, spaces }
    }

    fn index(&self, space: usize, name: &str) -> LinkIndex {
        let found = self
            .kernel
            .link_by_name(self.spaces[space], &name.parse().unwrap());
        found.map_or(LinkIndex(9999), |link| link.index)
    }

    fn set_ipv6(&mut self, space: usize, scope: Ipv6Scope<'_>, off: bool) -> Result<(), Errno> {
        let setting = if off { Ipv6::Off } else { Ipv6::On };
        self.kernel.set_ipv6(self.spaces[space], scope, setting)
    }

    fn answer(&mut self, step: &Step) -> Result<(), Errno> {
        match *step {
            Step::Set(space, link, change) => {
                let name = change.name.map(|name| name.parse().unwrap());
                let request = LinkChange {
                    move_to: change.to.map(|to| &self.spaces[to]),
                    mac: change.mac.map(|mac| mac.parse().unwrap()),
                    mtu: change.mtu.map(|mtu| mtu.try_into().unwrap()),
                    name: name.as_ref(),
                    alias: change.alias,
                    admin: change.up.map(admin),
                };
                let index = self.index(space, link);
                self.kernel.set_link(self.spaces[space], index, &request)
            }
            Step::AddAddress(space, link, address) => {
                let index = self.index(space, link);
                self.kernel
                    .add_address(self.spaces[space], index, address.parse().unwrap())
            }
            Step::RemoveAddress(space, link, address) => {
                let index = self.index(space, link);
                let address = address.parse().unwrap();
                match self
                    .kernel
                    .remove_address(self.spaces[space], index, address)
                {
                    // As the real connection does.
                    Err(Errno::ADDRNOTAVAIL) => Ok(()),
                    done => done,
                }
            }
            Step::AddRoute(space, link, way) => {
                let index = self.index(space, link);
                let route = Route {
                    destination: way.to.parse().unwrap(),
                    gateway: way.by.map(|by| by.parse().unwrap()),
                    metric: way.metric,
                };
                self.kernel.add_route(self.spaces[space], index, &route)
            }
            Step::DisableIpv6(space, link, off) => {
                let name = link.parse().unwrap();
                self.set_ipv6(space, Ipv6Scope::Link(&name), off)
            }
            Step::DisableIpv6InAll(space, off) => self.set_ipv6(space, Ipv6Scope::All, off),
        }
    }
}

impl System for Model {
    async fn act(&mut self, step: &Step) -> Result<(), Option<Errno>> {
        self.answer(step).map_err(Some)
    }

    async fn state(&mut self) -> Vec<Seen> {
        let mut seen = Vec::new();
        for (space, netns) in self.spaces.iter().enumerate() {
            for link in self.kernel.links(*netns) {
                let Some(mac) = link.mac else { continue };
                let addresses = self.kernel.addresses(*netns, link.index);
                let routes = self.kernel.routes(*netns, link.index);
                seen.push(Seen {
                    space,
                    index: link.index.0,
                    name: link.name,
                    mac: mac.to_string(),
                    mtu: link.mtu,
                    admin: format!("{:?}", link.admin),
                    alias: link.alias,
                    addresses: sorted(addresses.iter().map(|view| view.address.to_string())),
                    routes: sorted(routes.iter().map(|view| format!("{view:?}"))),
                });
            }
        }
        seen.sort();
        seen
    }
}
