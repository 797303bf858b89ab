//! Containers that end under their link.

use agent_protocol::Phase;

use crate::support::{World, static_binding};
use crate::{bound_world, container, namespace_of};

#[tokio::test]
async fn a_killed_container_gives_its_link_back() {
    let mut world = World::start().await;
    let pid = container(&mut world).await;
    let target = format!("pid:{pid}@{}", namespace_of(pid));
    world.want_bound(1, static_binding(&target)).await;
    world.plug();
    world.bound().await;

    world.kill_helper(pid);

    world.phase(|phase| *phase == Phase::Returned).await;
    world.assert_held();
}

#[tokio::test]
async fn a_deleted_namespace_gives_its_link_back() {
    let mut world = bound_world().await;

    world.ip(&["netns", "del", &world.netns("box")]);

    world.phase(|phase| *phase == Phase::Returned).await;
    world.assert_held();
}
