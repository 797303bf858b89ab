//! What an agent holds of the kernel: each keeps alive what it stands for, and holds nothing once
//! the guest has been reset.

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::Poll;

use guest_agent::kernel::{
    AddAddressError, AddRouteError, AddressView, Announce, AnnounceError, DuplicateDetection,
    Errno, GetLinkError, HeldProcess, LinkChange, LinkEvent, LinkEvents, LinkIndex, LinkView,
    ListAddressesError, ListLinksError, ListRoutesError, NameEvents, NetlinkError, Netns,
    OpenNetnsError, RemoveAddressError, RouteView, Rtnetlink, SetLinkError, WatchLinksError,
};
use misbehaviour::Effect;
use nic_model::{IpNet, LinkName, MacAddr, NetnsInode, ProcessStart, Route};
use tokio::sync::Notify;

use super::linux::FakeKernel;
use crate::kernel::{Answer, Held, Kernel, ProcessKey, SubscriptionId};

/// A namespace, held open.
#[derive(Debug, Clone)]
pub struct FakeNetns {
    hold: Arc<Hold>,
}

#[derive(Debug)]
struct Hold {
    kernel: FakeKernel,
    netns: NetnsInode,
}

impl FakeNetns {
    pub(super) fn hold(kernel: &FakeKernel, netns: NetnsInode) -> Self {
        kernel.live(|kernel| kernel.hold(netns, Held::Anew));
        let kernel = kernel.clone();
        Self {
            hold: Arc::new(Hold { kernel, netns }),
        }
    }

    pub(super) fn kernel(&self) -> &FakeKernel {
        &self.hold.kernel
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.kernel
            .live(|kernel| kernel.hold(self.netns, Held::NoMore));
    }
}

impl PartialEq for FakeNetns {
    fn eq(&self, other: &Self) -> bool {
        self.inode() == other.inode() && self.kernel().life() == other.kernel().life()
    }
}

impl Netns for FakeNetns {
    fn inode(&self) -> NetnsInode {
        self.hold.netns
    }
}

/// A connection into a namespace.
#[derive(Debug, Clone)]
pub struct FakeRtnetlink {
    netns: FakeNetns,
}

impl FakeRtnetlink {
    pub(super) fn connect(netns: &FakeNetns) -> Self {
        let netns = netns.clone();
        Self { netns }
    }

    /// Does one request, or fails it as rules want.
    async fn request<T>(
        &self,
        work: impl FnOnce(&mut Kernel, NetnsInode) -> Answer<T>,
    ) -> Result<T, NetlinkError> {
        let kernel = self.netns.kernel();
        kernel.running().await;
        let answer = match kernel.take_failure() {
            Some(errno) => Err(errno),
            None => kernel
                .live(|kernel| work(kernel, self.netns.inode()))
                .unwrap_or(Err(Errno::NODEV)),
        };
        answer.map_err(|errno| NetlinkError::Refused {
            errno,
            explanation: None,
        })
    }
}

impl Rtnetlink for FakeRtnetlink {
    type Netns = FakeNetns;

    async fn links(&self) -> Result<Vec<LinkView>, ListLinksError> {
        self.request(|kernel, netns| Ok(kernel.links(netns)))
            .await
            .map_err(|cause| ListLinksError { cause })
    }

    async fn link(&self, index: LinkIndex) -> Result<Option<LinkView>, GetLinkError> {
        self.request(|kernel, netns| Ok(kernel.link(netns, index)))
            .await
            .map_err(|cause| GetLinkError {
                link: index.to_string(),
                cause,
            })
    }

    async fn link_by_name(&self, name: &LinkName) -> Result<Option<LinkView>, GetLinkError> {
        self.request(|kernel, netns| Ok(kernel.link_by_name(netns, name)))
            .await
            .map_err(|cause| GetLinkError {
                link: name.to_string(),
                cause,
            })
    }

    async fn set_link(
        &self,
        index: LinkIndex,
        change: LinkChange<'_, FakeNetns>,
    ) -> Result<(), SetLinkError> {
        let target = change.move_to.map(FakeNetns::inode);
        let change = LinkChange {
            move_to: target.as_ref(),
            mac: change.mac,
            mtu: change.mtu,
            name: change.name,
            alias: change.alias,
            admin: change.admin,
        };
        self.request(|kernel, netns| kernel.set_link(netns, index, &change))
            .await
            .map_err(|cause| SetLinkError { index, cause })
    }

    async fn addresses(&self, index: LinkIndex) -> Result<Vec<AddressView>, ListAddressesError> {
        self.request(|kernel, netns| Ok(kernel.addresses(netns, index)))
            .await
            .map_err(|cause| ListAddressesError { index, cause })
    }

    async fn add_address(
        &self,
        index: LinkIndex,
        address: IpNet,
        _detection: DuplicateDetection,
    ) -> Result<(), AddAddressError> {
        self.request(|kernel, netns| kernel.add_address(netns, index, address))
            .await
            .map_err(|cause| AddAddressError {
                index,
                address,
                cause,
            })
    }

    async fn remove_address(
        &self,
        index: LinkIndex,
        address: IpNet,
    ) -> Result<(), RemoveAddressError> {
        match self
            .request(|kernel, netns| kernel.remove_address(netns, index, address))
            .await
        {
            Err(error) if error.errno() == Some(Errno::ADDRNOTAVAIL) => Ok(()),
            done => done.map_err(|cause| RemoveAddressError {
                index,
                address,
                cause,
            }),
        }
    }

    async fn routes(&self, index: LinkIndex) -> Result<Vec<RouteView>, ListRoutesError> {
        self.request(|kernel, netns| Ok(kernel.routes(netns, index)))
            .await
            .map_err(|cause| ListRoutesError { index, cause })
    }

    async fn add_route(&self, index: LinkIndex, route: &Route) -> Result<(), AddRouteError> {
        self.request(|kernel, netns| kernel.add_route(netns, index, route))
            .await
            .map_err(|cause| AddRouteError {
                index,
                destination: route.destination,
                cause,
            })
    }
}

/// A subscription to the links of a namespace.
#[derive(Debug)]
pub struct FakeLinkEvents {
    netns: FakeNetns,
    id: Option<SubscriptionId>,
}

impl FakeLinkEvents {
    pub(super) fn subscribe(netns: &FakeNetns) -> Self {
        let kernel = netns.kernel();
        let id = kernel.live(|kernel| kernel.subscribe(netns.inode()));
        let netns = netns.clone();
        Self { netns, id }
    }

    /// Whether rules have the event get lost.
    fn is_lost(&self, event: &LinkEvent) -> bool {
        let kernel = self.netns.kernel();
        let index = match event {
            LinkEvent::Changed(link) => link.index,
            LinkEvent::Gone(index) => *index,
            LinkEvent::Overrun => return false,
        };
        if !kernel.has_rules() {
            return false;
        }
        let nic = kernel.nic_of(self.netns.inode(), index);
        let effect = kernel.consult("guest.link-event", nic.as_ref());
        effect == Some(Effect::Lose)
    }
}

impl LinkEvents for FakeLinkEvents {
    async fn next(&mut self) -> Result<LinkEvent, WatchLinksError> {
        loop {
            let event = poll_fn(|context| {
                let next = self.netns.kernel().take(|state| {
                    let id = self.id?;
                    let event = state.kernel().next_event(id);
                    if event.is_none() {
                        state.readers.insert(id, context.waker().clone());
                    }
                    event
                });
                next.flatten().map_or(Poll::Pending, Poll::Ready)
            });
            let event = event.await;
            if !self.is_lost(&event) {
                return Ok(event);
            }
        }
    }
}

impl Drop for FakeLinkEvents {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        self.netns.kernel().live_state(|state| {
            state.readers.remove(&id);
            state.kernel().unsubscribe(id);
        });
    }
}

/// A watch of the names of namespaces.
#[derive(Debug)]
pub struct FakeNameEvents {
    kernel: FakeKernel,
    seen: u64,
}

impl FakeNameEvents {
    pub(super) fn subscribe(kernel: &FakeKernel) -> Self {
        let seen = kernel.live_state(|state| state.names_gone);
        Self {
            kernel: kernel.clone(),
            seen: seen.unwrap_or_default(),
        }
    }
}

impl NameEvents for FakeNameEvents {
    async fn name_gone(&mut self) {
        poll_fn(|context| {
            let gone = self.kernel.take(|state| {
                if state.names_gone == self.seen {
                    state.name_reader = Some(context.waker().clone());
                }
                state.names_gone
            });
            match gone {
                Some(gone) if gone != self.seen => {
                    self.seen = gone;
                    Poll::Ready(())
                }
                Some(_) | None => Poll::Pending,
            }
        })
        .await;
    }
}

/// A process that is held.
#[derive(Debug)]
pub struct FakeProcess {
    kernel: FakeKernel,
    pid: u32,
    key: ProcessKey,
}

impl FakeProcess {
    pub(super) fn hold(kernel: &FakeKernel, pid: u32) -> Option<Self> {
        let (key, _, _) = kernel.live(|kernel| kernel.process(pid)).flatten()?;
        Some(Self {
            kernel: kernel.clone(),
            pid,
            key,
        })
    }

    fn process(&self) -> Option<(ProcessStart, NetnsInode)> {
        let process = self.kernel.live(|kernel| kernel.process(self.pid));
        let (key, started, netns) = process.flatten()?;
        (key == self.key).then_some((started, netns))
    }
}

impl HeldProcess for FakeProcess {
    type Netns = FakeNetns;

    fn started(&self) -> Option<ProcessStart> {
        self.process().map(|(started, _)| started)
    }

    fn netns(&self) -> Result<FakeNetns, OpenNetnsError> {
        let (_, netns) = self
            .process()
            .ok_or(OpenNetnsError::NoSuchProcess(self.pid))?;
        Ok(FakeNetns::hold(&self.kernel, netns))
    }

    fn has_ended(&self) -> bool {
        self.process().is_none()
    }

    fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let exit = (!self.has_ended()).then(|| {
            let exit = self.kernel.live_state(|state| {
                let exit = state.exits.entry(self.key).or_insert_with(Arc::default);
                exit.clone()
            });
            exit.unwrap_or_else(|| Arc::new(Notify::new()))
        });
        async move {
            if let Some(exit) = exit {
                exit.notified().await;
            }
        }
    }
}

/// The means to announce addresses in a namespace.
#[derive(Debug)]
pub struct FakeAnnouncer {
    netns: FakeNetns,
}

impl FakeAnnouncer {
    pub(super) fn open(netns: &FakeNetns) -> Self {
        let netns = netns.clone();
        Self { netns }
    }
}

impl Announce for FakeAnnouncer {
    fn announce(
        &self,
        index: LinkIndex,
        _mac: MacAddr,
        address: IpAddr,
    ) -> Result<(), AnnounceError> {
        let netns = self.netns.inode();
        let kernel = self.netns.kernel();
        let told = kernel.live(|kernel| kernel.announce(netns, index, address));
        told.unwrap_or(Err(Errno::NXIO))
            .map_err(|errno| AnnounceError {
                index,
                cause: io::Error::from(errno),
            })
    }
}
