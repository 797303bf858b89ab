//! The steps that every kind of port is made of, each of which may be repeated.
//!
//! A tap that is up already may belong to a running VM: the steps then correct what is wrong and
//! leave alone what is right, so that a repeated `make` costs no frame and grants no new burst.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;

use hypervisor::Descriptor;
use linux_network::tap::{self, AttachTapError, TapSpec};
use linux_network::traffic::TokenBucket;
use linux_network::{
    AdminState as LinkAdmin, Carrier, ConnectNetlinkError, Errno, LinkChange, LinkIndex, LinkView,
    Netlink, Netns, PeerName, VethPeer, VethSpec, every_link, remove_links, sysctl,
};
use nic_model::{LinkName, MacAddr, NicId};

use crate::{AdminState, Cause, Device, Holder, Port, PortSpec, PortView, TapAccess, limits};

/// One host's network, and the connection to it.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    netns: Netns,
    device: Device,
    pub(crate) netlink: Netlink,
}

/// A step that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) step: &'static str,
    pub(crate) cause: Cause,
}

/// Names the step in the error of an operation that is part of it.
pub(crate) trait During<T> {
    fn during(self, step: &'static str) -> Result<T, Failure>;
}

impl<T, E: Into<Cause>> During<T> for Result<T, E> {
    fn during(self, step: &'static str) -> Result<T, Failure> {
        self.map_err(|cause| Failure {
            step,
            cause: cause.into(),
        })
    }
}

/// Why a name cannot be used for a port.
#[derive(Debug, thiserror::Error)]
#[error("link {name} exists and is not {wanted}")]
struct NameTaken {
    name: LinkName,
    wanted: &'static str,
}

/// A link that vanished between two steps: somebody else removes it.
#[derive(Debug, thiserror::Error)]
#[error("link {0} has vanished")]
struct Vanished(LinkName);

/// A tap at the start of `make`.
#[derive(Debug)]
pub(crate) struct FoundTap {
    pub(crate) link: LinkView,
    pub(crate) queues: Vec<OwnedFd>,
    pub(crate) origin: Origin,
}

/// What there is of a port that has been stopped.
#[derive(Debug)]
pub(crate) struct Stopped {
    pub(crate) tap: Option<LinkView>,
    pub(crate) ifb: Option<LinkView>,
}

/// Whether an object was there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It was.
    Found,
    /// It was made just now, so nothing about it needs to be read.
    Made,
}

impl Host {
    pub(crate) async fn connect(
        netns: &Netns,
        device: Device,
    ) -> Result<Self, ConnectNetlinkError> {
        let netlink = Netlink::connect(netns).await?;
        Ok(Self {
            netns: netns.clone(),
            device,
            netlink,
        })
    }

    /// What a hypervisor is told of a port that is up.
    pub(crate) fn port(&self, spec: &PortSpec, tap: FoundTap) -> Port {
        let (name, access) = match self.device {
            Device::Tap => (tap.link.name, spec.access),
            Device::Veth => (spec.nic.peer_name(), TapAccess::Name),
        };
        Port {
            tap: name,
            access,
            queues: tap.queues.into_iter().map(Descriptor::from).collect(),
        }
    }

    /// The tap, made down if there is none, and the descriptors of its queues where they are to be
    /// passed on and nobody else holds one.
    pub(crate) async fn tap(&self, spec: &PortSpec) -> Result<FoundTap, Failure> {
        let step = "make its tap";
        let name = link_name(spec.nic.tap_name());
        let (origin, attached) = match self.netlink.link_by_name(&name).await.during(step)? {
            None => (Origin::Made, self.make_tap(spec, &name).await),
            Some(link) if link.kind.as_deref() != Some(self.kind()) => {
                let wanted = self.wanted();
                return Err(NameTaken { name, wanted }).during(step);
            }
            Some(link) => (Origin::Found, self.attach_to(spec, &link, &name).await),
        };
        let queues = attached.during("attach to its tap")?;
        match self.present(name).await {
            Ok(link) => Ok(FoundTap {
                link,
                queues,
                origin,
            }),
            Err(cause) => {
                self.undo(&spec.nic, origin).await;
                Err(Failure { step, cause })
            }
        }
    }

    /// As the kernel calls the kind of a port's link.
    fn kind(&self) -> &'static str {
        match self.device {
            Device::Tap => "tun",
            Device::Veth => "veth",
        }
    }

    fn wanted(&self) -> &'static str {
        match self.device {
            Device::Tap => "a tap",
            Device::Veth => "an end of a pair",
        }
    }

    async fn present(&self, name: LinkName) -> Result<LinkView, Cause> {
        let found = self.netlink.link_by_name(&name).await?;
        Ok(found.ok_or(Vanished(name))?)
    }

    async fn make_tap(&self, spec: &PortSpec, name: &LinkName) -> Result<Vec<OwnedFd>, Cause> {
        if self.device == Device::Veth {
            return self.make_pair(spec, name).await.map(|()| Vec::new());
        }
        let queues = self.attach(spec, name).await?;
        Ok(match spec.access {
            TapAccess::Descriptors => queues,
            TapAccess::Name => Vec::new(),
        })
    }

    async fn make_pair(&self, spec: &PortSpec, name: &LinkName) -> Result<(), Cause> {
        let far_end = link_name(spec.nic.peer_name());
        let peer = VethPeer {
            name: PeerName::Fixed(&far_end),
            netns: None,
            mac: None,
            mtu: Some(spec.mtu),
        };
        let pair = VethSpec {
            name,
            mtu: Some(spec.mtu),
            peer,
        };
        self.netlink.add_veth(pair).await?;
        if let Err(error) = sysctl::disable_ipv6(&self.netns, &far_end).await {
            self.undo(&spec.nic, Origin::Made).await;
            return Err(error.into());
        }
        Ok(())
    }

    /// A queue beside those of a running VM would take frames away from it, so a tap that has a
    /// holder is not attached to; nor one that a hypervisor may be opening by its name just now.
    async fn attach_to(
        &self,
        spec: &PortSpec,
        tap: &LinkView,
        name: &LinkName,
    ) -> Result<Vec<OwnedFd>, Cause> {
        let by_name = spec.access == TapAccess::Name || self.device == Device::Veth;
        if by_name || tap.far_end == Carrier::Present {
            return Ok(Vec::new());
        }
        match self.attach(spec, name).await {
            Err(AttachTapError::Held(_)) => Ok(Vec::new()),
            attached => Ok(attached?),
        }
    }

    async fn attach(
        &self,
        spec: &PortSpec,
        name: &LinkName,
    ) -> Result<Vec<OwnedFd>, AttachTapError> {
        let wanted = TapSpec {
            name: name.clone(),
            queue_count: NonZeroU16::new(spec.queue_count).unwrap_or(NonZeroU16::MIN),
            owner: None,
        };
        tap::attach(&self.netns, wanted).await
    }

    /// Keeps the kernel from talking through the link itself, before it is up for the first time.
    pub(crate) async fn silence(&self, link: &LinkView) -> Result<(), Failure> {
        let step = "keep IPv6 off its links";
        let name = link_name(link.name.clone());
        sysctl::disable_ipv6(&self.netns, &name)
            .await
            .during(step)?;
        self.netlink
            .disable_address_generation(link.index)
            .await
            .during(step)
    }

    /// Largest packet and own address of the tap, and the largest packet of what is behind it. The
    /// address begins with `fe`, as libvirt's taps
    /// do, so that a bridge, which takes the lowest address of its ports, does not take this one
    /// and lose its neighbours.
    pub(crate) async fn dress(&self, tap: &LinkView, spec: &PortSpec) -> Result<(), Failure> {
        let step = "set the MTU and the address of its tap";
        let [_, rest @ ..] = spec.mac.octets();
        let [b, c, d, e, f] = rest;
        let mac = MacAddr::new([0xfe, b, c, d, e, f]).during(step)?;
        let change = LinkChange {
            mtu: (tap.mtu != u32::from(spec.mtu)).then_some(spec.mtu),
            mac: (tap.mac != Some(mac)).then_some(mac),
            ..LinkChange::default()
        };
        self.netlink
            .set_link(tap.index, change)
            .await
            .during(step)?;
        match self.device {
            Device::Tap => Ok(()),
            Device::Veth => self.widen_far_end(spec).await.during(step),
        }
    }

    /// What does not fit the far end never reaches the near one (`veth_xmit`). Whoever has taken it
    /// elsewhere sees to that.
    async fn widen_far_end(&self, spec: &PortSpec) -> Result<(), Cause> {
        let name = link_name(spec.nic.peer_name());
        let found = self.netlink.link_by_name(&name).await?;
        let Some(link) = found.filter(|link| link.mtu < u32::from(spec.mtu)) else {
            return Ok(());
        };
        let change = LinkChange {
            mtu: Some(spec.mtu),
            ..LinkChange::default()
        };
        Ok(self.netlink.set_link(link.index, change).await?)
    }

    /// Limits both directions, or stops limiting them.
    pub(crate) async fn limit(&self, tap: &FoundTap, spec: &PortSpec) -> Result<(), Failure> {
        let step = "limit its rates";
        let index = tap.link.index;
        let inbound = limits::bucket(spec.limits.inbound, spec.mtu).during(step)?;
        let outbound = limits::bucket(spec.limits.outbound, spec.mtu).during(step)?;
        match inbound {
            Some(bucket) => self.shape(index, &bucket, tap.origin).await?,
            None if tap.origin == Origin::Found => {
                self.netlink.unshape(index).await.during(step)?
            }
            None => {}
        }
        match outbound {
            Some(bucket) => self.limit_outbound(index, &bucket, spec).await,
            None => self.unlimit_outbound(index, tap.origin, &spec.nic).await,
        }
    }

    async fn limit_outbound(
        &self,
        tap: LinkIndex,
        bucket: &TokenBucket,
        spec: &PortSpec,
    ) -> Result<(), Failure> {
        let step = "make its intermediate device";
        let (ifb, origin) = self.intermediate_device(&spec.nic).await?;
        self.silence(&ifb).await?;
        self.shape(ifb.index, bucket, origin).await?;
        self.set_admin(ifb.index, LinkAdmin::Up)
            .await
            .during(step)?;
        if self.netlink.redirections(tap).await.during(step)? == [ifb.index] {
            return Ok(());
        }
        self.netlink
            .redirect(tap, ifb.index)
            .await
            .during("redirect what its tap receives")
    }

    async fn unlimit_outbound(
        &self,
        tap: LinkIndex,
        origin: Origin,
        nic: &NicId,
    ) -> Result<(), Failure> {
        let step = "stop limiting what it sends";
        if origin == Origin::Found {
            self.netlink.unredirect(tap).await.during(step)?;
        }
        self.delete(nic.ifb_name()).await.during(step)
    }

    async fn intermediate_device(&self, nic: &NicId) -> Result<(LinkView, Origin), Failure> {
        let step = "make its intermediate device";
        let name = link_name(nic.ifb_name());
        match self.netlink.link_by_name(&name).await.during(step)? {
            Some(link) if link.kind.as_deref() == Some("ifb") => return Ok((link, Origin::Found)),
            Some(_) => {
                return Err(NameTaken {
                    name,
                    wanted: "an intermediate device",
                })
                .during(step);
            }
            None => self.netlink.add_ifb(&name).await.during(step)?,
        }
        Ok((self.present(name).await.during(step)?, Origin::Made))
    }

    /// Setting a bucket fills it, so one that is right already is left alone.
    async fn shape(
        &self,
        index: LinkIndex,
        bucket: &TokenBucket,
        origin: Origin,
    ) -> Result<(), Failure> {
        let step = "limit its rates";
        if origin == Origin::Found && self.netlink.is_shaped(index, bucket).await.during(step)? {
            return Ok(());
        }
        self.netlink.shape(index, bucket).await.during(step)
    }

    pub(crate) async fn set_admin(
        &self,
        index: LinkIndex,
        admin: LinkAdmin,
    ) -> Result<(), linux_network::SetLinkError> {
        let change = LinkChange {
            admin: Some(admin),
            ..LinkChange::default()
        };
        self.netlink.set_link(index, change).await
    }

    /// Stops all frames of a port at once. The intermediate device goes down before the tap leaves
    /// its network: what it still has queued would arrive at a tap of the host's own then.
    pub(crate) async fn stop(&self, nic: &NicId) -> Result<Stopped, Cause> {
        let tap = self
            .netlink
            .link_by_name(&link_name(nic.tap_name()))
            .await?;
        let ifb = self
            .netlink
            .link_by_name(&link_name(nic.ifb_name()))
            .await?;
        for link in tap.iter().chain(&ifb) {
            match self.set_admin(link.index, LinkAdmin::Down).await {
                Err(error) if error.errno() == Some(Errno::NODEV) => {}
                done => done?,
            }
        }
        Ok(Stopped { tap, ifb })
    }

    /// Takes the tap out of whatever it is part of; that it is gone is fine.
    pub(crate) async fn leave(&self, tap: Option<&LinkView>) -> Result<(), Cause> {
        let Some(tap) = tap.filter(|tap| tap.master.is_some()) else {
            return Ok(());
        };
        match self.netlink.set_master(tap.index, None).await {
            Err(error) if error.errno() == Some(Errno::NODEV) => Ok(()),
            done => Ok(done?),
        }
    }

    /// Everything of a port, in the order of [`crate`]. What is gone already is fine. `claim` is
    /// dropped when nothing more is going to be removed.
    pub(crate) async fn remove<C: Send + 'static>(
        &self,
        nic: &NicId,
        claim: C,
    ) -> Result<(), Cause> {
        let Stopped { tap, ifb } = self.stop(nic).await?;
        self.leave(tap.as_ref()).await?;
        let links: Vec<_> = tap.into_iter().chain(ifb).collect();
        if links.is_empty() {
            return Ok(());
        }
        Ok(remove_links(&self.netns, links, claim).await?)
    }

    async fn delete(&self, name: String) -> Result<(), Cause> {
        match self.netlink.link_by_name(&link_name(name)).await? {
            Some(link) => Ok(self.netlink.delete_link(link.index).await?),
            None => Ok(()),
        }
    }

    /// Takes back a `make` that failed: everything, when it has made the tap. A port that was there
    /// before stays, since a VM may be using it.
    pub(crate) async fn undo(&self, nic: &NicId, origin: Origin) {
        if origin == Origin::Found {
            return;
        }
        if let Err(error) = self.remove(nic, ()).await {
            tracing::warn!(%nic, %error, "a port that could not be made is still there in part");
        }
    }

    /// Every port of ours, by the names of its links.
    pub(crate) async fn ports(&self) -> Result<Vec<PortView>, Cause> {
        Ok(ports_among(&every_link(&self.netns).await?))
    }

    /// One port, without a look at all the others there may be.
    pub(crate) async fn find(&self, nic: &NicId) -> Result<Option<PortView>, Cause> {
        let mut links = Vec::new();
        for name in [nic.tap_name(), nic.ifb_name(), nic.peer_name()] {
            links.extend(self.netlink.link_by_name(&link_name(name)).await?);
        }
        let masters: BTreeSet<_> = links.iter().filter_map(|link| link.master).collect();
        for master in masters {
            links.extend(self.netlink.link(master).await?);
        }
        Ok(ports_among(&links).pop())
    }
}

/// The ports that links are parts of, by NIC.
fn ports_among(links: &[LinkView]) -> Vec<PortView> {
    let surroundings = Surroundings {
        by_index: links.iter().map(|link| (link.index, link)).collect(),
        by_name: links
            .iter()
            .map(|link| (link.name.as_str(), link))
            .collect(),
    };
    let mut ports: BTreeMap<NicId, PortView> = BTreeMap::new();
    for link in links {
        if let Some(nic) = NicId::from_link_name(&link.name) {
            let port = ports.entry(nic.clone()).or_insert_with(|| nothing_of(nic));
            add_link(port, link, &surroundings);
        }
    }
    ports.into_values().collect()
}

/// Links that others name.
struct Surroundings<'a> {
    by_index: BTreeMap<LinkIndex, &'a LinkView>,
    by_name: BTreeMap<&'a str, &'a LinkView>,
}

fn nothing_of(nic: NicId) -> PortView {
    PortView {
        nic,
        tap: None,
        ifb: None,
        bridge: None,
        admin: AdminState::Down,
        holder: Holder::Nobody,
    }
}

fn add_link(port: &mut PortView, link: &LinkView, links: &Surroundings<'_>) {
    if link.name == port.nic.ifb_name() {
        port.ifb = Some(link.name.clone());
        return;
    }
    // A far end is described together with its near end, without which it cannot be.
    if link.name == port.nic.peer_name() {
        return;
    }
    let master = link.master.and_then(|master| links.by_index.get(&master));
    port.tap = Some(link.name.clone());
    port.bridge = master.map(|master| master.name.clone());
    port.admin = match link.admin {
        LinkAdmin::Up => AdminState::Up,
        LinkAdmin::Down => AdminState::Down,
    };
    port.holder = holder(link, &port.nic.peer_name(), links);
}

/// A tap's carrier is its holder. A pair has one only while both ends are on, so what counts is
/// that whoever took the far end has switched it on, or has taken it elsewhere.
fn holder(link: &LinkView, far_end: &str, links: &Surroundings<'_>) -> Holder {
    let held = match link.kind.as_deref() {
        Some("veth") => {
            let far_end = links.by_name.get(far_end);
            far_end.is_none_or(|far_end| far_end.admin != LinkAdmin::Down)
        }
        _ => link.far_end == Carrier::Present,
    };
    if held {
        Holder::Somebody
    } else {
        Holder::Nobody
    }
}

/// A name that the kernel has, or that is derived from a NIC's id.
pub(crate) fn link_name(name: String) -> LinkName {
    name.try_into()
        .expect("names of our links are letters, digits and a dash, at most 14 bytes")
}
