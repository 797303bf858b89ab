//! A namespace with a bridge, VMs made of descriptors, and the kernel's log of events.

use std::fmt::Debug;
use std::process::Command;
use std::time::{Duration, Instant};

use futures::StreamExt;
use hypervisor::Descriptor;
use linux_network::Netns;
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::tc::TcAttribute;
use nic_model::{MacAddr, Mtu, NicId, RateLimits};
use port::{BridgePorts, Device, Port, PortProvider, PortSpec, TapAccess};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Ethernet type for experiments (IEEE 802), which nothing else on the bridge uses.
pub(crate) const EXPERIMENT: [u8; 2] = [0x88, 0xb5];

/// Bytes of the virtio-net header in front of each frame on a tap.
pub(crate) const VIRTIO_HEADER: usize = 10;

/// Runs a command of iproute2 inside `netns` and gives what it printed.
pub(crate) async fn run(netns: &Netns, command: &str) -> String {
    let words: Vec<String> = command.split(' ').map(str::to_owned).collect();
    let output = netns.run("iproute2", move || {
        Command::new(&words[0]).args(&words[1..]).output()
    });
    let output = output.await.unwrap().expect("iproute2 is installed");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A private namespace with the bridge `br0`, up, and ports in it.
pub(crate) async fn bridge() -> (Netns, BridgePorts) {
    bridge_of(Device::Tap).await
}

/// The same with ports of another kind.
pub(crate) async fn bridge_of(device: Device) -> (Netns, BridgePorts) {
    let netns = Netns::unnamed().unwrap();
    run(&netns, "ip link add br0 type bridge").await;
    run(&netns, "ip link set br0 up").await;
    let ports = BridgePorts::connect(&netns, "br0".parse().unwrap(), device)
        .await
        .unwrap();
    (netns, ports)
}

/// A port without limits for the NIC with number `number`.
pub(crate) fn spec(number: u8) -> PortSpec {
    PortSpec {
        nic: NicId::from_random([number; 10]),
        mac: MacAddr::local([0, 0, 0, 0, number]),
        mtu: Mtu::ETHERNET,
        queue_count: 1,
        limits: RateLimits::default(),
        access: TapAccess::Descriptors,
    }
}

/// The names of all links but the loopback.
pub(crate) async fn links(netns: &Netns) -> Vec<String> {
    let shown = run(netns, "ip -brief link").await;
    let name = |line: &str| line.split([' ', '@']).next().unwrap().to_owned();
    shown
        .lines()
        .map(name)
        .filter(|name| name != "lo")
        .collect()
}

/// The VM behind a port: it holds the tap.
pub(crate) struct Vm {
    pub(crate) mac: MacAddr,
    pub(crate) queues: Vec<Descriptor>,
}

impl Vm {
    pub(crate) async fn plug(ports: &impl PortProvider, spec: &PortSpec) -> Self {
        let Port { queues, .. } = ports.make(spec).await.unwrap();
        Self {
            mac: spec.mac,
            queues,
        }
    }

    /// Sends a frame of `length` bytes, Ethernet header counted, from `source`.
    pub(crate) fn send(&self, source: MacAddr, to: MacAddr, length: usize) {
        let mut bytes = vec![0; VIRTIO_HEADER];
        bytes.extend(to.octets());
        bytes.extend(source.octets());
        bytes.extend(EXPERIMENT);
        bytes.resize(VIRTIO_HEADER + length, 0x5a);
        self.send_raw(&bytes);
    }

    pub(crate) fn send_raw(&self, bytes: &[u8]) {
        match rustix::io::write(&self.queues[0], bytes) {
            // A tap that is down takes nothing.
            Ok(_) | Err(Errno::AGAIN | Errno::IO) => {}
            Err(errno) => panic!("the tap refused a frame: {errno}"),
        }
    }

    /// The frames that have arrived, those of the bridge itself left out.
    pub(crate) fn received(&self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut buffer = vec![0; 70_000];
        loop {
            match rustix::io::read(&self.queues[0], &mut buffer) {
                Ok(length) => frames.push(buffer[VIRTIO_HEADER..length].to_vec()),
                Err(Errno::AGAIN) => break,
                Err(errno) => panic!("the tap cannot be read: {errno}"),
            }
        }
        // The bridge itself sends IGMP; TCP is what `rates` offloads.
        let is_ours = |frame: &[u8]| {
            frame[12..14] == EXPERIMENT || (frame[12..14] == [8, 0] && frame[23] == 6)
        };
        frames.retain(|frame| is_ours(frame));
        frames
    }

    /// Waits until a frame arrives.
    pub(crate) fn receive(&self) -> Vec<u8> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if let Some(frame) = self.received().into_iter().next() {
                return frame;
            }
            self.wait();
        }
        panic!("no frame has arrived");
    }

    /// Waits a moment for the tap to become readable.
    pub(crate) fn wait(&self) {
        let mut polled = [PollFd::new(&self.queues[0], PollFlags::IN)];
        let moment = Timespec {
            tv_sec: 0,
            tv_nsec: 5_000_000,
        };
        poll(&mut polled, Some(&moment)).unwrap();
    }
}

/// What the kernel has told about links, shaping and IPv6 addresses, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Link {
        name: String,
        is_up: bool,
        in_bridge: bool,
    },
    Shaping {
        link: i32,
        kind: String,
    },
    Redirection {
        link: i32,
    },
    Ipv6Address {
        link: u32,
    },
}

/// The kernel's log. One socket, so that the order holds between links and shaping.
pub(crate) struct Log {
    messages: Box<dyn futures::Stream<Item = Event> + Unpin + Send>,
}

impl Log {
    pub(crate) async fn of(netns: &Netns) -> Self {
        use rtnetlink::MulticastGroup::{Ipv6Ifaddr, Link, Tc};
        let runtime = tokio::runtime::Handle::current();
        let connect = move || {
            let _inside = runtime.enter();
            rtnetlink::new_multicast_connection(&[Link, Tc, Ipv6Ifaddr]).unwrap()
        };
        let (connection, _, messages) = netns.run("log", connect).await.unwrap();
        tokio::spawn(connection);
        let events = messages.filter_map(|(message, _)| async {
            if let NetlinkPayload::InnerMessage(message) = message.payload {
                event(message)
            } else {
                None
            }
        });
        Self {
            messages: Box::new(Box::pin(events)),
        }
    }

    /// Everything up to the first event that `last` accepts, which must come.
    pub(crate) async fn until(&mut self, last: impl Fn(&Event) -> bool) -> Vec<Event> {
        let mut events = Vec::new();
        let search = async {
            while let Some(event) = self.messages.next().await {
                events.push(event.clone());
                if last(&event) {
                    return;
                }
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(10), search).await;
        assert!(found.is_ok(), "the last event did not come: {events:#?}");
        events
    }
}

fn event(message: RouteNetlinkMessage) -> Option<Event> {
    if let RouteNetlinkMessage::NewLink(link) = message {
        let told_by_bridge = link.header.interface_family == AddressFamily::Bridge;
        (!told_by_bridge).then(|| link_event(&link))
    } else if let RouteNetlinkMessage::NewQueueDiscipline(message) = message {
        let link = message.header.index;
        let kind = message.attributes.into_iter().find_map(|attribute| {
            if let TcAttribute::Kind(kind) = attribute {
                Some(kind)
            } else {
                None
            }
        });
        kind.map(|kind| Event::Shaping { link, kind })
    } else if let RouteNetlinkMessage::NewTrafficFilter(message) = message {
        Some(Event::Redirection {
            link: message.header.index,
        })
    } else if let RouteNetlinkMessage::NewAddress(message) = message {
        Some(Event::Ipv6Address {
            link: message.header.index,
        })
    } else {
        None
    }
}

fn link_event(link: &LinkMessage) -> Event {
    let name = link.attributes.iter().find_map(|attribute| {
        if let LinkAttribute::IfName(name) = attribute {
            Some(name.clone())
        } else {
            None
        }
    });
    let in_bridge = link
        .attributes
        .iter()
        .any(|attribute| matches!(attribute, LinkAttribute::Controller(index) if *index != 0));
    Event::Link {
        name: name.unwrap_or_default(),
        is_up: link.header.flags.contains(LinkFlags::Up),
        in_bridge,
    }
}
