//! What the agent needs of the kernel it runs on.
//!
//! The agent's loop is the same in a virtual machine and in a guest that is simulated in memory, so
//! it reaches the kernel through these traits alone. There is one real implementation,
//! [`LinuxKernel`]; whatever else implements them has to refuse what Linux refuses, with the same
//! errno.
//!
//! ```text
//!   GuestKernel ─┬─ Netns ──connect──► Rtnetlink   (ask and change)
//!                │     └──watch_links► LinkEvents  (be told)
//!                ├─ HeldProcess, NameEvents        (targets that end)
//!                ├─ Announce, DhcpClient           (what leaves on the wire)
//!                └─ device paths, boot id, passages
//! ```
//!
//! Handles are owned by whoever holds them: a namespace lives as long as a handle to it does, and
//! what runs on its own (a DHCP client, a watch) ends when its handle is dropped.

pub mod linux;

use std::fmt;
use std::future;
use std::io;
use std::net::IpAddr;

use agent_protocol::BindStep;
pub use linux_network::announce::{AnnounceError, OpenAnnouncerError};
pub use linux_network::sysctl::{SetSysctlError, SysctlError};
pub use linux_network::{
    AddAddressError, AddRouteError, AddressView, AdminState, Carrier, ConnectNetlinkError,
    DuplicateDetection, Errno, GetLinkError, LinkChange, LinkEvent, LinkIndex, LinkView,
    ListAddressesError, ListLinksError, ListRoutesError, NetlinkError, OpenNetnsError,
    RemoveAddressError, RouteView, SetLinkError, WatchLinksError,
};
use nic_model::{
    BootId, IpNet, LinkName, MacAddr, NetnsInode, NetnsName, NicId, PciPath, ProcessStart, Route,
};

pub use crate::lease::{FIRST_LEASE_DEADLINE, LeaseLink, LeaseReporter};
pub(crate) use linux::open_channel;
pub use linux::{ChannelKind, InvalidChannel, LinuxKernel};
pub use nic_binding::{Lease, LeaseSight};

/// The kernel of the guest.
pub trait GuestKernel: Clone + fmt::Debug + Send + Sync + 'static {
    /// A network namespace, held open.
    type Netns: Netns;
    /// A connection into one.
    type Rtnetlink: Rtnetlink<Netns = Self::Netns>;
    /// A subscription to the links of one.
    type LinkEvents: LinkEvents;
    /// Tells when a name of a namespace goes.
    type NameEvents: NameEvents;
    /// A process, held so that its number cannot become another's unnoticed.
    type Process: HeldProcess<Netns = Self::Netns>;
    /// Tells the segment of addresses.
    type Announcer: Announce;
    /// A DHCP client at work on one link.
    type DhcpClient: DhcpClient;

    /// Made anew at each boot.
    ///
    /// # Errors
    /// When it cannot be read.
    fn boot_id(&self) -> io::Result<BootId>;

    /// The guest's own namespace, where links arrive.
    ///
    /// # Errors
    /// When it cannot be opened.
    fn own_netns(&self) -> Result<Self::Netns, OpenNetnsError>;

    /// The namespace of that name.
    ///
    /// # Errors
    /// When there is none, or the name leads to something else.
    fn named_netns(&self, name: &NetnsName) -> Result<Self::Netns, OpenNetnsError>;

    /// The same, made if there is none. It outlives the agent.
    ///
    /// # Errors
    /// When it can be neither opened nor made.
    fn named_netns_or_new(&self, name: &NetnsName) -> Result<Self::Netns, OpenNetnsError>;

    /// Every namespace that has a name or in which a process lives, as far as it can be opened.
    /// One may come more than once.
    fn reachable_netns(&self) -> impl Iterator<Item = Self::Netns> + Send;

    /// Connects into a namespace.
    fn connect(
        &self,
        netns: &Self::Netns,
    ) -> impl Future<Output = Result<Self::Rtnetlink, ConnectNetlinkError>> + Send;

    /// The same and the means to announce addresses there, in one go.
    fn connect_target(
        &self,
        netns: &Self::Netns,
    ) -> impl Future<Output = Result<TargetEnds<Self>, OpenAnnouncerError>> + Send;

    /// Subscribes to the links of a namespace. Links that are there already are not told of.
    fn watch_links(
        &self,
        netns: &Self::Netns,
    ) -> impl Future<Output = Result<Self::LinkEvents, ConnectNetlinkError>> + Send;

    /// Watches the names of namespaces.
    ///
    /// # Errors
    /// When they cannot be watched.
    fn watch_names(&self) -> io::Result<Self::NameEvents>;

    /// Switches IPv6 on or off for the links of a namespace.
    fn set_ipv6(
        &self,
        netns: &Self::Netns,
        links: Ipv6Scope<'_>,
        setting: Ipv6,
    ) -> impl Future<Output = Result<(), SetSysctlError>> + Send;

    /// Holds the process that has that number now; `None` when there is none.
    fn hold_process(&self, pid: u32) -> Option<Self::Process>;

    /// Where the device of a link is plugged, whatever namespace the link is in; `None` for a link
    /// without a PCI device.
    fn device_path(&self, link: &LinkView) -> Option<PciPath>;

    /// Whether a device is plugged there, whether it has a link or not.
    fn has_device(&self, path: &PciPath) -> bool;

    /// Starts a DHCP client on a link. It reports until it is stopped or dropped.
    fn start_dhcp(
        &self,
        netns: &Self::Netns,
        link: LeaseLink,
        reporter: LeaseReporter,
    ) -> Self::DhcpClient;

    /// The agent comes by a step. Here a simulated kernel may hold the agent up or end it; a real
    /// one does nothing but in builds with failpoints.
    fn pass(
        &self,
        _nic: &NicId,
        _step: BindStep,
        _side: StepSide,
    ) -> impl Future<Output = ()> + Send {
        future::ready(())
    }
}

/// What the agent has in a target.
pub type TargetEnds<K> = (<K as GuestKernel>::Announcer, <K as GuestKernel>::Rtnetlink);

/// A network namespace, held open; equal to another handle of the same one.
pub trait Netns: Clone + fmt::Debug + PartialEq + Send + Sync {
    /// Which it is.
    fn inode(&self) -> NetnsInode;
}

/// Asking for and changing links, addresses and routes of one namespace. The methods do what those
/// of the same name of [`linux_network::Netlink`] do, and fail as they do.
pub trait Rtnetlink: Clone + fmt::Debug + Send + Sync {
    /// Where a link can be moved to.
    type Netns: Netns;

    /// Every link.
    fn links(&self) -> impl Future<Output = Result<Vec<LinkView>, ListLinksError>> + Send;

    /// The link with that number.
    fn link(
        &self,
        index: LinkIndex,
    ) -> impl Future<Output = Result<Option<LinkView>, GetLinkError>> + Send;

    /// The link of that name.
    fn link_by_name(
        &self,
        name: &LinkName,
    ) -> impl Future<Output = Result<Option<LinkView>, GetLinkError>> + Send;

    /// Changes a link.
    fn set_link(
        &self,
        index: LinkIndex,
        change: LinkChange<'_, Self::Netns>,
    ) -> impl Future<Output = Result<(), SetLinkError>> + Send;

    /// The addresses of a link.
    fn addresses(
        &self,
        index: LinkIndex,
    ) -> impl Future<Output = Result<Vec<AddressView>, ListAddressesError>> + Send;

    /// Adds an address to a link.
    fn add_address(
        &self,
        index: LinkIndex,
        address: IpNet,
        detection: DuplicateDetection,
    ) -> impl Future<Output = Result<(), AddAddressError>> + Send;

    /// Removes an address from a link; that it has it not is fine.
    fn remove_address(
        &self,
        index: LinkIndex,
        address: IpNet,
    ) -> impl Future<Output = Result<(), RemoveAddressError>> + Send;

    /// The routes through a link.
    fn routes(
        &self,
        index: LinkIndex,
    ) -> impl Future<Output = Result<Vec<RouteView>, ListRoutesError>> + Send;

    /// Adds a route through a link.
    fn add_route(
        &self,
        index: LinkIndex,
        route: &Route,
    ) -> impl Future<Output = Result<(), AddRouteError>> + Send;
}

/// Being told of links.
pub trait LinkEvents: Send {
    /// Waits for the next event. Dropping the future loses none.
    fn next(&mut self) -> impl Future<Output = Result<LinkEvent, WatchLinksError>> + Send;
}

/// Being told of names of namespaces.
pub trait NameEvents: Send {
    /// Waits until a name has gone, which one is to be looked up. Dropping the future loses none.
    fn name_gone(&mut self) -> impl Future<Output = ()> + Send;
}

/// A process that is held.
pub trait HeldProcess: fmt::Debug + Send + Sync {
    /// The namespace it is in.
    type Netns: Netns;

    /// When it started; `None` once it has ended.
    fn started(&self) -> Option<ProcessStart>;

    /// Its namespace.
    ///
    /// # Errors
    /// When it has ended, or its namespace may not be opened.
    fn netns(&self) -> Result<Self::Netns, OpenNetnsError>;

    /// Whether it has ended.
    fn has_ended(&self) -> bool;

    /// Waits for its end; for ever where nothing tells of it.
    fn ended(&self) -> impl Future<Output = ()> + Send + 'static;
}

/// Telling the segment where addresses are.
pub trait Announce: fmt::Debug + Send + Sync {
    /// Sends a gratuitous ARP or an unsolicited neighbour advertisement.
    ///
    /// # Errors
    /// When the link is down or gone.
    fn announce(
        &self,
        index: LinkIndex,
        mac: MacAddr,
        address: IpAddr,
    ) -> Result<(), AnnounceError>;
}

/// A DHCP client at work.
pub trait DhcpClient: fmt::Debug + Send + Sync {
    /// Gives the lease back and ends.
    fn stop(self) -> impl Future<Output = ()> + Send;
}

/// Which links of a namespace a setting is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ipv6Scope<'a> {
    /// Those that are there and those that will come.
    All,
    /// This one.
    Link(&'a LinkName),
}

/// Whether a link may have IPv6 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ipv6 {
    /// It may.
    On,
    /// It may not, and loses those it has.
    Off,
}

/// Which side of a step the agent comes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepSide {
    /// It has not been tried.
    Before,
    /// It is over, well or not, and the host has not been told.
    After,
}

/// The name of a step at which a test can have the agent fail, such as `set-up`.
#[must_use]
pub fn step_name(step: BindStep) -> &'static str {
    match step {
        BindStep::Hold => "hold",
        BindStep::Enter => "enter",
        BindStep::SetMtu => "set-mtu",
        BindStep::SetAddresses => "set-addresses",
        BindStep::SetUp => "set-up",
        BindStep::SetRoutes => "set-routes",
        BindStep::Lease => "lease",
        BindStep::Announce => "announce",
        BindStep::Verify => "verify",
        BindStep::Release => "release",
    }
}
