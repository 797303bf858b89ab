//! The bed of the shared scenarios on a simulated guest.

use std::net::IpAddr;
use std::time::Duration;

use agent_protocol::{NicReport, SessionEvent};
use fake_guest::kernel::{KernelSettings, LinkState};
use fake_guest::{
    DhcpMode, DhcpServer, FakeGuest, GuestOptions, GuestSignal, NicPlug, Segment, SharedRules,
};
use guest_agent::kernel::{AdminState, Carrier, Ipv6, LinkChange};
use misbehaviour::{Rulebook, Script};
use nic_model::{MacAddr, NetnsInode, NetnsName, PciPath};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::bed::{Admin, Bed, Container, Facts, Host, NIC, PATIENCE, Pipe};

/// How often somebody looks who waits for something.
const A_LITTLE: Duration = Duration::from_millis(10);

/// One guest with its agent.
pub(crate) struct Fake {
    pub(crate) guest: FakeGuest,
    pub(crate) signals: mpsc::Receiver<GuestSignal>,
    segment: Segment,
    rules: SharedRules,
    host: Host,
    made: Instant,
}

impl Fake {
    /// A bed whose kernel behaves in a way of its own.
    pub(crate) fn with(kernel: KernelSettings) -> Self {
        let rules = SharedRules::new(Rulebook::new(7));
        let options = GuestOptions {
            kernel,
            rules: Some(rules.clone()),
            holding: name("holding"),
            ..GuestOptions::new("vm1".parse().unwrap())
        };
        let (guest, signals) = FakeGuest::new(options);
        guest.power_on();
        let segment = Segment::new(dhcp_server());
        segment.with(|server, _now| server.set_mode(DhcpMode::Silent));
        let mut bed = Self {
            guest,
            signals,
            segment,
            rules,
            host: Host::new(mac()),
            made: Instant::now(),
        };
        bed.furnish();
        bed
    }

    /// What a boot does not leave: names, and the container's namespace.
    pub(crate) fn furnish(&mut self) {
        self.guest.with_kernel(|kernel| {
            let own = kernel.own_netns();
            kernel.name_netns(own, &name("guest")).unwrap();
        });
        self.add_netns("box");
    }

    /// Puts one rule in force, and nothing else.
    pub(crate) fn rule(&self, rule: &str) {
        let script = format!("[[rule]]\nname = \"rule\"\n{rule}");
        let script: Script = toml::from_str(&script).unwrap();
        self.rules.with(|book| {
            book.clear();
            book.add(script.rules[0].clone()).unwrap();
        });
    }

    pub(crate) fn no_rule(&self) {
        self.rules.with(Rulebook::clear);
    }

    /// Hears reports for some time, as hostd does: a session that has ended is begun anew.
    pub(crate) async fn listen(&mut self, time: Duration) -> String {
        let deadline = Instant::now() + time;
        let mut heard = String::new();
        while let Some(event) = self.host.event_until(deadline).await {
            heard += &format!("{:?} {event:?}\n", Instant::now().duration_since(self.made));
            if matches!(event, SessionEvent::Closed(_)) {
                let pipe = self.dial().await;
                self.host.begin_without_waiting(pipe);
            }
        }
        heard
    }

    /// How the NIC stands when nothing more comes of a generation for a while.
    pub(crate) async fn latest(&mut self, generation: u64) -> NicReport {
        let deadline = Instant::now() + PATIENCE;
        let mut latest = None;
        while let Some(event) = self.host.event_until(deadline).await {
            match event {
                SessionEvent::Report(report) if report.generation == generation => {
                    latest = Some(report);
                }
                SessionEvent::Closed(_) => {
                    let pipe = self.dial().await;
                    self.host.begin_without_waiting(pipe);
                }
                SessionEvent::Report(_) | SessionEvent::Opened { .. } => {}
            }
        }
        latest.expect("there is a report of that generation")
    }

    /// Lets virtual time pass.
    pub(crate) async fn pass(&self, time: Duration) {
        // tidy: sleep because the clock is virtual, and this is how it goes on
        tokio::time::sleep(time).await;
    }

    pub(crate) fn segment(&self, mode: DhcpMode) {
        self.segment.with(|server, _now| server.set_mode(mode));
    }

    pub(crate) fn has_device(&self) -> bool {
        let view = self.guest.view();
        view.devices.iter().any(|device| device.path == path())
    }

    fn state_of_link(&self, which: &str) -> Option<LinkState> {
        let view = self.guest.view();
        let (space, link) = view.link_of(&path())?;
        space.names.contains(&name(which)).then(|| link.clone())
    }

    fn inode(&self, which: &str) -> NetnsInode {
        let view = self.guest.view();
        view.named(&name(which)).unwrap().inode
    }
}

impl Bed for Fake {
    async fn make() -> Self {
        Self::with(KernelSettings::default())
    }

    fn host(&mut self) -> &mut Host {
        &mut self.host
    }

    async fn dial(&mut self) -> Box<dyn Pipe> {
        Box::new(self.guest.connect())
    }

    fn netns(&self, which: &str) -> String {
        which.to_owned()
    }

    fn add_netns(&mut self, which: &str) {
        self.guest.add_netns(&name(which)).unwrap();
    }

    fn remove_netns(&mut self, which: &str) {
        self.guest.remove_netns(&name(which)).unwrap();
    }

    fn switch_ipv6_off(&mut self, which: &str) {
        self.guest.set_ipv6(self.inode(which), Ipv6::Off).unwrap();
    }

    fn add_link(&mut self, which: &str, link: &str, admin: Admin) {
        let (netns, link) = (self.inode(which), link.parse().unwrap());
        let admin = match admin {
            Admin::Up => AdminState::Up,
            Admin::Down => AdminState::Down,
        };
        self.guest.with_kernel(|kernel| {
            let other = MacAddr::local([0, 0, 0, 0, 9]);
            let index = kernel.add_link(netns, &link, other).unwrap();
            let admin = Some(admin);
            let change = LinkChange {
                admin,
                ..LinkChange::default()
            };
            kernel.set_link(netns, index, &change).unwrap();
        });
    }

    fn has_link(&self, which: &str, link: &str, admin: Admin) -> bool {
        let view = self.guest.view();
        let mut links = view.named(&name(which)).unwrap().links.iter();
        links.any(|found| found.name == link && admin_of(found) == admin)
    }

    fn meddle(&mut self, which: &str) {
        let netns = self.inode(which);
        self.guest.with_kernel(|kernel| {
            let Some(link) = kernel.link_by_name(netns, &"eth0".parse().unwrap()) else {
                return;
            };
            let admin = Some(AdminState::Up);
            let change = LinkChange {
                admin,
                ..LinkChange::default()
            };
            kernel.set_link(netns, link.index, &change).unwrap();
            let address = "192.0.2.10/24".parse().unwrap();
            kernel.add_address(netns, link.index, address).unwrap();
        });
    }

    /// In `box`, as it is on the other bed: its end does not end the namespace.
    async fn start_container(&mut self) -> Container {
        let netns = self.inode("box");
        self.guest.with_kernel(|kernel| Container {
            pid: kernel.spawn(Some(netns)).unwrap(),
            inode: netns.0,
        })
    }

    fn kill_container(&mut self, container: Container) {
        self.guest.kill(container.pid).unwrap();
    }

    fn plug(&mut self) {
        self.guest.plug(NicPlug {
            path: path(),
            mac: mac(),
            mtu: None,
            carrier: Carrier::Present,
            nic: Some(NIC.parse().unwrap()),
            segment: Some(self.segment.clone()),
        });
    }

    fn unplug(&mut self) {
        self.guest.remove(&path());
    }

    async fn plug_while_events_are_lost(&mut self) {
        self.guest.pause();
        self.guest.with_kernel(fake_guest::kernel::Kernel::overrun);
        self.plug();
        self.guest.resume();
    }

    fn plug_unnoticed(&mut self) {
        self.guest.with_kernel(|kernel| kernel.lose_events(10));
        self.plug();
    }

    fn link(&self, which: &str) -> Option<Facts> {
        let link = self.state_of_link(which)?;
        let mut routes = link.routes.iter();
        let default = routes.find(|route| route.destination.prefix_len() == 0);
        let gateway = default.and_then(|route| route.gateway);
        let addresses = link.addresses.iter();
        Some(Facts {
            index: link.index.into(),
            name: link.name.clone(),
            mtu: link.mtu.into(),
            admin: admin_of(&link),
            addresses: addresses.map(|own| own.addr().to_string()).collect(),
            default_gateway: gateway.map(|gateway| gateway.to_string()),
        })
    }

    fn start_agent(&mut self) {
        self.guest.start_agent();
    }

    fn kill_agent(&mut self) {
        self.guest.kill_agent();
        self.host.hang_up();
    }

    fn serve_dhcp(&mut self) {
        self.segment(DhcpMode::Answers);
    }

    fn has_lease(&self) -> bool {
        self.segment
            .with(|server, now| server.leases(now).any(|(_, holder)| holder == mac()))
    }

    /// It asks when its link is up in the target.
    async fn dhcp_client_asks(&mut self) {
        let is_up = |link: LinkState| link.admin == AdminState::Up;
        let in_target = || {
            let view = self.guest.view();
            let (space, link) = view.link_of(&path())?;
            (!space.names.contains(&name("guest"))).then(|| link.clone())
        };
        while !in_target().is_some_and(is_up) {
            self.wait_a_little().await;
        }
    }

    async fn answers(&self, which: &str, address: &str) -> bool {
        let address: IpAddr = address.parse().unwrap();
        let view = self.guest.view();
        view.named(&name(which))
            .is_some_and(|space| space.answers(address))
    }

    fn was_announced(&self, address: &str) -> bool {
        let address: IpAddr = address.parse().unwrap();
        let view = self.guest.view();
        let link = view.link_of(&path());
        link.is_some_and(|(_, link)| link.announced.contains(&address))
    }

    async fn wait_a_little(&self) {
        self.pass(A_LITTLE).await;
    }
}

fn admin_of(link: &LinkState) -> Admin {
    match link.admin {
        AdminState::Up => Admin::Up,
        AdminState::Down => Admin::Down,
    }
}

pub(crate) fn path() -> PciPath {
    "02.0/00.0".parse().unwrap()
}

pub(crate) fn mac() -> MacAddr {
    "52:54:00:12:34:56".parse().unwrap()
}

fn name(netns: &str) -> NetnsName {
    netns.parse().unwrap()
}

fn dhcp_server() -> DhcpServer {
    let pool = ([192, 0, 2, 100].into(), [192, 0, 2, 101].into());
    let router = Some([192, 0, 2, 1].into());
    let lasts = Duration::from_secs(120);
    DhcpServer::new("192.0.2.0/24".parse().unwrap(), router, pool, lasts).unwrap()
}
