//! Making, repeating, isolating and removing ports.

use std::time::Duration;

use futures::future::join_all;
use linux_network::{Netlink, Netns, sysctl};
use nic_model::{BitRate, NicId, PacketRate, RateLimit, RateLimits};
use port::{AdminState, Holder, Port, PortProvider, PortSpec, PortView, TapAccess, TapPorts};

use crate::common::{Event, Log, Vm, bridge, links, run, spec};

pub(crate) fn limited(number: u8) -> PortSpec {
    let limit = RateLimit {
        bandwidth: Some(BitRate::from_megabits_per_second(100)),
        packets: Some(PacketRate::from_packets_per_second(10_000)),
    };
    PortSpec {
        limits: RateLimits {
            inbound: limit,
            outbound: limit,
        },
        ..spec(number)
    }
}

/// Everything that matters about a port, as iproute2 sees it.
pub(crate) async fn state(netns: &Netns, spec: &PortSpec) -> String {
    let (tap, ifb) = (spec.nic.tap_name(), spec.nic.ifb_name());
    let commands = [
        format!("ip link show {tap}"),
        format!("bridge -d link show dev {tap}"),
        format!("bridge fdb show dev {tap}"),
        format!("tc -d qdisc show dev {tap}"),
        format!("tc filter show dev {tap} ingress"),
        format!("tc -d qdisc show dev {ifb}"),
    ];
    let mut shown = String::new();
    for command in commands {
        shown += &run(netns, &command).await;
    }
    // The kernel numbers actions and devices anew.
    let is_state = |line: &&str| !line.contains("index ") && !line.contains("link/ether");
    shown
        .lines()
        .filter(is_state)
        .collect::<Vec<_>>()
        .join("\n")
}

async fn index(netns: &Netns, name: &str) -> u32 {
    let netlink = Netlink::connect(netns).await.unwrap();
    netlink
        .link_by_name(&name.parse().unwrap())
        .await
        .unwrap()
        .unwrap()
        .index
        .0
}

#[tokio::test]
async fn a_made_port_is_up_and_secured_as_iproute2_sees_it() {
    let (netns, ports) = bridge().await;
    let spec = limited(1);
    let tap = spec.nic.tap_name();

    let port = ports.make(&spec).await.unwrap();

    assert_eq!((port.tap.as_str(), port.queues.len()), (tap.as_str(), 1));
    let shown = run(&netns, &format!("ip -d link show {tap}")).await;
    assert!(
        shown.contains(",UP") && shown.contains("master br0"),
        "{shown}"
    );
    assert!(
        shown.contains("addrgenmode none") && shown.contains("vnet_hdr on"),
        "{shown}"
    );
    let shown = run(&netns, &format!("bridge -d link show dev {tap}")).await;
    assert!(
        shown.contains("learning off flood off") && shown.contains("locked on"),
        "{shown}"
    );
    let shown = run(&netns, &format!("bridge fdb show dev {tap}")).await;
    assert!(
        shown.contains(&format!("{} sticky master br0 static", spec.mac)),
        "{shown}"
    );
    for link in [tap.clone(), spec.nic.ifb_name()] {
        let setting = format!("ipv6/conf/{link}/disable_ipv6");
        assert_eq!(sysctl::get(&netns, &setting).await.unwrap(), "1");
        let shown = run(&netns, &format!("tc -d qdisc show dev {link}")).await;
        assert!(
            shown.contains("qdisc tbf 1: root") && shown.contains("rate 100Mbit"),
            "{shown}"
        );
        assert!(
            shown.contains("mpu 1250b"),
            "100 Mbit/s and 10,000 packets/s: {shown}"
        );
    }
    let shown = run(&netns, &format!("tc filter show dev {tap} ingress")).await;
    assert!(
        shown.contains(&format!(
            "Egress Redirect to device {}",
            spec.nic.ifb_name()
        )),
        "{shown}"
    );
}

#[tokio::test]
async fn a_port_is_limited_before_it_is_in_the_bridge_and_up_last() {
    let (netns, ports) = bridge().await;
    let mut log = Log::of(&netns).await;
    let spec = limited(1);
    let name = spec.nic.tap_name();

    let _port = ports.make(&spec).await.unwrap();

    let is_tap = |event: &Event, up: bool, bridged: bool| {
        matches!(event, Event::Link { name: link, is_up, in_bridge }
            if *link == name && *is_up == up && *in_bridge == bridged)
    };
    let events = log.until(|event| is_tap(event, true, true)).await;
    let tap = i32::try_from(index(&netns, &name).await).unwrap();
    let ifb = i32::try_from(index(&netns, &spec.nic.ifb_name()).await).unwrap();
    let first = |wanted: &dyn Fn(&Event) -> bool| {
        let found = events.iter().position(wanted);
        found.unwrap_or_else(|| panic!("an event is missing from {events:#?}"))
    };
    let shaped = |on: i32| {
        move |event: &Event| {
            let Event::Shaping { link, kind } = event else {
                return false;
            };
            *link == on && kind == "tbf"
        }
    };
    let bridged = first(&|event| is_tap(event, false, true));
    assert!(first(&shaped(tap)) < bridged);
    assert!(first(&shaped(ifb)) < bridged);
    assert!(first(&|event| *event == Event::Redirection { link: tap }) < bridged);
    assert!(
        !events.iter().any(|event| is_tap(event, true, false)),
        "{events:#?}"
    );
}

#[tokio::test]
async fn no_ipv6_address_ever_appears_while_twenty_ports_come_and_go() {
    let (netns, ports) = bridge().await;
    let mut log = Log::of(&netns).await;
    let specs: Vec<PortSpec> = (0..20).map(limited).collect();

    let made = join_all(specs.iter().map(|spec| ports.make(spec))).await;
    let made: Vec<_> = made.into_iter().map(Result::unwrap).collect();
    let mut ours = Vec::new();
    for spec in &specs {
        ours.push(index(&netns, &spec.nic.tap_name()).await);
        ours.push(index(&netns, &spec.nic.ifb_name()).await);
    }
    drop(made);
    for removed in join_all(
        specs
            .iter()
            .map(|spec| ports.remove(&spec.nic, Box::new(()))),
    )
    .await
    {
        removed.unwrap();
    }

    run(&netns, "ip link add end type ifb").await;
    let is_end = |event: &Event| matches!(event, Event::Link { name, .. } if name == "end");
    let events = log.until(is_end).await;
    let on_ours =
        |event: &&Event| matches!(event, Event::Ipv6Address { link } if ours.contains(link));
    assert_eq!(events.iter().find(on_ours), None);
    assert_eq!(links(&netns).await, ["br0", "end"]);
}

#[tokio::test]
async fn a_port_that_is_made_again_stays_up_and_as_it_was() {
    let (netns, ports) = bridge().await;
    let spec = limited(1);
    let first = ports.make(&spec).await.unwrap();
    let before = state(&netns, &spec).await;
    let mut log = Log::of(&netns).await;

    let second = ports.make(&spec).await.unwrap();

    assert_eq!((first.queues.len(), second.queues.len()), (1, 0));
    assert_eq!(state(&netns, &spec).await, before);
    run(&netns, "ip link add end type ifb").await;
    let is_end = |event: &Event| matches!(event, Event::Link { name, .. } if name == "end");
    let events = log.until(is_end).await;
    let went_down =
        |event: &&Event| matches!(event, Event::Link { is_up: false, name, .. } if name != "end");
    assert_eq!(events.iter().find(went_down), None);
    // Reading a bucket is an event too; setting it would be another one.
    let shaped = events
        .iter()
        .filter(|event| matches!(event, Event::Shaping { .. }))
        .count();
    assert_eq!(shaped, 2, "one for each direction: {events:#?}");
}

#[tokio::test]
async fn what_is_wrong_with_a_port_is_corrected() {
    let (netns, ports) = bridge().await;
    let spec = limited(1);
    let vm = Vm::plug(&ports, &spec).await;
    let tap = spec.nic.tap_name();
    let damages = [
        format!("ip link set {tap} type bridge_slave locked off"),
        format!("ip link set {tap} type bridge_slave learning on"),
        format!("ip link set {tap} nomaster"),
        format!("ip link set {tap} down"),
        format!("ip link set {tap} mtu 1400"),
        format!("bridge fdb del {} dev {tap} master", spec.mac),
        format!("bridge fdb add 52:54:00:00:00:99 dev {tap} master static"),
        format!("tc qdisc del dev {tap} root"),
        format!("tc qdisc del dev {tap} ingress"),
        format!("tc qdisc replace dev {tap} root handle 1: tbf rate 1gbit burst 1mb limit 1mb"),
        format!("ip link del {}", spec.nic.ifb_name()),
    ];
    let before = state(&netns, &spec).await;

    for damage in &damages {
        run(&netns, damage).await;
        let port = ports.make(&spec).await.unwrap();
        assert_eq!(port.queues.len(), 0, "the VM holds the tap");
        assert_eq!(state(&netns, &spec).await, before, "after {damage}");
    }

    drop(vm);
}

#[tokio::test]
async fn limits_of_a_port_in_use_can_be_changed_and_lifted() {
    let (netns, ports) = bridge().await;
    let vm = Vm::plug(&ports, &limited(1)).await;
    let tap = spec(1).nic.tap_name();
    let mut slower = limited(1);
    slower.limits.inbound.bandwidth = Some(BitRate::from_megabits_per_second(10));

    ports.make(&slower).await.unwrap();
    let shown = run(&netns, &format!("tc qdisc show dev {tap}")).await;
    ports.make(&spec(1)).await.unwrap();

    assert!(shown.contains("rate 10Mbit"), "{shown}");
    let shown = run(&netns, &format!("tc qdisc show dev {tap}")).await;
    assert!(
        !shown.contains("tbf") && !shown.contains("ingress"),
        "{shown}"
    );
    assert_eq!(links(&netns).await, ["br0".to_owned(), tap]);
    drop(vm);
}

#[tokio::test]
async fn a_removed_port_leaves_nothing_and_can_be_removed_and_made_again() {
    let (netns, ports) = bridge().await;
    for access in [TapAccess::Descriptors, TapAccess::Name] {
        let spec = PortSpec {
            access,
            ..limited(1)
        };
        for _ in 0..2 {
            let _port = ports.make(&spec).await.unwrap();

            ports.remove(&spec.nic, Box::new(())).await.unwrap();
            ports.remove(&spec.nic, Box::new(())).await.unwrap();

            assert_eq!(links(&netns).await, ["br0"]);
            assert_eq!(
                run(&netns, "bridge fdb show")
                    .await
                    .matches("static")
                    .count(),
                0
            );
            assert_eq!(ports.ports().await.unwrap(), []);
        }
    }
}

/// Waits until nobody holds a port's tap: a child that another test has forked may hold a
/// descriptor until it executes.
async fn until_let_go(ports: &impl PortProvider, nic: &NicId) {
    let is_free = |view: &PortView| view.nic == *nic && view.holder == Holder::Nobody;
    let free = async {
        while !ports.ports().await.unwrap().iter().any(is_free) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), free)
        .await
        .expect("the tap is let go");
}

#[tokio::test]
async fn a_tap_outlives_its_holder_and_is_passed_on_to_the_next_one() {
    let (netns, ports) = bridge().await;
    for queue_count in [1, 3] {
        let spec = PortSpec {
            queue_count,
            ..limited(queue_count.try_into().unwrap())
        };
        let first = ports.make(&spec).await.unwrap();
        let before = index(&netns, &spec.nic.tap_name()).await;
        ports.isolate(&spec.nic).await.unwrap();

        drop(first);
        until_let_go(&ports, &spec.nic).await;
        let second = ports.make(&spec).await.unwrap();

        assert_eq!(second.queues.len(), usize::from(queue_count));
        assert_eq!(index(&netns, &spec.nic.tap_name()).await, before);
        let view = ports.ports().await.unwrap().remove(0);
        assert_eq!(
            (view.bridge.as_deref(), view.admin, view.holder),
            (Some("br0"), AdminState::Up, Holder::Somebody)
        );
        ports.remove(&spec.nic, Box::new(())).await.unwrap();
    }
}

#[tokio::test]
async fn a_tap_to_be_opened_by_its_name_is_held_by_nobody() {
    let (netns, ports) = bridge().await;
    let spec = PortSpec {
        access: TapAccess::Name,
        ..spec(1)
    };

    let Port { tap, queues, .. } = ports.make(&spec).await.unwrap();
    until_let_go(&ports, &spec.nic).await;
    let again = ports.make(&spec).await.unwrap();

    assert_eq!(links(&netns).await, ["br0".to_owned(), tap]);
    assert!(queues.is_empty() && again.queues.is_empty());
}

#[tokio::test]
async fn a_tap_of_many_queues_is_not_joined_while_it_is_held() {
    let (netns, ports) = bridge().await;
    let spec = PortSpec {
        queue_count: 4,
        ..spec(1)
    };

    let first = ports.make(&spec).await.unwrap();
    let second = ports.make(&spec).await.unwrap();

    assert_eq!((first.queues.len(), second.queues.len()), (4, 0));
    let shown = run(&netns, &format!("ip -d link show {}", spec.nic.tap_name())).await;
    assert!(
        shown.contains("multi_queue") && shown.contains("numqueues 4"),
        "{shown}"
    );
}

#[tokio::test]
async fn the_bridge_keeps_its_address_when_a_port_joins() {
    let (netns, ports) = bridge().await;
    run(&netns, "ip link add uplink type veth peer name far").await;
    run(
        &netns,
        "ip link set uplink address 52:54:00:00:00:01 master br0",
    )
    .await;

    let _port = ports.make(&spec(1)).await.unwrap();

    let shown = run(&netns, "ip link show br0").await;
    assert!(shown.contains("link/ether 52:54:00:00:00:01"), "{shown}");
}

#[tokio::test]
async fn an_isolated_port_passes_nothing_until_it_is_made_again() {
    let (netns, ports) = bridge().await;
    let (one, two) = (limited(1), limited(2));
    let (sender, receiver) = (Vm::plug(&ports, &one).await, Vm::plug(&ports, &two).await);

    ports.isolate(&one.nic).await.unwrap();
    sender.send(one.mac, two.mac, 100);
    receiver.send(two.mac, one.mac, 100);

    let view = PortView {
        nic: one.nic.clone(),
        tap: Some(one.nic.tap_name()),
        ifb: Some(one.nic.ifb_name()),
        bridge: None,
        admin: AdminState::Down,
        holder: Holder::Somebody,
    };
    assert!(ports.ports().await.unwrap().contains(&view));
    ports.make(&one).await.unwrap();
    sender.send(one.mac, two.mac, 200);
    assert_eq!(
        receiver.receive().len(),
        200,
        "the frame of before has not come"
    );
    assert_eq!(sender.received().len(), 0);
    ports.isolate(&NicId::from_random([9; 10])).await.unwrap();
    drop(netns);
}

#[tokio::test]
async fn ports_are_listed_by_their_links_and_nothing_else_is() {
    let (netns, ports) = bridge().await;
    let one = limited(1);
    let _port = ports.make(&one).await.unwrap();
    let orphan = NicId::from_random([2; 10]);
    run(
        &netns,
        &format!("ip link add {} type ifb", orphan.ifb_name()),
    )
    .await;
    run(&netns, "ip link add nf-foreign type ifb").await;

    let found = ports.ports().await.unwrap();

    let port = PortView {
        nic: one.nic.clone(),
        tap: Some(one.nic.tap_name()),
        ifb: Some(one.nic.ifb_name()),
        bridge: Some("br0".to_owned()),
        admin: AdminState::Up,
        holder: Holder::Somebody,
    };
    let leftover = PortView {
        nic: orphan.clone(),
        tap: None,
        ifb: Some(orphan.ifb_name()),
        bridge: None,
        admin: AdminState::Down,
        holder: Holder::Nobody,
    };
    for view in &found {
        assert_eq!(ports.port(&view.nic).await.unwrap().as_ref(), Some(view));
    }
    assert_eq!(
        ports.port(&NicId::from_random([3; 10])).await.unwrap(),
        None
    );
    assert_eq!(found, [port, leftover]);
}

#[tokio::test]
async fn a_plain_tap_is_left_in_the_network_its_operator_put_it_in() {
    let (netns, _) = bridge().await;
    let ports = TapPorts::connect(&netns).await.unwrap();
    let spec = limited(1);
    let tap = spec.nic.tap_name();
    let port = ports.make(&spec).await.unwrap();
    run(&netns, &format!("ip link set {tap} master br0")).await;

    ports.isolate(&spec.nic).await.unwrap();
    let isolated = run(&netns, &format!("ip link show {tap}")).await;
    ports.make(&spec).await.unwrap();

    assert!(
        isolated.contains("state DOWN") && isolated.contains("master br0"),
        "{isolated}"
    );
    let made = run(&netns, &format!("ip -d link show {tap}")).await;
    assert!(
        made.contains(",UP") && made.contains("master br0"),
        "{made}"
    );
    assert!(made.contains("addrgenmode none"), "{made}");
    ports.remove(&spec.nic, Box::new(())).await.unwrap();
    assert_eq!(links(&netns).await, ["br0"]);
    drop(port);
}
