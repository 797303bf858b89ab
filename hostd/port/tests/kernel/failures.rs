//! What a port says that cannot be made, and what it leaves behind.

use std::fmt::Write;
use std::process::{Command, Stdio};

use linux_network::Netns;
use nic_model::{BitRate, Mtu, RateLimit, RateLimits};
use port::{BridgePorts, Device, MakePortError, PortProvider, PortSpec};

use crate::common::{Vm, bridge, links, run, spec};

/// The error and its cause, as a log shows them.
fn told(error: &MakePortError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        write!(text, ": {error}").unwrap();
        cause = error.source();
    }
    text
}

/// Limited, so that every step is taken.
fn spec_with_everything() -> PortSpec {
    let limit = RateLimit {
        bandwidth: Some(BitRate::from_megabits_per_second(9)),
        packets: None,
    };
    PortSpec {
        limits: RateLimits {
            inbound: limit,
            outbound: limit,
        },
        ..spec(1)
    }
}

#[tokio::test]
async fn a_bridge_that_is_missing_down_or_no_bridge_is_named() {
    let netns = Netns::unnamed().unwrap();
    run(&netns, "ip link add down0 type bridge").await;
    run(&netns, "ip link add other0 type ifb").await;
    let cases = [
        ("none0", "bridge none0 does not exist"),
        ("down0", "bridge down0 is down"),
        ("other0", "other0 is not a bridge"),
    ];

    for (name, complaint) in cases {
        let ports = BridgePorts::connect(&netns, name.parse().unwrap(), Device::Tap)
            .await
            .unwrap();
        let error = ports.make(&spec_with_everything()).await.unwrap_err();
        assert!(told(&error).ends_with(complaint), "{}", told(&error));
    }

    assert_eq!(links(&netns).await, ["down0", "other0"]);
}

#[tokio::test]
async fn a_name_that_is_taken_by_something_else_is_left_alone() {
    let (netns, ports) = bridge().await;
    let spec = spec_with_everything();
    run(
        &netns,
        &format!("ip link add {} type ifb", spec.nic.tap_name()),
    )
    .await;

    let error = ports.make(&spec).await.unwrap_err();

    assert!(
        told(&error).contains("exists and is not a tap"),
        "{}",
        told(&error)
    );
    assert_eq!(links(&netns).await, ["br0".to_owned(), spec.nic.tap_name()]);
}

#[tokio::test]
async fn nothing_is_left_when_the_tap_cannot_have_the_mtu() {
    let (netns, ports) = bridge().await;
    // The driver allows 65535 less the Ethernet header (tun_net_initialize).
    let spec = PortSpec {
        mtu: Mtu::try_from(65_535).unwrap(),
        ..spec_with_everything()
    };

    let error = ports.make(&spec).await.unwrap_err();

    assert!(told(&error).contains("set the MTU"), "{}", told(&error));
    assert_eq!(links(&netns).await, ["br0"]);
}

#[tokio::test]
async fn nothing_is_left_when_a_rate_is_impossible() {
    let (netns, ports) = bridge().await;
    let mut spec = spec_with_everything();
    spec.limits.outbound.bandwidth = Some(BitRate::from_bits_per_second(0));

    let error = ports.make(&spec).await.unwrap_err();

    assert!(
        told(&error).ends_with("the rate is zero"),
        "{}",
        told(&error)
    );
    assert_eq!(links(&netns).await, ["br0"]);
}

#[tokio::test]
async fn nothing_is_left_when_the_intermediate_device_cannot_be_made() {
    let (netns, ports) = bridge().await;
    let spec = spec_with_everything();
    run(&netns, "ip link add other type veth peer name end").await;
    run(
        &netns,
        &format!("ip link set other name {}", spec.nic.ifb_name()),
    )
    .await;

    let error = ports.make(&spec).await.unwrap_err();

    assert!(
        told(&error).contains("is not an intermediate device"),
        "{}",
        told(&error)
    );
    let left = links(&netns).await;
    assert!(!left.contains(&spec.nic.tap_name()), "{left:?}");
}

#[tokio::test]
async fn nothing_is_left_when_the_bridge_has_no_room() {
    let (netns, ports) = bridge().await;
    // BR_MAX_PORTS in net/bridge/br_private.h is 1 << 10, and port 0 does not exist.
    let mut batch = String::new();
    for number in 0..1023 {
        writeln!(batch, "link add fill{number} type ifb").unwrap();
        writeln!(batch, "link set fill{number} master br0").unwrap();
    }
    let fill = netns.run("fill", move || {
        use std::io::Write;
        let mut ip = Command::new("ip")
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        ip.stdin
            .take()
            .unwrap()
            .write_all(batch.as_bytes())
            .unwrap();
        ip.wait().unwrap()
    });
    assert!(fill.await.unwrap().success());

    let error = ports.make(&spec_with_everything()).await.unwrap_err();

    assert!(
        told(&error).contains("put its tap into the bridge"),
        "{}",
        told(&error)
    );
    assert_eq!(ports.ports().await.unwrap(), []);
    let left = links(&netns).await;
    assert_eq!(left.len(), 1024, "the bridge and what fills it");
}

#[tokio::test]
async fn a_port_in_use_survives_a_make_that_fails() {
    let (netns, ports) = bridge().await;
    let vm = Vm::plug(&ports, &spec(1)).await;
    let mut impossible = spec(1);
    impossible.limits.inbound.bandwidth = Some(BitRate::from_bits_per_second(0));

    let error = ports.make(&impossible).await.unwrap_err();

    assert!(told(&error).contains("limit its rates"), "{}", told(&error));
    assert_eq!(
        links(&netns).await,
        ["br0".to_owned(), spec(1).nic.tap_name()]
    );
    let other = Vm::plug(&ports, &spec(2)).await;
    vm.send(vm.mac, other.mac, 100);
    assert_eq!(other.receive().len(), 100);
}

#[tokio::test]
async fn a_port_that_is_not_secured_goes_down_before_it_is_corrected() {
    let (netns, ports) = bridge().await;
    let vm = Vm::plug(&ports, &spec(1)).await;
    let tap = spec(1).nic.tap_name();
    run(
        &netns,
        &format!("ip link set {tap} type bridge_slave locked off"),
    )
    .await;
    let mut impossible = spec(1);
    impossible.limits.inbound.bandwidth = Some(BitRate::from_bits_per_second(0));

    ports.make(&impossible).await.unwrap_err();

    let shown = run(&netns, &format!("ip link show {tap}")).await;
    assert!(shown.contains("state DOWN"), "{shown}");
    drop(vm);
}
