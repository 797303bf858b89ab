//! Which frames a port of a bridge lets through.

use nic_model::MacAddr;

use crate::common::{Vm, bridge, run, spec};

const FOREIGN: &str = "52:54:00:00:00:99";

#[tokio::test]
async fn frames_from_a_foreign_address_are_dropped_and_those_from_the_own_one_pass() {
    let (_netns, ports) = bridge().await;
    let (sender, receiver) = (
        Vm::plug(&ports, &spec(1)).await,
        Vm::plug(&ports, &spec(2)).await,
    );

    sender.send(FOREIGN.parse().unwrap(), receiver.mac, 100);
    sender.send(receiver.mac, receiver.mac, 101);
    sender.send(sender.mac, receiver.mac, 102);

    assert_eq!(receiver.receive().len(), 102);
}

#[tokio::test]
async fn a_port_gets_broadcasts_but_no_frames_for_others() {
    let (_netns, ports) = bridge().await;
    let (sender, receiver) = (
        Vm::plug(&ports, &spec(1)).await,
        Vm::plug(&ports, &spec(2)).await,
    );
    let unknown: MacAddr = FOREIGN.parse().unwrap();

    sender.send(sender.mac, unknown, 100);
    let mut broadcast = vec![0; crate::common::VIRTIO_HEADER];
    broadcast.extend([0xff; 6]);
    broadcast.extend(sender.mac.octets());
    broadcast.extend(crate::common::EXPERIMENT);
    broadcast.resize(crate::common::VIRTIO_HEADER + 101, 0);
    sender.send_raw(&broadcast);

    assert_eq!(receiver.receive().len(), 101);
}

#[tokio::test]
async fn an_address_does_not_move_to_where_it_is_spoofed() {
    let (netns, ports) = bridge().await;
    let victim = Vm::plug(&ports, &spec(1)).await;
    let other = Vm::plug(&ports, &spec(2)).await;
    let outside = Vm::plug(&port::TapPorts::connect(&netns).await.unwrap(), &spec(3)).await;
    let uplink = spec(3).nic.tap_name();
    run(&netns, &format!("ip link set {uplink} master br0")).await;

    outside.send(victim.mac, other.mac, 100);
    other.receive();
    other.send(other.mac, victim.mac, 101);

    assert_eq!(
        victim.receive().len(),
        101,
        "the uplink has not drawn the address to itself"
    );
}
