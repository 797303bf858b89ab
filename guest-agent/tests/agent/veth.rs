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

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use linux_network::{LinkChange, Netlink, Netns};
use nic_model::MacAddr;
use rustix::process::{Pid, Signal, WaitOptions};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};

use crate::bed::{Admin, Bed, Container, Facts, Host, PATIENCE, Pipe};

/// Changes to one link between two looks at whether the agent's receive buffer still grows.
const CHANGES_AT_A_TIME: usize = 500;
/// Many times what the agent's receive buffer holds.
const MOST_CHANGES: usize = 50_000;

static BEDS: AtomicU64 = AtomicU64::new(0);

/// One guest with its agent.
pub(crate) struct Veth {
    prefix: String,
    /// Unique on the machine: an agent that searches finds the links of other tests as well.
    mac: MacAddr,
    directory: TempDir,
    agent: Option<Child>,
    host: Host,
    helpers: Vec<Child>,
}

impl Veth {
    /// Keeps the agent from running, without its noticing.
    fn stop_agent(&self) {
        let agent = self.agent_pid();
        rustix::process::kill_process(agent, Signal::STOP).unwrap();
        // Returns when all its threads have stopped.
        let stopped = rustix::process::waitpid(Some(agent), WaitOptions::UNTRACED);
        assert!(stopped.unwrap().unwrap().1.stopped());
    }

    fn continue_agent(&self) {
        rustix::process::kill_process(self.agent_pid(), Signal::CONT).unwrap();
    }

    fn agent_pid(&self) -> Pid {
        let agent = self.agent.as_ref().expect("the agent runs");
        Pid::from_child(agent)
    }

    /// Bytes of events that the agent has not read yet in the guest, where only it listens.
    fn unread_link_events(&self) -> u64 {
        let sockets = self.run_in("guest", "cat", &["/proc/net/netlink"]);
        // sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode, net/netlink/af_netlink.c.
        let unread = sockets.lines().skip(1).map(|socket| {
            let unread = socket.split_ascii_whitespace().nth(4).unwrap();
            unread.parse::<u64>().unwrap()
        });
        unread.sum()
    }

    /// Changes a link in the guest until the kernel has no room left for the agent's events. From
    /// then on it drops them all, until the agent reads.
    async fn overrun(&mut self) {
        self.add_link("guest", "own0", Admin::Up);
        let netns = Netns::open_named(&self.netns("guest").parse().unwrap()).unwrap();
        let netlink = Netlink::connect(&netns).await.unwrap();
        let own = netlink.link_by_name(&"own0".parse().unwrap()).await;
        let own = own.unwrap().unwrap().index;
        let mut unread = 0;
        for number in 1..=MOST_CHANGES {
            // The kernel tells of a new alias only while the link is up (`netdev_state_change`).
            let alias = format!("number {number}");
            let change = LinkChange {
                alias: Some(&alias),
                ..LinkChange::default()
            };
            netlink.set_link(own, change).await.unwrap();
            if number.is_multiple_of(CHANGES_AT_A_TIME) {
                let before = std::mem::replace(&mut unread, self.unread_link_events());
                if unread > 0 && before == unread {
                    return;
                }
            }
        }
        panic!("the agent's receive buffer holds {MOST_CHANGES} events");
    }

    fn socket(&self) -> PathBuf {
        self.file("agent.sock")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Plugs into another namespace than the one where links arrive.
    pub(crate) fn plug_into(&self, which: &str) {
        let (netns, peer, mac) = (self.netns(which), self.netns("peer"), self.mac.to_string());
        let ens5 = ["type", "veth", "peer", "name", "ens5", "address", &mac];
        let peer0 = |rest: &[&str]| run("ip", &[&["-n", &peer], rest].concat());
        peer0(&[&["link", "add", "peer0"], &ens5[..]].concat());
        peer0(&["addr", "add", "192.0.2.1/24", "dev", "peer0"]);
        peer0(&["addr", "add", "2001:db8::1/64", "dev", "peer0", "nodad"]);
        peer0(&["link", "set", "peer0", "up"]);
        peer0(&["link", "set", "ens5", "netns", &netns]);
    }

    /// Output of a program in one of the namespaces.
    fn run_in(&self, which: &str, program: &str, arguments: &[&str]) -> String {
        let netns = format!("--net=/run/netns/{}", self.netns(which));
        run("nsenter", &[&[netns.as_str(), program], arguments].concat())
    }

    /// Starts a program that runs until the bed ends.
    fn spawn_in(&mut self, which: &str, program: &str, arguments: &[&str]) -> u32 {
        let child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", self.netns(which)))
            .arg(program)
            .args(arguments)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let pid = child.id();
        self.helpers.push(child);
        pid
    }

    /// What `ip` tells of the links of a namespace; nothing when there is no such namespace.
    fn links(&self, which: &str) -> Vec<Value> {
        let netns = self.netns(which);
        let output = output("ip", &["-n", &netns, "-json", "addr", "show"]);
        if output.status.success() {
            serde_json::from_slice(&output.stdout).unwrap()
        } else {
            Vec::new()
        }
    }

    fn default_gateway(&self, which: &str) -> Option<String> {
        let netns = self.netns(which);
        let routes = run("ip", &["-n", &netns, "-json", "route", "show", "default"]);
        let routes: Value = serde_json::from_str(&routes).unwrap();
        Some(routes[0]["gateway"].as_str()?.to_owned())
    }
}

impl Bed for Veth {
    async fn make() -> Self {
        let number = BEDS.fetch_add(1, Ordering::Relaxed);
        let mac = MacAddr::local(unique_bits(number));
        let mut bed = Self {
            prefix: format!("nfa{}-{number}", std::process::id()),
            mac,
            directory: tempfile::tempdir().unwrap(),
            agent: None,
            host: Host::new(mac),
            helpers: Vec::new(),
        };
        for which in ["guest", "box", "peer"] {
            bed.add_netns(which);
        }
        // A peer that believes announcements of addresses it did not ask for.
        for scope in ["all", "default"] {
            let setting = format!("net.ipv4.conf.{scope}.arp_accept=1");
            bed.run_in("peer", "sysctl", &["-qw", &setting]);
        }
        bed.start_agent();
        bed
    }

    fn host(&mut self) -> &mut Host {
        &mut self.host
    }

    async fn dial(&mut self) -> Box<dyn Pipe> {
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
        Box::new(timeout(PATIENCE, connected).await.unwrap())
    }

    fn netns(&self, which: &str) -> String {
        format!("{}-{which}", self.prefix)
    }

    fn add_netns(&mut self, which: &str) {
        run("ip", &["netns", "add", &self.netns(which)]);
    }

    fn remove_netns(&mut self, which: &str) {
        run("ip", &["netns", "del", &self.netns(which)]);
    }

    fn switch_ipv6_off(&mut self, which: &str) {
        for scope in ["all", "default"] {
            let setting = format!("net.ipv6.conf.{scope}.disable_ipv6=1");
            self.run_in(which, "sysctl", &["-qw", &setting]);
        }
    }

    fn add_link(&mut self, which: &str, name: &str, admin: Admin) {
        let netns = self.netns(which);
        let ip = |rest: &[&str]| run("ip", &[&["-n", &netns], rest].concat());
        ip(&["link", "add", name, "type", "veth", "peer", "name", "far"]);
        if admin == Admin::Up {
            ip(&["link", "set", name, "up"]);
        }
    }

    fn has_link(&self, which: &str, name: &str, admin: Admin) -> bool {
        let links = self.links(which);
        let mut named = links.iter().filter(|link| link["ifname"] == name);
        named.any(|link| admin_of(link) == admin)
    }

    fn meddle(&mut self, which: &str) {
        let netns = self.netns(which);
        for arguments in [
            ["link", "set", "eth0", "up"].as_slice(),
            &["addr", "add", "192.0.2.10/24", "dev", "eth0"],
        ] {
            drop(output("ip", &[&["-n", &netns], arguments].concat()));
        }
    }

    async fn start_container(&mut self) -> Container {
        let pid = self.spawn_in("box", "sleep", &["1000"]);
        // nsenter enters before it becomes the program.
        while namespace_of(pid) == namespace_of(std::process::id()) {
            tokio::task::yield_now().await;
        }
        let inode = namespace_of(pid);
        Container { pid, inode }
    }

    fn kill_container(&mut self, container: Container) {
        let mut helpers = self.helpers.iter_mut();
        let helper = helpers.find(|child| child.id() == container.pid);
        let helper = helper.unwrap();
        helper.kill().unwrap();
        helper.wait().unwrap();
    }

    /// With carrier: the other end is up before.
    fn plug(&mut self) {
        self.plug_into("guest");
    }

    /// The other end goes, and the link with it.
    fn unplug(&mut self) {
        run("ip", &["-n", &self.netns("peer"), "link", "del", "peer0"]);
    }

    async fn plug_while_events_are_lost(&mut self) {
        self.stop_agent();
        self.overrun().await;
        self.plug();
        self.continue_agent();
    }

    /// The agent is told of links in the guest's own namespace; elsewhere it has to look.
    fn plug_unnoticed(&mut self) {
        self.plug_into("box");
    }

    fn link(&self, which: &str) -> Option<Facts> {
        let links = self.links(which);
        let mac = self.mac.to_string();
        let link = links.iter().find(|link| link["address"] == mac.as_str())?;
        let addresses = link["addr_info"].as_array().unwrap().iter();
        let addresses = addresses.filter(|address| address["scope"] != "link");
        let text = |address: &Value| address["local"].as_str().map(str::to_owned);
        Some(Facts {
            index: link["ifindex"].as_u64().unwrap(),
            name: link["ifname"].as_str().unwrap().to_owned(),
            mtu: link["mtu"].as_u64().unwrap(),
            admin: admin_of(link),
            addresses: addresses.filter_map(text).collect(),
            default_gateway: self.default_gateway(which),
        })
    }

    /// Starts it as the guest's init would.
    fn start_agent(&mut self) {
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

    fn kill_agent(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
        std::fs::remove_file(self.socket()).unwrap();
        self.host.hang_up();
    }

    fn serve_dhcp(&mut self) {
        let leases = format!("--dhcp-leasefile={}", self.file("leases").display());
        let arguments = [
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--pid-file",
            "--port=0",
            "--interface=peer0",
            "--no-ping",
            "--dhcp-authoritative",
            &leases,
            "--dhcp-range=192.0.2.100,192.0.2.100,2m",
        ];
        self.spawn_in("peer", "dnsmasq", &arguments);
    }

    fn has_lease(&self) -> bool {
        let leases = std::fs::read_to_string(self.file("leases")).unwrap_or_default();
        leases.contains(&self.mac.to_string())
    }

    /// A packet socket for every protocol (`ETH_P_ALL`) is what nothing else there has.
    async fn dhcp_client_asks(&mut self) {
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

    async fn answers(&self, which: &str, address: &str) -> bool {
        let address: SocketAddr = (address.parse::<IpAddr>().unwrap(), 7).into();
        let open = |which: &str| Netns::open_named(&self.netns(which).parse().unwrap()).unwrap();
        let listen = move || std::net::TcpListener::bind(address).unwrap();
        let _listener = open(which).run("listener", listen).await.unwrap();
        let connect = move || std::net::TcpStream::connect_timeout(&address, PATIENCE);
        open("peer").run("client", connect).await.unwrap().is_ok()
    }

    fn was_announced(&self, address: &str) -> bool {
        let neighbours = self.run_in("peer", "ip", &["neigh"]);
        let mut neighbours = neighbours.lines();
        let mac = self.mac.to_string();
        neighbours.any(|neighbour| neighbour.contains(address) && neighbour.contains(&mac))
    }

    async fn wait_a_little(&self) {
        tokio::task::yield_now().await;
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        for child in self.helpers.iter_mut().chain(self.agent.as_mut()) {
            // It may have ended already.
            child.kill().unwrap_or_default();
            child.wait().map(drop).unwrap_or_default();
        }
        for which in ["guest", "box", "other", "peer", "holding"] {
            let removed = output("ip", &["netns", "del", &self.netns(which)]);
            drop(removed);
        }
    }
}

fn admin_of(link: &Value) -> Admin {
    let mut flags = link["flags"].as_array().unwrap().iter();
    if flags.any(|flag| flag == "UP") {
        Admin::Up
    } else {
        Admin::Down
    }
}

fn namespace_of(pid: u32) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(format!("/proc/{pid}/ns/net"))
        .unwrap()
        .ino()
}

fn output(program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).output().unwrap()
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = output(program, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Process id and number of the bed.
fn unique_bits(number: u64) -> [u8; 5] {
    let [_, _, a, b, c, d, ..] = (u64::from(std::process::id()) << 16).to_be_bytes();
    [a, b, c, d, number.to_be_bytes()[7]]
}
