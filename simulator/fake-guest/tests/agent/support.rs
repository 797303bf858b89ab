//! A simulated guest with its agent, and the host's end of its port.

#![expect(clippy::unwrap_used, reason = "a test's set-up fails by panicking")]

use std::time::Duration;

use agent_protocol::{
    Binding, Goal, HostSession, KnownTarget, NicReport, Phase, ReceiveLimits, SessionEvent,
    SessionNonce, VersionRange, WantedNic,
};
use fake_guest::kernel::{KernelSettings, LinkState, NamespaceView};
use fake_guest::{
    DhcpMode, DhcpServer, FakeGuest, GuestOptions, GuestSignal, NicPlug, PortEnd, Segment,
    SharedRules,
};
use guest_agent::kernel::Carrier;
use misbehaviour::{Rulebook, Script};
use nic_model::{Addressing, IpNet, MacAddr, NetnsName, NicId, PciPath, Route};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// Longest wait for anything that is expected, in virtual time.
const PATIENCE: Duration = Duration::from_secs(40);

/// One guest with its agent.
pub(crate) struct World {
    pub(crate) guest: FakeGuest,
    pub(crate) signals: mpsc::Receiver<GuestSignal>,
    pub(crate) rules: SharedRules,
    pub(crate) segment: Segment,
    host: HostSession,
    port: PortEnd,
    origin: Instant,
    nonce: u64,
}

impl World {
    /// A guest that is up, with a namespace `box` and a session.
    pub(crate) async fn start() -> Self {
        Self::start_as(KernelSettings::default()).await
    }

    pub(crate) async fn start_as(kernel: KernelSettings) -> Self {
        let rules = SharedRules::new(Rulebook::new(7));
        let options = GuestOptions {
            kernel,
            rules: Some(rules.clone()),
            ..GuestOptions::new("vm1".parse().unwrap())
        };
        let (guest, signals) = FakeGuest::new(options);
        guest.power_on();
        guest
            .add_netns(&name("box"))
            .unwrap_or_else(|errno| panic!("{errno}"));
        let segment = Segment::new(dhcp_server());
        segment.with(|server, _now| server.set_mode(DhcpMode::Silent));
        let mut world = Self {
            port: guest.connect(),
            guest,
            signals,
            rules,
            segment,
            host: HostSession::new(VersionRange::CURRENT, ReceiveLimits::default()),
            origin: Instant::now(),
            nonce: 0,
        };
        world.connect().await;
        world
    }

    /// Begins a session as a host that has just started would.
    pub(crate) async fn connect(&mut self) {
        self.port = self.guest.connect();
        self.nonce += 1;
        self.host
            .start(SessionNonce(self.nonce), self.origin.elapsed());
        self.event(|event| matches!(event, SessionEvent::Opened { .. }))
            .await;
    }

    /// Adds a rule.
    pub(crate) fn rule(&self, rule: &str) {
        let script = format!("[[rule]]\nname = \"rule\"\n{rule}");
        let script: Script = toml::from_str(&script).unwrap();
        self.rules.with(|book| {
            book.clear();
            book.add(script.rules[0].clone()).unwrap();
        });
    }

    pub(crate) fn plug(&self) {
        self.guest.plug(NicPlug {
            path: path(),
            mac: mac(),
            mtu: None,
            carrier: Carrier::Present,
            nic: Some(nic()),
            segment: Some(self.segment.clone()),
        });
    }

    pub(crate) fn serve_dhcp(&self) {
        self.segment
            .with(|server, _now| server.set_mode(DhcpMode::Answers));
    }

    /// Lets virtual time pass.
    pub(crate) async fn pass(&self, time: Duration) {
        // tidy: sleep because the clock is virtual: this is how it is moved
        tokio::time::sleep(time).await;
    }

    /// The link of the NIC and whether it is in the namespace of that name.
    pub(crate) fn link_in(&self, netns: &str) -> Option<LinkState> {
        let view = self.guest.view();
        let (space, link) = view.link_of(&path())?;
        space.names.contains(&name(netns)).then(|| link.clone())
    }

    pub(crate) fn space_of_link(&self) -> Option<NamespaceView> {
        let view = self.guest.view();
        view.link_of(&path()).map(|(space, _)| space.clone())
    }

    pub(crate) fn answers(&self, netns: &str, address: &str) -> bool {
        let view = self.guest.view();
        let space = view.named(&name(netns));
        space.is_some_and(|space| space.answers(address.parse().unwrap()))
    }

    /// Asserts that the link waits, bare and down, where nobody can use it.
    pub(crate) fn assert_held(&self) {
        let link = self.link_in("nicferry-holding").expect("the link is held");
        assert_eq!(
            link.admin,
            guest_agent::kernel::AdminState::Down,
            "{link:?}"
        );
        assert!(link.addresses.is_empty(), "{link:?}");
    }

    fn wanted(generation: u64, goal: Goal) -> WantedNic {
        WantedNic {
            nic: nic(),
            generation,
            path: path(),
            mac: mac(),
            goal,
            known_target: None,
        }
    }

    pub(crate) async fn want(&mut self, generation: u64, goal: Goal) {
        self.host.want(Self::wanted(generation, goal)).unwrap();
        self.flush().await;
    }

    pub(crate) async fn want_bound(&mut self, generation: u64, binding: Binding) {
        let binding = Box::new(binding);
        self.want(generation, Goal::Bound { binding }).await;
    }

    /// Changes what is known of the target while no session runs.
    pub(crate) fn know_offline(&mut self, binding: Binding, known_target: KnownTarget) {
        let binding = Box::new(binding);
        let wanted = WantedNic {
            known_target: Some(known_target),
            ..Self::wanted(1, Goal::Bound { binding })
        };
        self.host.want(wanted).unwrap();
    }

    pub(crate) async fn forget(&mut self) {
        self.host.forget(&nic());
        self.flush().await;
    }

    /// The first report of a phase like this; everything before it is passed over.
    pub(crate) async fn phase(&mut self, is_wanted: impl Fn(&Phase) -> bool) -> NicReport {
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

    pub(crate) async fn failed(&mut self) -> NicReport {
        self.phase(|phase| matches!(phase, Phase::Failed { .. }))
            .await
    }

    pub(crate) async fn bound(&mut self) -> NicReport {
        let done = |phase: &Phase| matches!(phase, Phase::Bound { .. } | Phase::Failed { .. });
        let report = self.phase(done).await;
        assert!(matches!(report.phase, Phase::Bound { .. }), "{report:?}");
        report
    }

    async fn event(&mut self, is_wanted: impl Fn(&SessionEvent) -> bool) -> SessionEvent {
        let deadline = Instant::now() + PATIENCE;
        let mut passed = Vec::new();
        loop {
            while let Some(event) = self.host.poll_event() {
                if is_wanted(&event) {
                    return event;
                }
                passed.push(event);
            }
            assert!(
                Instant::now() < deadline,
                "waited in vain; came: {passed:?}"
            );
            self.turn(deadline).await;
        }
    }

    /// Sends what is due and waits for bytes, a timeout or the deadline.
    async fn turn(&mut self, deadline: Instant) {
        self.flush().await;
        let due = self.host.next_deadline().map(|due| self.origin + due);
        let mut buffer = [0; 4096];
        tokio::select! {
            biased;
            read = self.port.read(&mut buffer) => {
                let length = read.unwrap();
                assert!(length > 0, "the port has closed");
                self.host.handle_bytes(&buffer[..length], self.origin.elapsed());
            }
            // tidy: sleep because it is the session's own timer
            () = sleep_until(due.unwrap_or(deadline).min(deadline)) => {
                self.host.handle_timeout(self.origin.elapsed());
            }
        }
    }

    async fn flush(&mut self) {
        while let Some(frame) = self.host.poll_transmit() {
            self.port.write_all(&frame).await.unwrap();
        }
    }
}

pub(crate) fn nic() -> NicId {
    "nic-abc0123xyz".parse().unwrap()
}

pub(crate) fn path() -> PciPath {
    "02.0/00.0".parse().unwrap()
}

pub(crate) fn mac() -> MacAddr {
    "52:54:00:12:34:56".parse().unwrap()
}

pub(crate) fn name(netns: &str) -> NetnsName {
    netns.parse().unwrap()
}

fn dhcp_server() -> DhcpServer {
    let pool = ([192, 0, 2, 100].into(), [192, 0, 2, 101].into());
    let router = Some([192, 0, 2, 1].into());
    DhcpServer::new(
        "192.0.2.0/24".parse().unwrap(),
        router,
        pool,
        Duration::from_secs(120),
    )
    .unwrap()
}

/// `eth0` in `target` with one address of each family and a default route.
pub(crate) fn static_binding(target: &str) -> Binding {
    let default_route = Route {
        destination: "0.0.0.0/0".parse().unwrap(),
        gateway: Some("192.0.2.1".parse().unwrap()),
        metric: None,
    };
    Binding {
        target: target.parse().unwrap(),
        link_name: "eth0".parse().unwrap(),
        mtu: 1400.try_into().unwrap(),
        addressing: Addressing::Static {
            addresses: addresses(&["192.0.2.10/24", "2001:db8::10/64"]),
        },
        routes: vec![default_route],
    }
}

pub(crate) fn addresses(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

pub(crate) fn dhcp_binding(target: &str) -> Binding {
    Binding {
        addressing: Addressing::Dhcp { addresses: vec![] },
        routes: vec![],
        ..static_binding(target)
    }
}
