//! Links: what they are, what can be changed about them, and what a move leaves of them.

use guest_agent::kernel::{AdminState, Carrier, Errno, Ipv6, LinkChange, LinkIndex, LinkView};
use nic_model::{IpNet, LinkName, MacAddr, NetnsInode};
use std::net::IpAddr;

use super::device::PluggedDevice;
use super::route::Entry;
use super::settings::RenameWhileUp;
use super::{Answer, Kernel};

/// Largest packet of Ethernet, in bytes, and what virtio-net and dummy links allow at most and at
/// least (`ETH_MAX_MTU`, `ETH_MIN_MTU`).
const ETHERNET_MTU: u32 = 1500;
const LARGEST_MTU: u32 = 65_535;
const SMALLEST_MTU: u32 = 68;
/// The loopback link's.
const LOOPBACK_MTU: u32 = 65_536;
/// Announcements remembered of a link.
const ANNOUNCED_KEPT: usize = 64;

/// A link for as long as it lives, wherever it is and whatever its name and number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LinkId(u64);

/// One link.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) netns: NetnsInode,
    pub(super) index: u32,
    pub(super) name: LinkName,
    pub(super) mac: MacAddr,
    pub(super) mtu: u32,
    largest_mtu: u32,
    pub(super) admin: AdminState,
    pub(super) far_end: Carrier,
    pub(super) alias: Option<String>,
    pub(super) kind: LinkKind,
    pub(super) ipv6: Ipv6,
    pub(super) addresses: Vec<IpNet>,
    pub(super) routes: Vec<Entry>,
    pub(super) announced: Vec<IpAddr>,
}

/// What made a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkKind {
    /// The driver of a virtio device.
    Virtio {
        /// `virtio3` is number 3.
        number: u64,
    },
    /// Somebody in the guest, as `ip link add type dummy` does.
    Software,
}

impl Link {
    pub(super) fn is_up(&self) -> bool {
        self.admin == AdminState::Up
    }

    pub(super) fn view(&self) -> LinkView {
        let (kind, parent_device) = match self.kind {
            LinkKind::Virtio { number } => (None, Some(format!("virtio{number}"))),
            LinkKind::Software => (Some("dummy".to_owned()), None),
        };
        LinkView {
            index: LinkIndex(self.index),
            name: self.name.to_string(),
            mac: Some(self.mac),
            mtu: self.mtu,
            admin: self.admin,
            carrier: if self.is_up() {
                self.far_end
            } else {
                Carrier::Absent
            },
            far_end: self.far_end,
            alias: self.alias.clone(),
            kind,
            parent_device,
            master: None,
        }
    }
}

/// The link every namespace has.
pub(super) fn loopback(admin: AdminState) -> LinkView {
    LinkView {
        index: LinkIndex(1),
        name: "lo".to_owned(),
        mac: None,
        mtu: LOOPBACK_MTU,
        admin,
        carrier: Carrier::Absent,
        far_end: Carrier::Present,
        alias: None,
        kind: None,
        parent_device: None,
        master: None,
    }
}

impl Kernel {
    /// Makes a link by software.
    ///
    /// # Errors
    /// `EEXIST` when the name is taken, `ENOENT` when there is no such namespace.
    pub fn add_link(
        &mut self,
        netns: NetnsInode,
        name: &LinkName,
        mac: MacAddr,
    ) -> Answer<LinkIndex> {
        self.namespaces.get(&netns).ok_or(Errno::NOENT)?;
        if self.name_in(netns, name.as_str()) {
            return Err(Errno::EXIST);
        }
        let (kind, mtu) = (LinkKind::Software, LARGEST_MTU);
        let link = self.insert(netns, name.clone(), mac, kind, mtu);
        let link = self.links.get(&link).ok_or(Errno::NODEV)?;
        Ok(LinkIndex(link.index))
    }

    /// The link with that number.
    #[must_use]
    pub fn link(&self, netns: NetnsInode, index: LinkIndex) -> Option<LinkView> {
        let namespace = self.namespaces.get(&netns)?;
        if index.0 == 1 {
            return Some(loopback(namespace.loopback));
        }
        let id = namespace.links.get(&index.0)?;
        self.links.get(id).map(Link::view)
    }

    /// The link of that name.
    #[must_use]
    pub fn link_by_name(&self, netns: NetnsInode, name: &LinkName) -> Option<LinkView> {
        if name.as_str() == "lo" {
            return self.link(netns, LinkIndex(1));
        }
        let id = self.link_named(netns, name)?;
        self.links.get(&id).map(Link::view)
    }

    /// Changes a link, part by part in the order of Linux (`do_setlink`), and stops where one is
    /// refused.
    ///
    /// # Errors
    /// `ENODEV`, `EEXIST` for a name that is taken, `EBUSY` for a rename of a link that is up where
    /// that is refused, `EINVAL` for an MTU it cannot have.
    pub fn set_link(
        &mut self,
        netns: NetnsInode,
        index: LinkIndex,
        change: &LinkChange<'_, NetnsInode>,
    ) -> Answer<()> {
        if index.0 == 1 {
            return self.set_loopback(netns, change);
        }
        let id = self.id_of(netns, index)?;
        if let Some(target) = change.move_to {
            self.move_link(id, *target, change.name)?;
        }
        if let Some(mac) = change.mac {
            self.edit(id, |link| link.mac = mac)?;
        }
        if let Some(mtu) = change.mtu {
            self.set_mtu(id, mtu.into())?;
        }
        if let Some(name) = change.name {
            self.rename(id, name)?;
        }
        if let Some(alias) = change.alias {
            let alias = (!alias.is_empty()).then(|| alias.to_owned());
            let link = self.links.get_mut(&id).ok_or(Errno::NODEV)?;
            link.alias = alias;
            // Listeners are told of it while the link is up only (`netdev_state_change`).
            if link.is_up() {
                self.tell_changed(id);
            }
        }
        match change.admin {
            Some(admin) => self.switch(id, admin),
            None => Ok(()),
        }
    }

    /// Says on the segment where an address is.
    ///
    /// # Errors
    /// `ENXIO` when there is no such link, `ENETDOWN` when it is down.
    pub fn announce(&mut self, netns: NetnsInode, index: LinkIndex, address: IpAddr) -> Answer<()> {
        let id = self.id_of(netns, index).map_err(|_gone| Errno::NXIO)?;
        let link = self.links.get_mut(&id).ok_or(Errno::NXIO)?;
        if !link.is_up() {
            return Err(Errno::NETDOWN);
        }
        if link.far_end == Carrier::Present && link.announced.len() < ANNOUNCED_KEPT {
            link.announced.push(address);
        }
        Ok(())
    }

    pub(super) fn add_virtio_link(&mut self, number: u64, plugged: PluggedDevice) -> LinkId {
        let name = self.free_name("eth");
        let largest = plugged.mtu.map_or(LARGEST_MTU, u32::from);
        let kind = LinkKind::Virtio { number };
        let id = self.insert(self.own, name, plugged.mac, kind, largest);
        if let Some(link) = self.links.get_mut(&id) {
            link.far_end = plugged.carrier;
        }
        self.tell_changed(id);
        id
    }

    pub(super) fn remove_link(&mut self, id: LinkId) {
        let Some(link) = self.links.remove(&id) else {
            return;
        };
        if let Some(namespace) = self.namespaces.get_mut(&link.netns) {
            namespace.links.remove(&link.index);
        }
        self.tell_gone(link.netns, LinkIndex(link.index));
    }

    pub(super) fn set_carrier_of(&mut self, id: LinkId, carrier: Carrier) {
        if let Some(link) = self.links.get_mut(&id)
            && link.far_end != carrier
        {
            link.far_end = carrier;
            self.tell_changed(id);
        }
    }

    pub(super) fn set_ipv6_of(&mut self, id: LinkId, setting: Ipv6) {
        if let Some(link) = self.links.get_mut(&id) {
            link.ipv6 = setting;
            if setting == Ipv6::Off {
                link.addresses.retain(|address| address.addr().is_ipv4());
                link.routes.retain(|entry| !entry.is_ipv6());
            }
        }
    }

    /// A link that is not there any more, or that somebody has switched on, keeps its name.
    pub(super) fn rename_in_own(&mut self, id: LinkId, name: &LinkName) {
        let is_in_own = |link: &Link| link.netns == self.own;
        if self.links.get(&id).is_some_and(is_in_own) {
            // udev reports a failure and goes on.
            self.rename(id, name).unwrap_or_default();
        }
    }

    pub(super) fn id_of(&self, netns: NetnsInode, index: LinkIndex) -> Answer<LinkId> {
        let namespace = self.namespaces.get(&netns).ok_or(Errno::NODEV)?;
        namespace.links.get(&index.0).copied().ok_or(Errno::NODEV)
    }

    pub(super) fn link_named(&self, netns: NetnsInode, name: &LinkName) -> Option<LinkId> {
        let namespace = self.namespaces.get(&netns)?;
        let mut ids = namespace.links.values();
        let is_it = |id: &&LinkId| self.links.get(id).is_some_and(|link| link.name == *name);
        ids.find(is_it).copied()
    }

    pub(super) fn name_in(&self, netns: NetnsInode, name: &str) -> bool {
        let Ok(name) = name.parse::<LinkName>() else {
            return false;
        };
        name.as_str() == "lo" || self.link_named(netns, &name).is_some()
    }

    /// The first of `prefix0`, `prefix1`, … that is free in the guest's own namespace.
    pub(super) fn free_name(&self, prefix: &str) -> LinkName {
        let mut names = (0_u32..).map(|number| format!("{prefix}{number}"));
        let free = names.find(|name| !self.name_in(self.own, name));
        let free = free.expect("there are fewer links than numbers");
        free.parse().expect("it is short and plain")
    }

    /// Moves a link, which is switched off and loses all it had; under `name` when its own is taken
    /// there (`__dev_change_net_namespace`).
    pub(super) fn move_link(
        &mut self,
        id: LinkId,
        target: NetnsInode,
        name: Option<&LinkName>,
    ) -> Answer<()> {
        let link = self.links.get(&id).ok_or(Errno::NODEV)?;
        let (source, old_index, old_name) = (link.netns, link.index, link.name.clone());
        if source == target {
            return Ok(());
        }
        self.namespaces.get(&target).ok_or(Errno::INVAL)?;
        let mut new_name = old_name;
        if self.name_in(target, new_name.as_str()) {
            let name = name.filter(|name| !self.name_in(target, name.as_str()));
            new_name = name.ok_or(Errno::EXIST)?.clone();
        }
        let index = self.index_in(target, old_index);
        let ipv6 = self.namespaces.get(&target).map(|namespace| namespace.ipv6);
        if let Some(namespace) = self.namespaces.get_mut(&source) {
            namespace.links.remove(&old_index);
        }
        if let Some(namespace) = self.namespaces.get_mut(&target) {
            namespace.links.insert(index, id);
        }
        if let Some(link) = self.links.get_mut(&id) {
            link.netns = target;
            link.index = index;
            link.name = new_name;
            link.admin = AdminState::Down;
            link.ipv6 = ipv6.unwrap_or(Ipv6::On);
            link.addresses.clear();
            link.routes.clear();
            link.announced.clear();
        }
        self.tell_gone(source, LinkIndex(old_index));
        self.tell_changed(id);
        Ok(())
    }

    fn insert(
        &mut self,
        netns: NetnsInode,
        name: LinkName,
        mac: MacAddr,
        kind: LinkKind,
        largest_mtu: u32,
    ) -> LinkId {
        let id = LinkId(self.next_number());
        let index = self.index_in(netns, 0);
        let mut ipv6 = Ipv6::On;
        if let Some(namespace) = self.namespaces.get_mut(&netns) {
            namespace.links.insert(index, id);
            ipv6 = namespace.ipv6;
        }
        let link = Link {
            netns,
            index,
            name,
            mac,
            mtu: ETHERNET_MTU.min(largest_mtu),
            largest_mtu,
            admin: AdminState::Down,
            far_end: Carrier::Present,
            alias: None,
            kind,
            ipv6,
            addresses: Vec::new(),
            routes: Vec::new(),
            announced: Vec::new(),
        };
        self.links.insert(id, link);
        id
    }

    /// The number a link gets: its own where that is free, else the next one.
    fn index_in(&mut self, netns: NetnsInode, own: u32) -> u32 {
        let Some(namespace) = self.namespaces.get_mut(&netns) else {
            return own;
        };
        if own > 1 && !namespace.links.contains_key(&own) {
            return own;
        }
        let mut free = namespace.last_index + 1..;
        let index = free.find(|index| !namespace.links.contains_key(index));
        namespace.last_index = index.unwrap_or(namespace.last_index);
        namespace.last_index
    }

    fn edit(&mut self, id: LinkId, edit: impl FnOnce(&mut Link)) -> Answer<()> {
        edit(self.links.get_mut(&id).ok_or(Errno::NODEV)?);
        self.tell_changed(id);
        Ok(())
    }

    fn set_mtu(&mut self, id: LinkId, mtu: u32) -> Answer<()> {
        let link = self.links.get(&id).ok_or(Errno::NODEV)?;
        if link.mtu == mtu {
            return Ok(());
        }
        if !(SMALLEST_MTU..=link.largest_mtu).contains(&mtu) {
            return Err(Errno::INVAL);
        }
        self.edit(id, |link| link.mtu = mtu)
    }

    fn rename(&mut self, id: LinkId, name: &LinkName) -> Answer<()> {
        let link = self.links.get(&id).ok_or(Errno::NODEV)?;
        if link.is_up() && self.settings.rename_while_up == RenameWhileUp::Refused {
            return Err(Errno::BUSY);
        }
        if link.name == *name {
            return Ok(());
        }
        if self.name_in(link.netns, name.as_str()) {
            return Err(Errno::EXIST);
        }
        self.edit(id, |link| link.name = name.clone())
    }

    fn switch(&mut self, id: LinkId, admin: AdminState) -> Answer<()> {
        let link = self.links.get_mut(&id).ok_or(Errno::NODEV)?;
        if link.admin == admin {
            return Ok(());
        }
        link.admin = admin;
        match admin {
            AdminState::Up => self.add_subnet_routes(id),
            // IPv4 addresses stay, everything else goes (`fib_disable_ip`, `addrconf_ifdown`).
            AdminState::Down => {
                link.routes.clear();
                link.addresses.retain(|address| address.addr().is_ipv4());
            }
        }
        self.tell_changed(id);
        Ok(())
    }

    fn set_loopback(
        &mut self,
        netns: NetnsInode,
        change: &LinkChange<'_, NetnsInode>,
    ) -> Answer<()> {
        let namespace = self.namespaces.get_mut(&netns).ok_or(Errno::NODEV)?;
        if change.move_to.is_some_and(|target| *target != netns) {
            return Err(Errno::INVAL);
        }
        namespace.loopback = change.admin.unwrap_or(namespace.loopback);
        Ok(())
    }
}
