//! The kernel of a running Linux.

mod channel;
mod devices;
mod dhcp;
mod namespaces;
mod process;

use std::net::IpAddr;
use std::{fs, io};

use linux_network::announce::Announcer;
use linux_network::{LinkWatch, sysctl};
use nic_model::{BootId, IpNet, LinkName, MacAddr, NetnsInode, NetnsName, PciPath, Route};

pub(crate) use channel::open_channel;
pub use channel::{ChannelKind, InvalidChannel};
pub use dhcp::LinuxDhcpClient;
pub use process::{LinuxNameEvents, LinuxProcess};

use super::{
    AddAddressError, AddRouteError, AddressView, Announce, AnnounceError, ConnectNetlinkError,
    DuplicateDetection, GetLinkError, GuestKernel, Ipv6, Ipv6Scope, LeaseLink, LeaseReporter,
    LinkChange, LinkEvent, LinkEvents, LinkIndex, LinkView, ListAddressesError, ListLinksError,
    ListRoutesError, OpenAnnouncerError, OpenNetnsError, RemoveAddressError, RouteView, Rtnetlink,
    SetLinkError, SetSysctlError, WatchLinksError,
};

/// The kernel that this process runs on. Needs the privileges of the network's administrator.
#[derive(Debug, Clone, Copy, Default)]
pub struct LinuxKernel;

impl GuestKernel for LinuxKernel {
    type Netns = linux_network::Netns;
    type Rtnetlink = linux_network::Netlink;
    type LinkEvents = LinkWatch;
    type NameEvents = LinuxNameEvents;
    type Process = LinuxProcess;
    type Announcer = LinuxAnnouncer;
    type DhcpClient = LinuxDhcpClient;

    fn boot_id(&self) -> io::Result<BootId> {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        text.trim_end().parse().map_err(io::Error::other)
    }

    fn own_netns(&self) -> Result<Self::Netns, OpenNetnsError> {
        linux_network::Netns::own()
    }

    fn named_netns(&self, name: &NetnsName) -> Result<Self::Netns, OpenNetnsError> {
        linux_network::Netns::open_named(name)
    }

    fn named_netns_or_new(&self, name: &NetnsName) -> Result<Self::Netns, OpenNetnsError> {
        linux_network::Netns::named_or_create(name)
    }

    fn reachable_netns(&self) -> impl Iterator<Item = Self::Netns> + Send {
        namespaces::reachable()
    }

    async fn connect(&self, netns: &Self::Netns) -> Result<Self::Rtnetlink, ConnectNetlinkError> {
        linux_network::Netlink::connect(netns).await
    }

    async fn connect_target(
        &self,
        netns: &Self::Netns,
    ) -> Result<(Self::Announcer, Self::Rtnetlink), OpenAnnouncerError> {
        let (announcer, netlink) = Announcer::open_with_netlink(netns).await?;
        let announcer = LinuxAnnouncer {
            announcer: Some(announcer),
        };
        Ok((announcer, netlink))
    }

    async fn watch_links(
        &self,
        netns: &Self::Netns,
    ) -> Result<Self::LinkEvents, ConnectNetlinkError> {
        LinkWatch::subscribe(netns).await
    }

    fn watch_names(&self) -> io::Result<Self::NameEvents> {
        LinuxNameEvents::subscribe()
    }

    async fn set_ipv6(
        &self,
        netns: &Self::Netns,
        links: Ipv6Scope<'_>,
        setting: Ipv6,
    ) -> Result<(), SetSysctlError> {
        let value = match setting {
            Ipv6::On => "0",
            Ipv6::Off => "1",
        };
        let scopes = match links {
            Ipv6Scope::All => vec!["all", "default"],
            Ipv6Scope::Link(name) => vec![name.as_str()],
        };
        for scope in scopes {
            let setting = format!("ipv6/conf/{scope}/disable_ipv6");
            sysctl::set(netns, &setting, value).await?;
        }
        Ok(())
    }

    fn hold_process(&self, pid: u32) -> Option<Self::Process> {
        LinuxProcess::hold(pid)
    }

    fn device_path(&self, link: &LinkView) -> Option<PciPath> {
        devices::pci_path(link)
    }

    fn has_device(&self, path: &PciPath) -> bool {
        devices::is_plugged(path)
    }

    fn start_dhcp(
        &self,
        netns: &Self::Netns,
        link: LeaseLink,
        reporter: LeaseReporter,
    ) -> Self::DhcpClient {
        LinuxDhcpClient::start(netns, link, reporter)
    }

    #[cfg(feature = "failpoints")]
    async fn pass(
        &self,
        _nic: &nic_model::NicId,
        step: agent_protocol::BindStep,
        side: super::StepSide,
    ) {
        crate::failpoint::hit(step, side);
    }
}

impl super::Netns for linux_network::Netns {
    fn inode(&self) -> NetnsInode {
        self.inode()
    }
}

impl Rtnetlink for linux_network::Netlink {
    type Netns = linux_network::Netns;

    async fn links(&self) -> Result<Vec<LinkView>, ListLinksError> {
        self.links().await
    }

    async fn link(&self, index: LinkIndex) -> Result<Option<LinkView>, GetLinkError> {
        self.link(index).await
    }

    async fn link_by_name(&self, name: &LinkName) -> Result<Option<LinkView>, GetLinkError> {
        self.link_by_name(name).await
    }

    async fn set_link(&self, index: LinkIndex, change: LinkChange<'_>) -> Result<(), SetLinkError> {
        self.set_link(index, change).await
    }

    async fn addresses(&self, index: LinkIndex) -> Result<Vec<AddressView>, ListAddressesError> {
        self.addresses(index).await
    }

    async fn add_address(
        &self,
        index: LinkIndex,
        address: IpNet,
        detection: DuplicateDetection,
    ) -> Result<(), AddAddressError> {
        self.add_address(index, address, detection).await
    }

    async fn remove_address(
        &self,
        index: LinkIndex,
        address: IpNet,
    ) -> Result<(), RemoveAddressError> {
        self.remove_address(index, address).await
    }

    async fn routes(&self, index: LinkIndex) -> Result<Vec<RouteView>, ListRoutesError> {
        self.routes(index).await
    }

    async fn add_route(&self, index: LinkIndex, route: &Route) -> Result<(), AddRouteError> {
        self.add_route(index, route).await
    }
}

impl LinkEvents for LinkWatch {
    async fn next(&mut self) -> Result<LinkEvent, WatchLinksError> {
        self.next().await
    }
}

/// A packet socket in a target. It is closed aside: that waits for an RCU grace period
/// (`packet_release`, Linux 6.1), and the link should not.
#[derive(Debug)]
pub struct LinuxAnnouncer {
    /// Until it is dropped.
    announcer: Option<Announcer>,
}

impl Announce for LinuxAnnouncer {
    fn announce(
        &self,
        index: LinkIndex,
        mac: MacAddr,
        address: IpAddr,
    ) -> Result<(), AnnounceError> {
        let Some(announcer) = &self.announcer else {
            return Ok(());
        };
        match address {
            IpAddr::V4(address) => announcer.gratuitous_arp(index, mac, address),
            IpAddr::V6(address) => {
                announcer.unsolicited_neighbour_advertisement(index, mac, address)
            }
        }
    }
}

impl Drop for LinuxAnnouncer {
    fn drop(&mut self) {
        // Without a runtime the process is ending, and nobody waits.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let announcer = self.announcer.take();
            runtime.spawn_blocking(move || drop(announcer));
        }
    }
}
