//! What connects a port of hostd with the link in the guest, where the port is a pair of virtual
//! links: a second pair, and redirections between the two.
//!
//! ```text
//!   bridge ── nf-X ═══ nfp-X ◄─redirect─► hw1-020 ═══ eth0   in the guest, wherever it goes
//!             └ hostd's ┘                 └─ hardware, guest ─┘
//! ```
//!
//! The hardware's own pair is what a NIC is to the guest. It is deleted to take the NIC out, as a
//! kernel lets a link disappear whatever namespace it is in; switching its near end off takes the
//! carrier away. hostd's pair stays where hostd has made it: its far end is switched on while this
//! VM holds it.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use fake_qemu::GuestDevice;
use linux_network::{
    AdminState, Errno, LinkChange, LinkIndex, Netlink, Netns, PeerName, VethPeer, VethSpec, sysctl,
};
use nic_model::{LinkName, MacAddr, Mtu, PciPath};

use crate::netns::network::name_of;
use crate::netns::trouble::{Doing, Trouble};

/// The hardware's end lets through whatever the ports at both sides do (`ETH_MAX_MTU`).
const WIDEST: u32 = 65_535;

/// The links of one VM's NICs.
#[derive(Debug)]
pub(super) struct Wiring {
    vm_number: usize,
    netns: Netns,
    netlink: Netlink,
    /// Links of the host that backends have been made with, by backend.
    backends: BTreeMap<String, LinkName>,
    nics: BTreeMap<PciPath, Nic>,
}

#[derive(Debug, Clone)]
struct Nic {
    device: GuestDevice,
    index: LinkIndex,
    carrier: AdminState,
}

/// A link that is not there.
#[derive(Debug, thiserror::Error)]
#[error("there is no link {0}")]
struct NoLink(LinkName);

impl Wiring {
    /// In the namespace of this process, which is the host's, for the VM with this number.
    pub(super) async fn new(vm_number: usize) -> Result<Self, Trouble> {
        let netns = Netns::own().doing("open the host's namespace")?;
        Ok(Self {
            vm_number,
            netlink: Netlink::connect(&netns)
                .await
                .doing("ask the host's kernel")?,
            netns,
            backends: BTreeMap::new(),
            nics: BTreeMap::new(),
        })
    }

    pub(super) fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Takes hold of a link of the host.
    pub(super) async fn hold(&mut self, backend: &str, link: &str) -> Result<(), Trouble> {
        let doing = format!("take hold of {link}");
        let name: LinkName = link.parse().doing(&doing)?;
        let index = self.index_of(&name).await?;
        self.switch(index, AdminState::Up).await.doing(doing)?;
        self.backends.insert(backend.to_owned(), name);
        Ok(())
    }

    /// Takes hold of the queue of a tap.
    pub(super) fn hold_queue(&mut self, _backend: &str, _queue: OwnedFd) -> Result<(), Trouble> {
        Ok(())
    }

    /// Lets go of it again; that it is gone is fine.
    pub(super) async fn let_go(&mut self, backend: &str) -> Result<(), Trouble> {
        let Some(name) = self.backends.remove(backend) else {
            return Ok(());
        };
        let doing = format!("let go of {name}");
        let found = self.netlink.link_by_name(&name).await.doing(&doing)?;
        let Some(link) = found else {
            return Ok(());
        };
        let off = async {
            unless_gone(self.netlink.unredirect(link.index).await, |error| {
                error.errno()
            })?;
            unless_gone(self.switch(link.index, AdminState::Down).await, |error| {
                error.errno()
            })
        };
        off.await.doing(doing)
    }

    /// Puts a NIC into the guest: there is a new link in its namespace.
    pub(super) async fn plug(&mut self, device: GuestDevice, guest: &Netns) -> Result<(), Trouble> {
        let carrier = AdminState::Up;
        let index = self.make_link(&device, guest).await?;
        let nic = Nic {
            device,
            index,
            carrier,
        };
        self.connect(&nic).await?;
        self.nics.insert(nic.device.path.clone(), nic);
        Ok(())
    }

    async fn make_link(&self, device: &GuestDevice, guest: &Netns) -> Result<LinkIndex, Trouble> {
        let name = self.hardware_name(&device.path);
        let doing = format!("put a NIC behind {}", device.path);
        let mac = device.mac.map(|mac| MacAddr::new(mac.0));
        let told = (device.mtu_bytes > 0).then(|| Mtu::try_from(u32::from(device.mtu_bytes)));
        let pair = VethSpec {
            name: &name,
            mtu: Some(Mtu::try_from(WIDEST).doing(&doing)?),
            peer: VethPeer {
                name: PeerName::NextEthernet,
                netns: Some(guest),
                mac: mac.transpose().doing(&doing)?,
                mtu: told.transpose().doing(&doing)?,
            },
        };
        self.netlink.add_veth(pair).await.doing(&doing)?;
        sysctl::disable_ipv6(&self.netns, &name)
            .await
            .doing(&doing)?;
        self.index_of(&name).await
    }

    /// Lets frames through between the NIC and its backend, if it has one.
    async fn connect(&self, nic: &Nic) -> Result<(), Trouble> {
        let doing = format!("connect the NIC behind {}", nic.device.path);
        let backend = nic.device.netdev.as_ref();
        if let Some(port) = backend.and_then(|backend| self.backends.get(backend)) {
            let port = self.index_of(port).await?;
            self.netlink.redirect(port, nic.index).await.doing(&doing)?;
            self.netlink.redirect(nic.index, port).await.doing(&doing)?;
        }
        self.switch(nic.index, nic.carrier).await.doing(doing)
    }

    /// Takes a NIC out: its link disappears, wherever it is. None is fine.
    pub(super) async fn unplug(&mut self, path: &PciPath) -> Result<(), Trouble> {
        let Some(nic) = self.nics.remove(path) else {
            return Ok(());
        };
        let doing = format!("take out the NIC behind {path}");
        self.netlink.delete_link(nic.index).await.doing(doing)
    }

    /// Gives a NIC a carrier or takes it away.
    pub(super) async fn set_carrier(
        &mut self,
        path: &PciPath,
        carrier: AdminState,
    ) -> Result<(), Trouble> {
        let Some(nic) = self.nics.get_mut(path) else {
            return Ok(());
        };
        nic.carrier = carrier;
        let index = nic.index;
        let doing = format!("set the carrier of the NIC behind {path}");
        self.switch(index, carrier).await.doing(doing)
    }

    /// The NIC whose link is `index`, if it is one of this VM's.
    pub(super) fn nic_of(&self, index: LinkIndex) -> Option<PciPath> {
        let found = self.nics.iter().find(|(_, nic)| nic.index == index);
        found.map(|(path, _)| path.clone())
    }

    /// What sits behind a path.
    pub(super) fn device(&self, path: &PciPath) -> Option<&GuestDevice> {
        self.nics.get(path).map(|nic| &nic.device)
    }

    /// The NICs whose links are gone.
    pub(super) async fn lost(&self) -> Result<Vec<PciPath>, Trouble> {
        let links = self
            .netlink
            .links()
            .await
            .doing("look at the host's links")?;
        let is_lost =
            |(_, nic): &(&PciPath, &Nic)| links.iter().all(|link| link.index != nic.index);
        let lost = self.nics.iter().filter(is_lost);
        Ok(lost.map(|(path, _)| path.clone()).collect())
    }

    /// Every NIC that is plugged in.
    pub(super) fn plugged(&self) -> Vec<PciPath> {
        self.nics.keys().cloned().collect()
    }

    /// Puts a NIC whose link has gone with its namespace into the guest's own: a kernel gives a
    /// link that has hardware back to the machine (`default_device_exit_net` in net/core/dev.c),
    /// and deletes one that has none.
    pub(super) async fn give_back(&mut self, path: &PciPath, guest: &Netns) -> Result<(), Trouble> {
        let Some(nic) = self.nics.remove(path) else {
            return Ok(());
        };
        // What is left of it, if the namespace is only on its way out.
        let doing = format!("give back the NIC behind {path}");
        self.netlink.delete_link(nic.index).await.doing(doing)?;
        let carrier = nic.carrier;
        self.plug(nic.device, guest).await?;
        self.set_carrier(path, carrier).await
    }

    fn hardware_name(&self, path: &PciPath) -> LinkName {
        let port = path.slots().first();
        let (device, function) = port.map_or((0, 0), |port| (port.device(), port.function()));
        name_of(&format!("hw{}-{device:02x}{function}", self.vm_number))
    }

    async fn index_of(&self, name: &LinkName) -> Result<LinkIndex, Trouble> {
        let doing = format!("find link {name}");
        let found = self.netlink.link_by_name(name).await.doing(&doing)?;
        let link = found.ok_or_else(|| NoLink(name.clone())).doing(doing)?;
        Ok(link.index)
    }

    async fn switch(
        &self,
        index: LinkIndex,
        admin: AdminState,
    ) -> Result<(), linux_network::SetLinkError> {
        let change = LinkChange {
            admin: Some(admin),
            ..LinkChange::default()
        };
        self.netlink.set_link(index, change).await
    }
}

fn unless_gone<E: std::error::Error + Send + Sync + 'static>(
    done: Result<(), E>,
    errno: impl Fn(&E) -> Option<Errno>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    match done {
        Err(error) if errno(&error) == Some(Errno::NODEV) => Ok(()),
        done => Ok(done?),
    }
}
