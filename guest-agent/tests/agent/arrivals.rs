//! Links whose arrival the kernel did not tell the agent of.

use agent_protocol::Phase;
use linux_network::{LinkChange, Netlink, Netns};

use crate::support::{World, static_binding};

/// Changes to one link between two looks at whether the agent's receive buffer still grows.
const CHANGES_AT_A_TIME: usize = 500;
/// Many times what the agent's receive buffer holds.
const MOST_CHANGES: usize = 50_000;

/// Changes a link in the guest until the kernel has no room left for the agent's events. From then
/// on it drops them all, until the agent reads.
async fn overrun(world: &World) {
    let guest = world.netns("guest");
    let own = [
        "link", "add", "own0", "type", "veth", "peer", "name", "own1",
    ];
    world.ip(&[&["-n", &guest], &own[..]].concat());
    // The kernel tells of a new alias only while the link is up (`netdev_state_change`).
    world.ip(&["-n", &guest, "link", "set", "own0", "up"]);
    let netns = Netns::open_named(&guest.parse().unwrap()).unwrap();
    let netlink = Netlink::connect(&netns).await.unwrap();
    let own = netlink.link_by_name(&"own0".parse().unwrap()).await;
    let own = own.unwrap().unwrap().index;
    let mut unread = 0;
    for number in 1..=MOST_CHANGES {
        let alias = format!("number {number}");
        let change = LinkChange {
            alias: Some(&alias),
            ..LinkChange::default()
        };
        netlink.set_link(own, change).await.unwrap();
        if number.is_multiple_of(CHANGES_AT_A_TIME) {
            let before = std::mem::replace(&mut unread, world.unread_link_events());
            if unread > 0 && before == unread {
                return;
            }
        }
    }
    panic!("the agent's receive buffer holds {MOST_CHANGES} events");
}

#[tokio::test]
async fn a_link_that_arrives_while_events_are_lost_is_bound() {
    let mut world = World::start().await;
    let target = format!("netns:{}", world.netns("box"));
    world.want_bound(1, static_binding(&target)).await;
    world.phase(|phase| *phase == Phase::Awaited).await;
    world.stop_agent();
    overrun(&world).await;
    world.plug();

    world.continue_agent();

    world.bound().await;
    world.assert_reachable("box", "192.0.2.10").await;
}

/// The agent is told of links in the guest's own namespace; elsewhere it has to look.
#[tokio::test]
async fn a_link_that_arrives_where_nobody_tells_of_it_is_bound() {
    for place in ["box", "holding"] {
        let mut world = World::start().await;
        let target = format!("netns:{}", world.netns("box"));
        world.want_bound(1, static_binding(&target)).await;
        world.phase(|phase| *phase == Phase::Awaited).await;

        world.plug_into(place);

        world.bound().await;
        world.assert_reachable("box", "192.0.2.10").await;
    }
}
