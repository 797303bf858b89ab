//! A guest as plain data: what an invariant is asserted of.

use std::net::IpAddr;

use guest_agent::kernel::{AdminState, Carrier};
use nic_model::{BootId, IpNet, MacAddr, NetnsInode, NetnsName, PciPath, ProcessStart, Route};

use super::device::DeviceState;
use super::link::{Link, LinkId, LinkKind};
use super::{Kernel, Phase};

/// Everything about one guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestView {
    /// How far it has come.
    pub phase: Phase,
    /// In which boot.
    pub boot_id: BootId,
    /// Its namespaces, the guest's own first.
    pub namespaces: Vec<NamespaceView>,
    /// The devices in its slots.
    pub devices: Vec<DeviceView>,
}

/// One namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceView {
    /// Which.
    pub inode: NetnsInode,
    /// Its names, none for one that a process alone keeps.
    pub names: Vec<NetnsName>,
    /// Who lives in it.
    pub processes: Vec<ProcessView>,
    /// Its links but the loopback one, by their numbers.
    pub links: Vec<LinkState>,
}

/// One process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessView {
    /// Its number.
    pub pid: u32,
    /// When it started.
    pub started: ProcessStart,
}

/// One link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkState {
    /// Its number in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its address.
    pub mac: MacAddr,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Whether it is switched on.
    pub admin: AdminState,
    /// Whether the host end is there.
    pub carrier: Carrier,
    /// What somebody has attached to it.
    pub alias: Option<String>,
    /// Its device; `None` for one made by software.
    pub path: Option<PciPath>,
    /// Its addresses.
    pub addresses: Vec<IpNet>,
    /// Routes through it, the kernel's own included.
    pub routes: Vec<Route>,
    /// Addresses announced on it since it came into its namespace.
    pub announced: Vec<IpAddr>,
}

/// One device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceView {
    /// Where.
    pub path: PciPath,
    /// Its permanent address.
    pub mac: MacAddr,
    /// Whether the kernel knows of it.
    pub seen: bool,
}

impl GuestView {
    /// Every link with the namespace it is in.
    pub fn links(&self) -> impl Iterator<Item = (&NamespaceView, &LinkState)> {
        let of = |namespace| move |link| (namespace, link);
        self.namespaces
            .iter()
            .flat_map(move |namespace| namespace.links.iter().map(of(namespace)))
    }

    /// Where the link of the device there is.
    #[must_use]
    pub fn link_of(&self, path: &PciPath) -> Option<(&NamespaceView, &LinkState)> {
        self.links()
            .find(|(_, link)| link.path.as_ref() == Some(path))
    }

    /// The namespace of that name.
    #[must_use]
    pub fn named(&self, name: &NetnsName) -> Option<&NamespaceView> {
        let mut namespaces = self.namespaces.iter();
        namespaces.find(|namespace| namespace.names.contains(name))
    }

    /// The namespace a process lives in.
    #[must_use]
    pub fn of_process(&self, pid: u32) -> Option<&NamespaceView> {
        let lives_in = |namespace: &&NamespaceView| {
            let mut processes = namespace.processes.iter();
            processes.any(|process| process.pid == pid)
        };
        self.namespaces.iter().find(lives_in)
    }
}

impl NamespaceView {
    /// Whether somebody on the segment of a link gets an answer from `address` here.
    #[must_use]
    pub fn answers(&self, address: IpAddr) -> bool {
        let has = |link: &&LinkState| link.addresses.iter().any(|own| own.addr() == address);
        self.links
            .iter()
            .filter(|link| link.carries())
            .any(|link| has(&link))
    }

    /// Through which link a packet to `destination` leaves, and by which next hop.
    #[must_use]
    pub fn way_to(&self, destination: IpAddr) -> Option<(&LinkState, IpAddr)> {
        let routes = self.links.iter().filter(|link| link.carries());
        let routes = routes.flat_map(|link| link.routes.iter().map(move |route| (link, route)));
        let matching = routes.filter(|(_, route)| route.destination.contains(&destination));
        let rank = |route: &Route| {
            let metric = u32::MAX - route.metric.unwrap_or(0);
            (route.destination.prefix_len(), metric)
        };
        let best = matching.max_by_key(|(_, route)| rank(route));
        best.map(|(link, route)| (link, route.gateway.unwrap_or(destination)))
    }
}

impl LinkState {
    /// Whether frames pass.
    #[must_use]
    pub fn carries(&self) -> bool {
        self.admin == AdminState::Up && self.carrier == Carrier::Present
    }
}

impl Kernel {
    /// Everything, as it is now.
    #[must_use]
    pub fn view(&self) -> GuestView {
        GuestView {
            phase: self.phase,
            boot_id: self.boot_id,
            namespaces: self
                .namespaces
                .keys()
                .map(|inode| self.view_namespace(*inode))
                .collect(),
            devices: self
                .devices
                .iter()
                .map(|(path, device)| DeviceView {
                    path: path.clone(),
                    mac: device.plugged.mac,
                    seen: self.has_device(path),
                })
                .collect(),
        }
    }

    fn view_namespace(&self, inode: NetnsInode) -> NamespaceView {
        let names = self.names.iter().filter(|(_, named)| **named == inode);
        let processes = self.processes.iter();
        let processes = processes.filter(|(_, process)| process.netns == inode);
        let links = self.namespaces.get(&inode);
        let links = links.into_iter().flat_map(|space| space.links.values());
        NamespaceView {
            inode,
            names: names.map(|(name, _)| name.clone()).collect(),
            processes: processes
                .map(|(pid, process)| ProcessView {
                    pid: *pid,
                    started: process.started,
                })
                .collect(),
            links: links
                .filter_map(|id| Some(self.view_link(*id, self.links.get(id)?)))
                .collect(),
        }
    }

    fn view_link(&self, id: LinkId, link: &Link) -> LinkState {
        let path = match link.kind {
            LinkKind::Software => None,
            LinkKind::Virtio { .. } => {
                let mut devices = self.devices.iter();
                let of = devices.find(|(_, device)| device.state == DeviceState::Driven(id));
                of.map(|(path, _)| path.clone())
            }
        };
        LinkState {
            index: link.index,
            name: link.name.to_string(),
            mac: link.mac,
            mtu: link.mtu,
            admin: link.admin,
            carrier: link.far_end,
            alias: link.alias.clone(),
            path,
            addresses: link.addresses.clone(),
            routes: link
                .routes
                .iter()
                .map(|entry| entry.route.clone())
                .collect(),
            announced: link.announced.clone(),
        }
    }
}
