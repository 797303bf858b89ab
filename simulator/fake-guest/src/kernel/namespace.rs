//! Network namespaces: who holds them, how they end, and where their links go then.

use std::collections::BTreeMap;

use guest_agent::kernel::{AdminState, Errno, Ipv6, Ipv6Scope};
use nic_model::{LinkName, NetnsInode, NetnsName};

use super::link::{LinkId, LinkKind};
use super::timer::Timer;
use super::{Answer, Kernel, Output};

/// The first namespace's number (`PROC_NET_INIT_INO`, include/linux/proc_ns.h); the others follow.
const FIRST_INODE: u64 = 4_026_531_840;

/// One namespace.
#[derive(Debug)]
pub(super) struct Namespace {
    pub(super) links: BTreeMap<u32, LinkId>,
    pub(super) last_index: u32,
    pub(super) loopback: AdminState,
    /// What links get that appear in it (`net.ipv6.conf.default.disable_ipv6`).
    pub(super) ipv6: Ipv6,
    holders: u32,
    names: u32,
}

/// Something that keeps a namespace alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Somebody lets go of it.
    NoMore,
    /// Somebody holds it, too.
    Anew,
}

impl Kernel {
    /// The guest's own namespace.
    #[must_use]
    pub fn own_netns(&self) -> NetnsInode {
        self.own
    }

    /// The namespace of that name.
    ///
    /// # Errors
    /// `ENOENT` when there is none.
    pub fn named_netns(&self, name: &NetnsName) -> Answer<NetnsInode> {
        self.names.get(name).copied().ok_or(Errno::NOENT)
    }

    /// Makes a namespace with a name.
    ///
    /// # Errors
    /// `EEXIST` when there is one.
    pub fn add_netns(&mut self, name: &NetnsName) -> Answer<NetnsInode> {
        if self.names.contains_key(name) {
            return Err(Errno::EXIST);
        }
        let netns = self.new_namespace();
        self.name(netns, name.clone());
        Ok(netns)
    }

    /// Gives a namespace a name, as a runtime does for that of a container.
    ///
    /// # Errors
    /// `EEXIST` when another has it, `ENOENT` when there is no such namespace.
    pub fn name_netns(&mut self, netns: NetnsInode, name: &NetnsName) -> Answer<()> {
        if self.names.contains_key(name) {
            return Err(Errno::EXIST);
        }
        if !self.can_be_entered(netns) {
            return Err(Errno::NOENT);
        }
        self.name(netns, name.clone());
        Ok(())
    }

    /// Takes a name away; the namespace ends when nobody holds it.
    ///
    /// # Errors
    /// `ENOENT` when there is no such name.
    pub fn remove_netns(&mut self, name: &NetnsName) -> Answer<()> {
        let netns = self.names.remove(name).ok_or(Errno::NOENT)?;
        if let Some(namespace) = self.namespaces.get_mut(&netns) {
            namespace.names -= 1;
        }
        self.outputs.push(Output::NameGone);
        self.end_if_unheld(netns);
        Ok(())
    }

    /// Counts who holds a namespace: a descriptor, a socket in it, a process.
    pub fn hold(&mut self, netns: NetnsInode, held: Held) {
        let Some(namespace) = self.namespaces.get_mut(&netns) else {
            return;
        };
        match held {
            Held::Anew => namespace.holders += 1,
            Held::NoMore => {
                namespace.holders -= 1;
                self.end_if_unheld(netns);
            }
        }
    }

    /// Every namespace that has a name or in which a process lives, once each.
    #[must_use]
    pub fn reachable_netns(&self) -> Vec<NetnsInode> {
        let mut reachable: Vec<NetnsInode> = self.names.values().copied().collect();
        reachable.extend(self.processes.values().map(|process| process.netns));
        reachable.sort_unstable();
        reachable.dedup();
        reachable
    }

    /// Switches IPv6 on or off.
    ///
    /// # Errors
    /// `ENOENT` when there is no such link.
    pub fn set_ipv6(
        &mut self,
        netns: NetnsInode,
        scope: Ipv6Scope<'_>,
        setting: Ipv6,
    ) -> Answer<()> {
        let namespace = self.namespaces.get_mut(&netns).ok_or(Errno::NOENT)?;
        let links: Vec<LinkId> = match scope {
            Ipv6Scope::All => {
                namespace.ipv6 = setting;
                namespace.links.values().copied().collect()
            }
            Ipv6Scope::Link(name) => {
                let link = self.link_named(netns, name).ok_or(Errno::NOENT)?;
                vec![link]
            }
        };
        for link in links {
            self.set_ipv6_of(link, setting);
        }
        Ok(())
    }

    pub(super) fn new_namespace(&mut self) -> NetnsInode {
        // The lowest that is free, as ida_alloc gives them (`proc_alloc_inum`).
        let inode =
            (FIRST_INODE..).find(|inode| !self.namespaces.contains_key(&NetnsInode(*inode)));
        let inode = NetnsInode(inode.unwrap_or(FIRST_INODE));
        self.namespaces.insert(
            inode,
            Namespace {
                links: BTreeMap::new(),
                last_index: 1,
                loopback: AdminState::Down,
                ipv6: Ipv6::On,
                holders: 0,
                names: 0,
            },
        );
        inode
    }

    fn name(&mut self, netns: NetnsInode, name: NetnsName) {
        self.names.insert(name, netns);
        if let Some(namespace) = self.namespaces.get_mut(&netns) {
            namespace.names += 1;
        }
    }

    /// Whether there still is a way into it: what nobody holds any more only waits for its teardown
    /// (`maybe_get_net` in include/net/net_namespace.h).
    pub(super) fn can_be_entered(&self, netns: NetnsInode) -> bool {
        let is_held = |namespace: &Namespace| namespace.holders > 0 || namespace.names > 0;
        netns == self.own || self.namespaces.get(&netns).is_some_and(is_held)
    }

    fn end_if_unheld(&mut self, netns: NetnsInode) {
        if !self.can_be_entered(netns) {
            self.after(self.settings.teardown, Timer::Teardown(netns));
        }
    }

    /// Links of drivers of their own go to the guest's own namespace, those made by software end
    /// (`default_device_exit_net` in net/core/dev.c).
    pub(super) fn tear_down(&mut self, netns: NetnsInode) {
        let links = match self.namespaces.get(&netns) {
            Some(namespace) => Vec::from_iter(namespace.links.values().copied()),
            None => return,
        };
        for id in links {
            let Some(link) = self.links.get(&id) else {
                continue;
            };
            match link.kind {
                LinkKind::Software => self.remove_link(id),
                LinkKind::Virtio { .. } => {
                    let fallback = format!("dev{}", link.index);
                    self.give_back(id, &fallback);
                }
            }
        }
        self.namespaces.remove(&netns);
    }

    fn give_back(&mut self, link: LinkId, fallback: &str) {
        let fallback: LinkName = if self.name_in(self.own, fallback) {
            self.free_name("dev")
        } else {
            fallback.parse().expect("it is short")
        };
        self.move_link(link, self.own, Some(&fallback))
            .expect("the fallback is free");
    }
}
