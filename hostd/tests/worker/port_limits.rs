//! What a VM's class and a NIC's request say of rates and queues is what its port is made with.

use nic_lifecycle::VmClass;
use nic_model::{BitRate, NicId, PacketRate, RateLimit, RateLimits};
use port::PortSpec;

use crate::support::stage::Deed;
use crate::support::{Setup, World, standard_class};

fn limit(megabits: u64, packets: u64) -> RateLimit {
    RateLimit {
        bandwidth: Some(BitRate::from_megabits_per_second(megabits)),
        packets: Some(PacketRate::from_packets_per_second(packets)),
    }
}

fn class(inbound: RateLimit, outbound: RateLimit) -> VmClass {
    VmClass {
        rates: RateLimits { inbound, outbound },
        ..standard_class()
    }
}

async fn world_of(class: VmClass) -> World {
    World::with(Setup {
        class,
        ..Setup::default()
    })
    .await
}

/// Attaches a NIC that asks for two queues and for less than others may have, each in another way.
async fn attached_with_wishes(world: &World) -> NicId {
    let wishes = r#"{
        "network": "blue",
        "queues": 2,
        "limits": {"in": {"bandwidth": 20000000}, "out": {"packets": 300}}
    }"#;
    let nic = world.create_from(wishes).await;
    let attached = world.attach(&nic, "vm1", "netns:c1").await;
    attached.unwrap();
    nic
}

fn spec(world: &World, nic: &NicId) -> PortSpec {
    world.ports.spec(nic).expect("a NIC in use has a port")
}

#[tokio::test(start_paused = true)]
async fn a_nic_that_asks_for_nothing_gets_the_rates_of_its_class_and_one_queue() {
    let world = world_of(class(limit(100, 5_000), limit(50, 400))).await;

    let nic = world.attached("vm1").await;

    let spec = spec(&world, &nic);
    assert_eq!(spec.limits.inbound, limit(100, 5_000));
    assert_eq!(spec.limits.outbound, limit(50, 400));
    assert_eq!(spec.queue_count, 1);
}

#[tokio::test(start_paused = true)]
async fn the_stricter_of_each_rate_and_the_queues_asked_for_reach_the_port() {
    let world = world_of(class(limit(100, 5_000), limit(50, 400))).await;

    let nic = attached_with_wishes(&world).await;

    let spec = spec(&world, &nic);
    assert_eq!(spec.limits.inbound, limit(20, 5_000));
    assert_eq!(spec.limits.outbound, limit(50, 300));
    assert_eq!(spec.queue_count, 2);
}

#[tokio::test(start_paused = true)]
async fn a_class_made_stricter_caps_what_a_nic_was_given_before() {
    let mut world = world_of(standard_class()).await;
    let nic = attached_with_wishes(&world).await;
    let before = spec(&world, &nic).limits;

    world.ports.take_out_of_bridge(&nic);
    world
        .restart_with(class(limit(10, 5_000), limit(50, 200)))
        .await;
    world.stage.until_done(&nic, Deed::PortMade, 2).await;

    let after = spec(&world, &nic);
    assert_eq!(before.inbound.packets, None);
    assert_eq!(before.inbound.bandwidth, limit(20, 0).bandwidth);
    assert_eq!(after.limits.inbound, limit(10, 5_000));
    assert_eq!(after.limits.outbound, limit(50, 200));
    assert_eq!(after.queue_count, 2);
    world.assert_plugged(&nic, "vm1");
}
