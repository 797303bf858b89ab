//! What connects a port of hostd with the link in the guest.
//!
//! ```text
//!   pairs:  bridge ── nf-X ═══ nfp-X ◄─redirect─► hw1-020 ═══ eth0   in the guest,
//!   taps:   bridge ── nf-X ◄─ queue ─► frames ◄─ queue ─► eth0       wherever it goes
//!                     └─ hostd's ─┘                 └─ hardware, guest ─┘
//! ```
//!
//! What the hardware makes is what a NIC is to the guest: it is deleted to take the NIC out, as a
//! kernel lets a link disappear whatever namespace it is in, and it loses its carrier when it is
//! told to. hostd's port stays as hostd has made it; of a pair the far end is switched on while
//! this VM holds it.

mod backend;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use fake_qemu::GuestDevice;
use linux_network::{
    AdminState, Carrier, LinkChange, LinkIndex, Netlink, Netns, PeerName, VethPeer, VethSpec,
    sysctl, tap,
};
use nic_model::{LinkName, MacAddr, Mtu, PciPath, VmId};
use tokio::sync::mpsc;

use self::backend::Backend;
pub(crate) use self::backend::let_go_for;
use super::frames::Carrying;
use crate::netns::network::name_of;
use crate::netns::trouble::{Doing, Trouble};

/// The hardware's end lets through whatever the ports at both sides do (`ETH_MAX_MTU`).
const WIDEST: u32 = 65_535;

/// Taps whose links have gone and that nobody has looked at yet: each NIC has one.
const LOST_MAX: usize = 256;

/// The links of one VM's NICs.
#[derive(Debug)]
pub(super) struct Wiring {
    vm: VmId,
    vm_number: usize,
    netns: Netns,
    netlink: Netlink,
    backends: BTreeMap<String, Backend>,
    nics: BTreeMap<PciPath, Nic>,
    /// Where taps tell that their links are gone.
    lost: (mpsc::Sender<PciPath>, mpsc::Receiver<PciPath>),
}

#[derive(Debug)]
struct Nic {
    device: GuestDevice,
    link: NicLink,
    carrier: AdminState,
}

/// What the guest's link hangs on.
#[derive(Debug)]
enum NicLink {
    /// The near end of a pair.
    Pair(LinkIndex),
    /// The queue of a tap, and what carries its frames.
    Tap {
        queue: Arc<OwnedFd>,
        carrying: Option<Carrying>,
    },
}

/// A link that is not there.
#[derive(Debug, thiserror::Error)]
#[error("there is no link {0}")]
struct NoLink(LinkName);

impl Wiring {
    /// In the namespace of this process, which is the host's, for a VM and the number it has.
    pub(super) async fn new(vm: VmId, vm_number: usize) -> Result<Self, Trouble> {
        let netns = Netns::own().doing("open the host's namespace")?;
        Ok(Self {
            vm,
            vm_number,
            netlink: Netlink::connect(&netns)
                .await
                .doing("ask the host's kernel")?,
            netns,
            backends: BTreeMap::new(),
            nics: BTreeMap::new(),
            lost: mpsc::channel(LOST_MAX),
        })
    }

    pub(super) fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Waits for a tap whose link has gone with its namespace.
    pub(super) async fn next_lost(&mut self) -> Option<PciPath> {
        self.lost.1.recv().await
    }

    /// Puts a NIC into the guest: there is a new link in its namespace.
    pub(super) async fn plug(
        &mut self,
        device: GuestDevice,
        carrier: AdminState,
        guest: &Netns,
    ) -> Result<(), Trouble> {
        let backend = device.netdev.as_ref();
        let backend = backend.and_then(|backend| self.backends.get(backend));
        let link = match backend {
            Some(Backend::Queue(queue)) => self.plug_tap(&device, queue.clone(), guest).await?,
            Some(Backend::Link(port)) => self.plug_pair(&device, Some(port), guest).await?,
            None => self.plug_pair(&device, None, guest).await?,
        };
        let nic = Nic {
            device,
            link,
            carrier,
        };
        let path = nic.device.path.clone();
        self.nics.insert(path.clone(), nic);
        match carrier {
            AdminState::Up => Ok(()),
            AdminState::Down => self.set_carrier(&path, carrier).await,
        }
    }

    async fn plug_tap(
        &self,
        device: &GuestDevice,
        host: Arc<OwnedFd>,
        guest: &Netns,
    ) -> Result<NicLink, Trouble> {
        let doing = format!("put a NIC behind {}", device.path);
        let (queue, name) = tap::plug_in(guest).await.doing(&doing)?;
        let netlink = Netlink::connect(guest).await.doing(&doing)?;
        let found = netlink.link_by_name(&name).await.doing(&doing)?;
        let link = found.ok_or(NoLink(name)).doing(&doing)?;
        let change = LinkChange {
            mac: mac_of(device).doing(&doing)?,
            mtu: mtu_of(device).doing(&doing)?,
            ..LinkChange::default()
        };
        netlink.set_link(link.index, change).await.doing(&doing)?;
        let queue = Arc::new(queue);
        let (lost, path) = (self.lost.0.clone(), device.path.clone());
        // Full only when as many are to be looked at already as there can be.
        let gone = move || lost.try_send(path).unwrap_or_default();
        let carrying = Carrying::start(&host, &queue, gone).doing(doing)?;
        let carrying = Some(carrying);
        Ok(NicLink::Tap { queue, carrying })
    }

    async fn plug_pair(
        &self,
        device: &GuestDevice,
        port: Option<&LinkName>,
        guest: &Netns,
    ) -> Result<NicLink, Trouble> {
        let name = self.hardware_name(&device.path);
        let doing = format!("put a NIC behind {}", device.path);
        let pair = VethSpec {
            name: &name,
            mtu: Some(Mtu::try_from(WIDEST).doing(&doing)?),
            peer: VethPeer {
                name: PeerName::NextEthernet,
                netns: Some(guest),
                mac: mac_of(device).doing(&doing)?,
                mtu: mtu_of(device).doing(&doing)?,
            },
        };
        self.remove_remains(&name).await?;
        self.netlink.add_veth(pair).await.doing(&doing)?;
        sysctl::disable_ipv6(&self.netns, &name)
            .await
            .doing(&doing)?;
        let index = self.index_of(&name).await?;
        if let Some(port) = port {
            let port = self.index_of(port).await?;
            self.netlink.redirect(port, index).await.doing(&doing)?;
            self.netlink.redirect(index, port).await.doing(&doing)?;
        }
        self.switch(index, AdminState::Up).await.doing(doing)?;
        Ok(NicLink::Pair(index))
    }

    /// An earlier guest's link goes some time after its namespace.
    async fn remove_remains(&self, name: &LinkName) -> Result<(), Trouble> {
        let doing = format!("remove what is left of {name}");
        match self.netlink.link_by_name(name).await.doing(&doing)? {
            Some(link) => self.netlink.delete_link(link.index).await.doing(doing),
            None => Ok(()),
        }
    }

    /// Takes a NIC out: its link disappears, wherever it is. None is fine.
    pub(super) async fn unplug(&mut self, path: &PciPath) -> Result<(), Trouble> {
        let Some(nic) = self.nics.remove(path) else {
            return Ok(());
        };
        match nic.link {
            NicLink::Pair(index) => {
                let doing = format!("take out the NIC behind {path}");
                self.netlink.delete_link(index).await.doing(doing)
            }
            NicLink::Tap { queue, carrying } => {
                // Its tasks hold the queue too.
                if let Some(carrying) = carrying {
                    carrying.end().await;
                }
                close(queue)
                    .await
                    .doing(format_args!("take out the NIC behind {path}"))
            }
        }
    }

    /// Gives a NIC a carrier or takes it away.
    pub(super) async fn set_carrier(
        &mut self,
        path: &PciPath,
        admin: AdminState,
    ) -> Result<(), Trouble> {
        let doing = format!("set the carrier of the NIC behind {path}");
        let Some(nic) = self.nics.get_mut(path) else {
            return Ok(());
        };
        nic.carrier = admin;
        match &nic.link {
            NicLink::Pair(index) => {
                let index = *index;
                self.switch(index, admin).await.doing(doing)
            }
            NicLink::Tap { queue, carrying } => {
                if let Some(carrying) = carrying {
                    carrying.set_open(admin == AdminState::Up);
                }
                let carrier = match admin {
                    AdminState::Up => Carrier::Present,
                    AdminState::Down => Carrier::Absent,
                };
                tap::set_carrier(queue, carrier).doing(doing)
            }
        }
    }

    /// A device may outlive its backend: nothing is carried for it any more then.
    fn stop_carrying(&mut self, backend: &str) {
        for nic in self.nics.values_mut() {
            if let NicLink::Tap { carrying, .. } = &mut nic.link
                && nic.device.netdev.as_deref() == Some(backend)
            {
                *carrying = None;
            }
        }
    }

    /// The NIC whose link is `index`, if it is one of this VM's.
    pub(super) fn nic_of(&self, index: LinkIndex) -> Option<PciPath> {
        let is_it = |nic: &Nic| matches!(nic.link, NicLink::Pair(own) if own == index);
        let found = self.nics.iter().find(|(_, nic)| is_it(nic));
        found.map(|(path, _)| path.clone())
    }

    /// What sits behind a path.
    pub(super) fn device(&self, path: &PciPath) -> Option<&GuestDevice> {
        self.nics.get(path).map(|nic| &nic.device)
    }

    /// A NIC that is plugged in, and whether it has a carrier.
    pub(super) fn nic(&self, path: &PciPath) -> Option<(GuestDevice, AdminState)> {
        let nic = self.nics.get(path);
        nic.map(|nic| (nic.device.clone(), nic.carrier))
    }

    /// The NICs whose pairs are gone.
    pub(super) async fn lost(&self) -> Result<Vec<PciPath>, Trouble> {
        let links = self.netlink.links().await;
        let links = links.doing("look at the host's links")?;
        let is_lost = |nic: &Nic| match nic.link {
            NicLink::Pair(index) => links.iter().all(|link| link.index != index),
            NicLink::Tap { .. } => false,
        };
        let lost = self.nics.iter().filter(|(_, nic)| is_lost(nic));
        Ok(lost.map(|(path, _)| path.clone()).collect())
    }

    /// Every NIC that is plugged in.
    pub(super) fn plugged(&self) -> Vec<PciPath> {
        self.nics.keys().cloned().collect()
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

fn mac_of(device: &GuestDevice) -> Result<Option<MacAddr>, nic_model::InvalidMac> {
    device.mac.map(|mac| MacAddr::new(mac.0)).transpose()
}

/// What the device tells its guest, if it tells.
fn mtu_of(device: &GuestDevice) -> Result<Option<Mtu>, nic_model::InvalidMtu> {
    let told = (device.mtu_bytes > 0).then(|| Mtu::try_from(u32::from(device.mtu_bytes)));
    told.transpose()
}

/// The last descriptor of a tap that is not persistent takes the link with it, for which the kernel
/// takes its time: not on the thread that everything else runs on.
async fn close(queue: Arc<OwnedFd>) -> std::io::Result<()> {
    let (sender, closed) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().name("close-tap".to_owned());
    thread.spawn(move || {
        drop(queue);
        sender.send(()).unwrap_or_default();
    })?;
    closed.await.map_err(std::io::Error::other)
}
