//! A guest made of network namespaces, the agent's real process in it, and the host's end of its
//! channel.
//!
//! ```text
//!   guest: agent, links arrive here     box: the container     peer: the other end of the wire
//!        ens5 ═══════════════════════ veth ═══════════════════════ peer0 192.0.2.1, 2001:db8::1
//! ```
//!
//! A veth has no PCI device, so the agent identifies links by MAC address. Everything is named
//! after the test process and removed on drop.

#![expect(clippy::unwrap_used, reason = "a test's set-up fails by panicking")]

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agent_protocol::{
    Binding, Goal, HostSession, KnownTarget, NicReport, Phase, ReceiveLimits, SessionEvent,
    SessionNonce, VersionRange, WantedNic,
};
use linux_network::Netns;
use nic_model::{Addressing, LinkName, MacAddr, NicId, Route};
use rustix::process::{Pid, Signal, WaitOptions};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep_until, timeout};

/// Longest wait for anything that is expected: the agent's own longest deadline and some more, on
/// a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(40);

pub(crate) const NIC: &str = "nic-abc0123xyz";
static WORLDS: AtomicU64 = AtomicU64::new(0);

/// One guest with its agent.
pub(crate) struct World {
    prefix: String,
    /// Unique on the machine: an agent that searches finds the links of other tests as well.
    mac: MacAddr,
    directory: TempDir,
    agent: Option<Child>,
    host: HostSession,
    stream: Option<UnixStream>,
    origin: Instant,
    nonce: u64,
    helpers: Vec<Child>,
}

impl World {
    /// Namespaces without a link, an agent with a session.
    pub(crate) async fn start() -> Self {
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("nfa{}-{number}", std::process::id());
        let mut world = Self {
            prefix,
            mac: MacAddr::local(unique_bits(number)),
            directory: tempfile::tempdir().unwrap(),
            agent: None,
            host: HostSession::new(VersionRange::CURRENT, ReceiveLimits::default()),
            stream: None,
            origin: Instant::now(),
            nonce: 0,
            helpers: Vec::new(),
        };
        for netns in ["guest", "box", "peer"] {
            world.ip(&["netns", "add", &world.netns(netns)]);
        }
        world.start_agent();
        world.connect().await;
        world
    }

    pub(crate) fn netns(&self, which: &str) -> String {
        format!("{}-{which}", self.prefix)
    }

    /// Starts the agent as the guest's init would.
    pub(crate) fn start_agent(&mut self) {
        let channel = format!("unix:{}", self.socket().display());
        let agent = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", self.netns("guest")))
            .arg(env!("CARGO_BIN_EXE_guest-agent"))
            .args(["--channel", &channel, "--identify-by", "mac"])
            .args(["--holding-netns", &self.netns("holding")])
            .spawn()
            .unwrap();
        self.agent = Some(agent);
    }

    /// `kill -9`, as the only shutdown there is.
    pub(crate) fn kill_agent(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
        std::fs::remove_file(self.socket()).unwrap();
        self.stream = None;
    }

    /// Keeps the agent from running, without its noticing.
    pub(crate) fn stop_agent(&self) {
        let agent = self.agent_pid();
        rustix::process::kill_process(agent, Signal::STOP).unwrap();
        // Returns when all its threads have stopped.
        let stopped = rustix::process::waitpid(Some(agent), WaitOptions::UNTRACED);
        assert!(stopped.unwrap().unwrap().1.stopped());
    }

    pub(crate) fn continue_agent(&self) {
        rustix::process::kill_process(self.agent_pid(), Signal::CONT).unwrap();
    }

    fn agent_pid(&self) -> Pid {
        let agent = self.agent.as_ref().expect("the agent runs");
        Pid::from_child(agent)
    }

    /// Bytes of events that the agent has not read yet in the guest, where only it listens.
    pub(crate) fn unread_link_events(&self) -> u64 {
        let sockets = self.run_in("guest", "cat", &["/proc/net/netlink"]);
        // sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode, net/netlink/af_netlink.c.
        let unread = sockets.lines().skip(1).map(|socket| {
            let unread = socket.split_ascii_whitespace().nth(4).unwrap();
            unread.parse::<u64>().unwrap()
        });
        unread.sum()
    }

    /// Waits until a DHCP client listens in the container: on a packet socket for every protocol
    /// (`ETH_P_ALL`), which nothing else there has.
    pub(crate) async fn dhcp_client_waits(&self) {
        let deadline = Instant::now() + PATIENCE;
        let listens = || {
            let sockets = self.run_in("box", "cat", &["/proc/net/packet"]);
            // sk RefCnt Type Proto Iface R Rmem User Inode, net/packet/af_packet.c.
            let mut protocols = sockets
                .lines()
                .map(|socket| socket.split_ascii_whitespace().nth(3));
            protocols.any(|protocol| protocol == Some("0003"))
        };
        while !listens() {
            assert!(Instant::now() < deadline, "no DHCP client");
            tokio::task::yield_now().await;
        }
    }

    /// Begins a session as a host that has just started would.
    pub(crate) async fn connect(&mut self) {
        let connected = async {
            loop {
                // The socket appears when the agent is ready; nothing else tells.
                match UnixStream::connect(self.socket()).await {
                    Ok(stream) => return stream,
                    // tidy: sleep because no event tells when another program listens
                    Err(_not_yet) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        self.stream = Some(timeout(PATIENCE, connected).await.unwrap());
        self.nonce += 1;
        self.host
            .start(SessionNonce(self.nonce), self.origin.elapsed());
        self.event(|event| matches!(event, SessionEvent::Opened { .. }))
            .await;
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A link arrives in the guest, with carrier: the other end is up before.
    pub(crate) fn plug(&self) {
        self.plug_into("guest");
    }

    /// The same in another namespace than the one where links arrive.
    pub(crate) fn plug_into(&self, netns: &str) {
        let (netns, peer, mac) = (self.netns(netns), self.netns("peer"), self.mac());
        let ens5 = ["type", "veth", "peer", "name", "ens5", "address", &mac];
        let peer0 = |rest: &[&str]| self.ip(&[&["-n", &peer], rest].concat());
        peer0(&[&["link", "add", "peer0"], &ens5[..]].concat());
        peer0(&["addr", "add", "192.0.2.1/24", "dev", "peer0"]);
        peer0(&["addr", "add", "2001:db8::1/64", "dev", "peer0", "nodad"]);
        peer0(&["link", "set", "peer0", "up"]);
        peer0(&["link", "set", "ens5", "netns", &netns]);
    }

    /// The other end goes, and the link with it.
    pub(crate) fn unplug(&self) {
        self.ip(&["-n", &self.netns("peer"), "link", "del", "peer0"]);
    }

    pub(crate) fn ip(&self, arguments: &[&str]) -> String {
        run("ip", arguments)
    }

    /// `ip`, whether it succeeds or not.
    pub(crate) fn try_ip(&self, arguments: &[&str]) {
        drop(output("ip", arguments));
    }

    /// Output of a program in one of the namespaces.
    pub(crate) fn run_in(&self, netns: &str, program: &str, arguments: &[&str]) -> String {
        let netns = format!("--net=/run/netns/{}", self.netns(netns));
        run("nsenter", &[&[netns.as_str(), program], arguments].concat())
    }

    /// Starts a program that runs until the world ends.
    pub(crate) fn spawn_in(&mut self, netns: &str, program: &str, arguments: &[&str]) -> u32 {
        let child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", self.netns(netns)))
            .arg(program)
            .args(arguments)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let pid = child.id();
        self.helpers.push(child);
        pid
    }

    /// Ends the helper with that pid.
    pub(crate) fn kill_helper(&mut self, pid: u32) {
        let helper = self.helpers.iter_mut().find(|child| child.id() == pid);
        let helper = helper.unwrap();
        helper.kill().unwrap();
        helper.wait().unwrap();
    }

    /// Whether a namespace has a link of that name, and how it looks.
    pub(crate) fn link(&self, netns: &str, name: &str) -> Option<String> {
        let netns = self.netns(netns);
        let output = output("ip", &["-n", &netns, "-o", "addr", "show", "dev", name]);
        let link = output_of("ip", &["-n", &netns, "-o", "link", "show", "dev", name])?;
        Some(link + &String::from_utf8_lossy(&output.stdout))
    }

    /// Asserts that the link waits, bare and down, where nobody can use it.
    pub(crate) fn assert_held(&self) {
        let held = self.held().expect("the link is held");
        assert!(held.contains("state DOWN"), "{held}");
        assert!(!held.contains("inet"), "{held}");
        assert_eq!(self.link("guest", "ens5"), None);
    }

    /// The same once the agent has come to it.
    pub(crate) async fn assert_held_soon(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.held().is_none() && Instant::now() < deadline {
            tokio::task::yield_now().await;
        }
        self.assert_held();
        assert_eq!(self.link("box", "eth0"), None);
    }

    /// The NIC's link in the holding namespace, with its addresses.
    pub(crate) fn held(&self) -> Option<String> {
        let netns = self.netns("holding");
        let links = output_of("ip", &["-n", &netns, "-o", "link", "show"])?;
        let held = links
            .lines()
            .find(|link| link.contains(&format!("alias {NIC}")))?;
        let name = held.split([':', '@']).nth(1)?.trim();
        self.link("holding", name)
    }

    fn wanted(&self, generation: u64, goal: Goal) -> WantedNic {
        WantedNic {
            nic: nic(),
            generation,
            path: "02.0/00.0".parse().unwrap(),
            mac: self.mac,
            goal,
            known_target: None,
        }
    }

    pub(crate) fn mac(&self) -> String {
        self.mac.to_string()
    }

    /// Asserts that the container answers on `address` from the peer, at once.
    pub(crate) async fn assert_reachable(&self, netns: &str, address: &str) {
        let address: SocketAddr = (address.parse::<IpAddr>().unwrap(), 7).into();
        let open = |which: &str| Netns::open_named(&self.netns(which).parse().unwrap()).unwrap();
        let listen = move || std::net::TcpListener::bind(address).unwrap();
        let _listener = open(netns).run("listener", listen).await.unwrap();
        let connect = move || std::net::TcpStream::connect_timeout(&address, PATIENCE);
        let connected = open("peer").run("client", connect).await.unwrap();
        assert!(connected.is_ok(), "{address}: {connected:?}");
    }

    /// Declares the NIC.
    pub(crate) async fn want(&mut self, generation: u64, goal: Goal) {
        self.host.want(self.wanted(generation, goal)).unwrap();
        self.flush().await;
    }

    /// Changes the wish while no session runs.
    pub(crate) fn want_offline(&mut self, generation: u64, goal: Goal) {
        self.host.want(self.wanted(generation, goal)).unwrap();
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
            ..self.wanted(1, Goal::Bound { binding })
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

    /// The next report, whatever it says.
    pub(crate) async fn next_phase(&mut self) -> Phase {
        self.phase(|_any| true).await.phase
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
        let stream = self.stream.as_mut().expect("connected");
        let mut buffer = [0; 4096];
        tokio::select! {
            read = stream.read(&mut buffer) => {
                let length = read.unwrap();
                assert!(length > 0, "the agent closed the channel");
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
            let stream = self.stream.as_mut().expect("connected");
            stream.write_all(&frame).await.unwrap();
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for child in self.helpers.iter_mut().chain(self.agent.as_mut()) {
            // It may have ended already.
            child.kill().unwrap_or_default();
            child.wait().map(drop).unwrap_or_default();
        }
        for netns in ["guest", "box", "other", "peer", "holding"] {
            let removed = output("ip", &["netns", "del", &self.netns(netns)]);
            drop(removed);
        }
    }
}

fn output(program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).output().unwrap()
}

fn output_of(program: &str, arguments: &[&str]) -> Option<String> {
    let output = output(program, arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then_some(text)
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = output(program, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn nic() -> NicId {
    NIC.parse().unwrap()
}

/// Process id and number of the world.
fn unique_bits(number: u64) -> [u8; 5] {
    let [_, _, a, b, c, d, ..] = (u64::from(std::process::id()) << 16).to_be_bytes();
    [a, b, c, d, number.to_be_bytes()[7]]
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
        link_name: "eth0".parse::<LinkName>().unwrap(),
        mtu: 1400.try_into().unwrap(),
        addressing: Addressing::Static {
            addresses: vec![
                "192.0.2.10/24".parse().unwrap(),
                "2001:db8::10/64".parse().unwrap(),
            ],
        },
        routes: vec![default_route],
    }
}

pub(crate) fn dhcp_binding(target: &str) -> Binding {
    Binding {
        addressing: Addressing::Dhcp { addresses: vec![] },
        routes: vec![],
        ..static_binding(target)
    }
}
