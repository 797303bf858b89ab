//! What a scenario needs of a guest, and the host's end of its channel.
//!
//! The scenarios in `bodies` are written once and run on every kernel the agent runs on: here on
//! network namespaces of the running one, in the simulator on a kernel in memory. A bed has three
//! namespaces, `guest` where links arrive, `box` for a container and `holding`, and a peer on the
//! wire with 192.0.2.1 and 2001:db8::1.

use std::net::IpAddr;
use std::time::Duration;

use agent_protocol::{
    BindError, Binding, Goal, HostSession, KnownTarget, NicReport, Phase, ReceiveLimits,
    SessionEvent, SessionNonce, VersionRange, WantedNic,
};
use nic_model::{Addressing, IpNet, MacAddr, Route};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until};

/// Longest wait for anything that is expected: the agent's own longest deadline and some more, on
/// a machine that has other things to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

pub(crate) const NIC: &str = "nic-abc0123xyz";

/// The NIC's link as somebody sees it who is not the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) index: u64,
    pub(crate) name: String,
    pub(crate) mtu: u64,
    pub(crate) admin: Admin,
    /// Link-local ones left out.
    pub(crate) addresses: Vec<String>,
    pub(crate) default_gateway: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admin {
    Up,
    Down,
}

/// A process in a namespace that it has to itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Container {
    pub(crate) pid: u32,
    pub(crate) inode: u64,
}

/// Bytes both ways.
pub(crate) trait Pipe: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Pipe for T {}

/// One guest with its agent.
pub(crate) trait Bed: Sized {
    /// No link yet, an agent without a session.
    async fn make() -> Self;
    fn host(&mut self) -> &mut Host;
    /// Connects to the agent's channel.
    async fn dial(&mut self) -> Box<dyn Pipe>;

    /// The namespace's name in the guest.
    fn netns(&self, which: &str) -> String;
    fn add_netns(&mut self, which: &str);
    fn remove_netns(&mut self, which: &str);
    /// Switches IPv6 off for every link of a namespace, as `docker run --net none` leaves one.
    fn switch_ipv6_off(&mut self, which: &str);
    /// Makes a link that is none of ours.
    fn add_link(&mut self, which: &str, name: &str, admin: Admin);
    /// Whether that link is as it was made.
    fn has_link(&self, which: &str, name: &str, admin: Admin) -> bool;
    /// Switches the NIC's link on and gives it an address, as a container may; refused when it is
    /// not there any more.
    fn meddle(&mut self, which: &str);
    async fn start_container(&mut self) -> Container;
    fn kill_container(&mut self, container: Container);

    fn plug(&mut self);
    fn unplug(&mut self);
    /// Plugs while the kernel has no room for the events that tell of it.
    async fn plug_while_events_are_lost(&mut self);
    /// Plugs without anybody's being told.
    fn plug_unnoticed(&mut self);
    /// The NIC's link, if it is there.
    fn link(&self, which: &str) -> Option<Facts>;

    fn start_agent(&mut self);
    /// `kill -9`, as the only shutdown there is.
    fn kill_agent(&mut self);

    fn serve_dhcp(&mut self);
    /// Whether the server has given the NIC an address.
    fn has_lease(&self) -> bool;
    /// Waits until the NIC's DHCP client asks.
    async fn dhcp_client_asks(&mut self);
    /// Whether the namespace answers on `address` from the peer, at once.
    async fn answers(&self, which: &str, address: &str) -> bool;
    /// Whether the peer was told where `address` is.
    fn was_announced(&self, address: &str) -> bool;
    /// Something may have changed.
    async fn wait_a_little(&self);

    /// The same with a session.
    async fn start() -> Self {
        let mut bed = Self::make().await;
        bed.connect().await;
        bed
    }

    /// Begins a session as a host that has just started would.
    async fn connect(&mut self) {
        let pipe = self.dial().await;
        self.host().begin(pipe).await;
    }

    fn target(&self, which: &str) -> String {
        format!("netns:{}", self.netns(which))
    }

    /// Asserts that the link waits, bare and down, where nobody can use it.
    fn assert_held(&self) {
        let held = self.link("holding").expect("the link is held");
        assert_eq!(held.admin, Admin::Down, "{held:?}");
        assert!(held.addresses.is_empty(), "{held:?}");
        assert_eq!(self.link("guest"), None);
    }

    /// The same once the agent has come to it.
    async fn assert_held_soon(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.link("holding").is_none() && Instant::now() < deadline {
            self.wait_a_little().await;
        }
        self.assert_held();
        assert_eq!(self.link("box"), None);
    }

    async fn want(&mut self, generation: u64, goal: Goal) {
        self.host().want(generation, goal).await;
    }

    async fn want_bound(&mut self, generation: u64, binding: Binding) {
        let binding = Box::new(binding);
        self.want(generation, Goal::Bound { binding }).await;
    }

    async fn phase(&mut self, is_wanted: impl Fn(&Phase) -> bool) -> NicReport {
        self.host().phase(is_wanted).await
    }

    async fn bound(&mut self) -> NicReport {
        let done = |phase: &Phase| matches!(phase, Phase::Bound { .. } | Phase::Failed { .. });
        let report = self.phase(done).await;
        assert!(matches!(report.phase, Phase::Bound { .. }), "{report:?}");
        report
    }

    /// The next failure.
    async fn error(&mut self) -> BindError {
        let failed = |phase: &Phase| matches!(phase, Phase::Failed { .. });
        let Phase::Failed { error } = self.phase(failed).await.phase else {
            unreachable!("it was waited for");
        };
        error
    }

    /// Bound in `box`.
    async fn bound_bed() -> Self {
        let mut bed = Self::start().await;
        let target = bed.target("box");
        bed.want_bound(1, static_binding(&target)).await;
        bed.plug();
        bed.bound().await;
        bed
    }

    /// The link is in `target`, and its DHCP client waits for a server that is not there.
    async fn waiting_for_a_lease(target: &str, mut bed: Self) -> Self {
        bed.want_bound(1, dhcp_binding(target)).await;
        bed.plug();
        bed.dhcp_client_asks().await;
        bed
    }
}

/// The host's end of a session.
pub(crate) struct Host {
    session: HostSession,
    mac: MacAddr,
    pipe: Option<Box<dyn Pipe>>,
    origin: Instant,
    nonce: u64,
}

impl Host {
    pub(crate) fn new(mac: MacAddr) -> Self {
        Self {
            session: HostSession::new(VersionRange::CURRENT, ReceiveLimits::default()),
            mac,
            pipe: None,
            origin: Instant::now(),
            nonce: 0,
        }
    }

    /// The agent is gone, and the connection with it.
    pub(crate) fn hang_up(&mut self) {
        self.pipe = None;
    }

    async fn begin(&mut self, pipe: Box<dyn Pipe>) {
        self.begin_without_waiting(pipe);
        self.event(|event| matches!(event, SessionEvent::Opened { .. }))
            .await;
    }

    /// Asks for a session over a new connection.
    pub(crate) fn begin_without_waiting(&mut self, pipe: Box<dyn Pipe>) {
        self.pipe = Some(pipe);
        self.nonce += 1;
        self.session
            .start(SessionNonce(self.nonce), self.origin.elapsed());
    }

    fn wanted(&self, generation: u64, goal: Goal) -> WantedNic {
        WantedNic {
            nic: NIC.parse().unwrap(),
            generation,
            path: "02.0/00.0".parse().unwrap(),
            mac: self.mac,
            goal,
            known_target: None,
        }
    }

    async fn want(&mut self, generation: u64, goal: Goal) {
        self.want_offline(generation, goal);
        self.flush().await;
    }

    /// Changes the wish while no session runs.
    pub(crate) fn want_offline(&mut self, generation: u64, goal: Goal) {
        let wanted = self.wanted(generation, goal);
        self.session.want(wanted).unwrap();
    }

    /// Changes what is known of the target while no session runs.
    pub(crate) fn know_offline(&mut self, binding: Binding, known_target: KnownTarget) {
        let binding = Box::new(binding);
        let wanted = WantedNic {
            known_target: Some(known_target),
            ..self.wanted(1, Goal::Bound { binding })
        };
        self.session.want(wanted).unwrap();
    }

    pub(crate) async fn forget(&mut self) {
        self.session.forget(&NIC.parse().unwrap());
        self.flush().await;
    }

    /// The first report of a phase like this; everything before it is passed over.
    async fn phase(&mut self, is_wanted: impl Fn(&Phase) -> bool) -> NicReport {
        let wanted = |event: &SessionEvent| match event {
            SessionEvent::Report(report) => is_wanted(&report.phase),
            SessionEvent::Opened { .. } | SessionEvent::Closed(_) => false,
        };
        let event = self.event(wanted).await;
        let SessionEvent::Report(report) = event else {
            unreachable!("{event:?}");
        };
        report
    }

    async fn event(&mut self, is_wanted: impl Fn(&SessionEvent) -> bool) -> SessionEvent {
        let deadline = Instant::now() + PATIENCE;
        let mut passed = Vec::new();
        while let Some(event) = self.event_until(deadline).await {
            if is_wanted(&event) {
                return event;
            }
            passed.push(event);
        }
        panic!("waited in vain; came: {passed:?}")
    }

    /// The next thing that happens to the session; `None` when nothing does.
    pub(crate) async fn event_until(&mut self, deadline: Instant) -> Option<SessionEvent> {
        loop {
            if let Some(event) = self.session.poll_event() {
                return Some(event);
            }
            if Instant::now() >= deadline {
                return None;
            }
            self.turn(deadline).await;
        }
    }

    /// Sends what is due and waits for bytes, a timeout or the deadline.
    async fn turn(&mut self, deadline: Instant) {
        self.flush().await;
        let due = self.session.next_deadline().map(|due| self.origin + due);
        let pipe = self.pipe.as_mut().expect("connected");
        let mut buffer = [0; 4096];
        tokio::select! {
            biased;
            read = pipe.read(&mut buffer) => {
                let length = read.unwrap();
                assert!(length > 0, "the agent closed the channel");
                self.session.handle_bytes(&buffer[..length], self.origin.elapsed());
            }
            // tidy: sleep because it is the session's own timer
            () = sleep_until(due.unwrap_or(deadline).min(deadline)) => {
                self.session.handle_timeout(self.origin.elapsed());
            }
        }
    }

    async fn flush(&mut self) {
        while let Some(frame) = self.session.poll_transmit() {
            let pipe = self.pipe.as_mut().expect("connected");
            pipe.write_all(&frame).await.unwrap();
        }
    }
}

/// `eth0` in `target` with one address of each family and a default route.
pub(crate) fn static_binding(target: &str) -> Binding {
    let gateway: IpAddr = "192.0.2.1".parse().unwrap();
    let addresses: [IpNet; 2] = [
        "192.0.2.10/24".parse().unwrap(),
        "2001:db8::10/64".parse().unwrap(),
    ];
    Binding {
        target: target.parse().unwrap(),
        link_name: "eth0".parse().unwrap(),
        mtu: 1400.try_into().unwrap(),
        addressing: Addressing::Static {
            addresses: addresses.to_vec(),
        },
        routes: vec![Route {
            destination: "0.0.0.0/0".parse().unwrap(),
            gateway: Some(gateway),
            metric: None,
        }],
    }
}

pub(crate) fn dhcp_binding(target: &str) -> Binding {
    Binding {
        addressing: Addressing::Dhcp { addresses: vec![] },
        routes: vec![],
        ..static_binding(target)
    }
}
