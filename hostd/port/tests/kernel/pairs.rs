//! Ports that are pairs of virtual links: the same steps in the same order as with taps.

use std::net::UdpSocket;
use std::time::Duration;

use linux_network::Netns;
use port::{AdminState, Device, Holder, PortProvider, PortSpec, PortView, TapAccess};

use crate::common::{bridge, bridge_of, links, run, spec};
use crate::lifecycle::{limited, state};

async fn view(ports: &impl PortProvider, spec: &PortSpec) -> PortView {
    let found = ports.ports().await.unwrap();
    let own = found.into_iter().find(|port| port.nic == spec.nic);
    let own = own.expect("the port is listed");
    assert_eq!(ports.port(&spec.nic).await.unwrap().as_ref(), Some(&own));
    own
}

/// The far end in a namespace of its own, with an Ethernet address and an IP address.
async fn take_over(host: &Netns, name: &str, mac: &str) -> Netns {
    let guest = Netns::unnamed().unwrap();
    run(host, "ip address add 10.9.0.1/24 dev br0").await;
    // iproute2 knows namespaces by name or pid alone.
    let netlink = linux_network::Netlink::connect(host).await.unwrap();
    let link = netlink
        .link_by_name(&name.parse().unwrap())
        .await
        .unwrap()
        .unwrap();
    let moved = linux_network::LinkChange {
        move_to: Some(&guest),
        ..linux_network::LinkChange::default()
    };
    netlink.set_link(link.index, moved).await.unwrap();
    run(&guest, &format!("ip link set {name} address {mac} up")).await;
    run(&guest, &format!("ip address add 10.9.0.2/24 dev {name}")).await;
    guest
}

/// A port that nobody listens on is refused by whoever has the address, and by nobody else.
async fn reaches_the_host(guest: &Netns) -> bool {
    let asked = guest.run("ask", || {
        let socket = UdpSocket::bind("10.9.0.2:0")?;
        socket.connect("10.9.0.1:9")?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        socket.send(b"?")?;
        socket.recv(&mut [0])
    });
    let answer = asked.await.unwrap();
    answer.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
}

#[tokio::test]
async fn a_pair_is_made_like_a_tap_and_named_to_the_hypervisor_by_its_far_end() {
    let (tap_host, taps) = bridge().await;
    let (pair_host, pairs) = bridge_of(Device::Veth).await;
    let spec = limited(1);

    taps.make(&spec).await.unwrap();
    let port = pairs.make(&spec).await.unwrap();

    let peer = spec.nic.peer_name();
    assert_eq!(
        (port.tap.as_str(), port.access),
        (peer.as_str(), TapAccess::Name)
    );
    assert!(port.queues.is_empty());
    // The flags of a link, and how many queues it has, are its kind's own.
    let without_link = |text: String| {
        let lines = text.lines().filter(|line| !line.contains(" mtu "));
        let lines = lines.map(|line| line.replace("refcnt 3", "refcnt 2"));
        lines.collect::<Vec<_>>()
    };
    let tap_state = without_link(state(&tap_host, &spec).await);
    let pair_state = without_link(state(&pair_host, &spec).await);
    assert_eq!(pair_state, tap_state);
}

#[tokio::test]
async fn a_pair_is_held_while_its_far_end_is_on_or_elsewhere() {
    let (host, ports) = bridge_of(Device::Veth).await;
    let spec = spec(1);
    let peer = spec.nic.peer_name();
    ports.make(&spec).await.unwrap();

    let at_first = view(&ports, &spec).await;
    run(&host, &format!("ip link set {peer} up")).await;
    let taken = view(&ports, &spec).await;
    ports.isolate(&spec.nic).await.unwrap();
    let isolated = view(&ports, &spec).await;
    let guest = take_over(&host, &peer, &spec.mac.to_string()).await;
    let elsewhere = view(&ports, &spec).await;

    assert_eq!(
        (at_first.holder, at_first.admin),
        (Holder::Nobody, AdminState::Up)
    );
    assert_eq!(at_first.bridge.as_deref(), Some("br0"));
    assert_eq!(taken.holder, Holder::Somebody);
    assert_eq!(
        (isolated.holder, isolated.admin),
        (Holder::Somebody, AdminState::Down)
    );
    assert_eq!(elsewhere.holder, Holder::Somebody);
    drop(guest);
}

#[tokio::test]
async fn a_pair_lets_in_its_own_address_and_no_other_one() {
    for (mac, expected) in [("own", true), ("5a:00:00:00:00:99", false)] {
        let (host, ports) = bridge_of(Device::Veth).await;
        let spec = spec(1);
        ports.make(&spec).await.unwrap();
        let own = spec.mac.to_string();
        let mac = if mac == "own" { own.as_str() } else { mac };

        let guest = take_over(&host, &spec.nic.peer_name(), mac).await;

        assert_eq!(reaches_the_host(&guest).await, expected, "{mac}");
        ports.isolate(&spec.nic).await.unwrap();
        assert!(!reaches_the_host(&guest).await);
    }
}

#[tokio::test]
async fn both_ends_go_with_the_port() {
    let (host, ports) = bridge_of(Device::Veth).await;
    let spec = limited(1);
    ports.make(&spec).await.unwrap();
    ports.make(&spec).await.unwrap();

    ports.remove(&spec.nic, Box::new(())).await.unwrap();

    assert_eq!(links(&host).await, ["br0"]);
}

#[tokio::test]
async fn a_tap_is_not_taken_for_a_pair() {
    let (host, pairs) = bridge_of(Device::Veth).await;
    let spec = spec(1);
    run(
        &host,
        &format!("ip tuntap add {} mode tap", spec.nic.tap_name()),
    )
    .await;

    let error = pairs.make(&spec).await.unwrap_err();

    assert!(
        error.cause.to_string().ends_with("is not an end of a pair"),
        "{}",
        error.cause
    );
}
