//! The kernel as the agent knows one.

use std::fmt;
use std::io;
use std::sync::Arc;

use agent_protocol::BindStep;
use guest_agent::kernel::{
    ConnectNetlinkError, Errno, GuestKernel, Ipv6, Ipv6Scope, LeaseLink, LeaseReporter, LinkIndex,
    LinkView, OpenAnnouncerError, OpenNetnsError, SetSysctlError, StepSide, SysctlError, step_name,
};
use misbehaviour::{Effect, Side};
use nic_model::{BootId, NetnsInode, NetnsName, NicId, PciPath};
use tokio::time::sleep;

use super::dhcp_client::FakeDhcpClient;
use super::handles::{
    FakeAnnouncer, FakeLinkEvents, FakeNameEvents, FakeNetns, FakeProcess, FakeRtnetlink,
};
use super::inner::{Inner, State};
use super::port::PortEnd;
use super::{GuestOptions, Segment};
use crate::kernel::Kernel;

/// A handle of a guest's kernel in one of its lives. After a reset it reaches nothing any more.
#[derive(Clone)]
pub struct FakeKernel {
    guest: Arc<Inner>,
    life: u64,
}

impl fmt::Debug for FakeKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { guest, life } = self;
        write!(f, "FakeKernel({}, {life})", guest.options.vm)
    }
}

impl FakeKernel {
    pub(super) fn new(guest: Arc<Inner>, life: u64) -> Self {
        Self { guest, life }
    }

    pub(super) fn life(&self) -> u64 {
        self.life
    }

    pub(super) fn options(&self) -> &GuestOptions {
        &self.guest.options
    }

    pub(super) fn listen(&self) -> PortEnd {
        self.guest.port.listen()
    }

    /// Does something to the kernel; `None` when it is another life's.
    pub(super) fn live<T>(&self, work: impl FnOnce(&mut Kernel) -> T) -> Option<T> {
        self.live_state(|state| work(state.kernel()))
    }

    pub(super) fn live_state<T>(&self, work: impl FnOnce(&mut State) -> T) -> Option<T> {
        self.guest.with_state(|state| {
            let lives = state.kernel().life() == self.life;
            lives.then(|| work(state))
        })
    }

    /// Takes what has come already; `None` in another life.
    pub(super) fn take<T>(&self, work: impl FnOnce(&mut State) -> T) -> Option<T> {
        self.guest.take(|state| {
            let lives = state.kernel().life() == self.life;
            lives.then(|| work(state))
        })
    }

    /// Waits while the guest's virtual CPUs stand still.
    pub(super) async fn running(&self) {
        self.guest.running().await;
    }

    pub(super) fn consult(&self, operation: &str, nic: Option<&NicId>) -> Option<Effect> {
        self.guest.consult(operation, nic)
    }

    pub(super) fn has_rules(&self) -> bool {
        self.guest.options.rules.is_some()
    }

    pub(super) fn nic_of(&self, netns: NetnsInode, index: LinkIndex) -> Option<NicId> {
        let path = self.path_of(netns, index)?;
        self.guest.nic_at(&path)
    }

    pub(super) fn segment_of(&self, netns: NetnsInode, index: LinkIndex) -> Option<Segment> {
        let path = self.path_of(netns, index)?;
        self.guest.segment_at(&path)
    }

    pub(super) fn take_failure(&self) -> Option<Errno> {
        self.live_state(|state| state.failing.take()).flatten()
    }

    fn path_of(&self, netns: NetnsInode, index: LinkIndex) -> Option<PciPath> {
        self.live(|kernel| kernel.path_of_link(netns, index))
            .flatten()
    }

    fn open(&self, netns: Option<NetnsInode>, of: &str) -> Result<FakeNetns, OpenNetnsError> {
        let netns = netns.ok_or_else(|| OpenNetnsError::System {
            of: of.to_owned(),
            step: "open it",
            cause: io::Error::from(Errno::IO),
        })?;
        Ok(FakeNetns::hold(self, netns))
    }

    /// Dies, and lets the service manager see to it.
    async fn crash(&self) {
        self.live_state(|state| {
            state.end_agent();
            self.guest.start(state, self.guest.options.restart);
        });
        std::future::pending().await
    }
}

impl GuestKernel for FakeKernel {
    type Netns = FakeNetns;
    type Rtnetlink = FakeRtnetlink;
    type LinkEvents = FakeLinkEvents;
    type NameEvents = FakeNameEvents;
    type Process = FakeProcess;
    type Announcer = FakeAnnouncer;
    type DhcpClient = FakeDhcpClient;

    fn boot_id(&self) -> io::Result<BootId> {
        let boot_id = self.live(|kernel| kernel.boot_id());
        boot_id.ok_or_else(|| io::Error::from(Errno::IO))
    }

    fn own_netns(&self) -> Result<FakeNetns, OpenNetnsError> {
        self.open(self.live(|kernel| kernel.own_netns()), "of the guest")
    }

    fn named_netns(&self, name: &NetnsName) -> Result<FakeNetns, OpenNetnsError> {
        match self.live(|kernel| kernel.named_netns(name)) {
            Some(Err(_no_such_name)) => Err(OpenNetnsError::NoSuchName(name.clone())),
            found => self.open(found.and_then(Result::ok), name.as_str()),
        }
    }

    fn named_netns_or_new(&self, name: &NetnsName) -> Result<FakeNetns, OpenNetnsError> {
        let found = self.live(|kernel| {
            let named = kernel.named_netns(name);
            named.or_else(|_none| kernel.add_netns(name))
        });
        self.open(found.and_then(Result::ok), name.as_str())
    }

    fn reachable_netns(&self) -> impl Iterator<Item = FakeNetns> + Send {
        let reachable = self.live(|kernel| kernel.reachable_netns());
        let reachable = reachable.unwrap_or_default().into_iter();
        reachable.map(|netns| FakeNetns::hold(self, netns))
    }

    async fn connect(&self, netns: &FakeNetns) -> Result<FakeRtnetlink, ConnectNetlinkError> {
        Ok(FakeRtnetlink::connect(netns))
    }

    async fn connect_target(
        &self,
        netns: &FakeNetns,
    ) -> Result<(FakeAnnouncer, FakeRtnetlink), OpenAnnouncerError> {
        Ok((FakeAnnouncer::open(netns), FakeRtnetlink::connect(netns)))
    }

    async fn watch_links(&self, netns: &FakeNetns) -> Result<FakeLinkEvents, ConnectNetlinkError> {
        Ok(FakeLinkEvents::subscribe(netns))
    }

    fn watch_names(&self) -> io::Result<FakeNameEvents> {
        Ok(FakeNameEvents::subscribe(self))
    }

    async fn set_ipv6(
        &self,
        netns: &FakeNetns,
        links: Ipv6Scope<'_>,
        setting: Ipv6,
    ) -> Result<(), SetSysctlError> {
        use guest_agent::kernel::Netns as _;
        let set = self.live(|kernel| kernel.set_ipv6(netns.inode(), links, setting));
        set.unwrap_or(Err(Errno::NOENT))
            .map_err(|errno| SetSysctlError {
                setting: "ipv6/conf".to_owned(),
                value: format!("{setting:?}"),
                cause: SysctlError::File(errno.into()),
            })
    }

    fn hold_process(&self, pid: u32) -> Option<FakeProcess> {
        FakeProcess::hold(self, pid)
    }

    fn device_path(&self, link: &LinkView) -> Option<PciPath> {
        let name = link.parent_device.as_deref()?;
        self.live(|kernel| kernel.path_of_virtio(name)).flatten()
    }

    fn has_device(&self, path: &PciPath) -> bool {
        self.live(|kernel| kernel.has_device(path))
            .unwrap_or_default()
    }

    fn start_dhcp(
        &self,
        netns: &FakeNetns,
        link: LeaseLink,
        reporter: LeaseReporter,
    ) -> FakeDhcpClient {
        FakeDhcpClient::start(netns, link, reporter)
    }

    /// One rule decides about a whole step: it is asked before, and what it wants after is kept
    /// until then.
    async fn pass(&self, nic: &NicId, step: BindStep, side: StepSide) {
        self.running().await;
        if !self.has_rules() {
            return;
        }
        if side == StepSide::After {
            if self.live_state(State::take_crash) == Some(true) {
                self.crash().await;
            }
            return;
        }
        let operation = format!("agent.{}", step_name(step));
        match self.consult(&operation, Some(nic)) {
            Some(Effect::Delay(span)) => sleep(span.0).await,
            Some(Effect::Error { text, .. }) => {
                self.live_state(|state| state.failing = Some(errno(&text)));
            }
            Some(Effect::Crash(Side::Before)) => self.crash().await,
            Some(Effect::Crash(Side::After)) => {
                self.live_state(|state| state.crash_after_step = true);
            }
            _ => {}
        }
    }
}

/// The errno that a rule names; `EIO` for any other text.
fn errno(text: &str) -> Errno {
    const NAMED: [(&str, Errno); 12] = [
        ("EACCES", Errno::ACCESS),
        ("EAGAIN", Errno::AGAIN),
        ("EBUSY", Errno::BUSY),
        ("EEXIST", Errno::EXIST),
        ("EINVAL", Errno::INVAL),
        ("ENETDOWN", Errno::NETDOWN),
        ("ENETUNREACH", Errno::NETUNREACH),
        ("ENOBUFS", Errno::NOBUFS),
        ("ENODEV", Errno::NODEV),
        ("ENOMEM", Errno::NOMEM),
        ("EOPNOTSUPP", Errno::OPNOTSUPP),
        ("EPERM", Errno::PERM),
    ];
    let named = NAMED.iter().find(|(name, _)| *name == text);
    named.map_or(Errno::IO, |(_, errno)| *errno)
}
