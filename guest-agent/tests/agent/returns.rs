//! Containers that end under their link.

use agent_protocol::{BindError, Phase};

use crate::support::{World, static_binding};
use crate::{bound_world, container, error_of, is_failed, namespace_of, waiting_for_a_lease};

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

#[tokio::test]
async fn a_container_killed_in_mid_bind_is_an_error_and_the_link_is_held() {
    let mut world = World::start().await;
    let pid = container(&mut world).await;
    let target = format!("pid:{pid}@{}", namespace_of(pid));
    let mut world = waiting_for_a_lease(&target, world).await;

    world.kill_helper(pid);

    let report = world.phase(is_failed).await;
    let target = target.parse().unwrap();
    assert_eq!(error_of(report.phase), BindError::TargetGone { target });
    world.assert_held();
}

#[tokio::test]
async fn a_namespace_deleted_in_mid_bind_is_an_error_and_the_link_is_held() {
    let world = World::start().await;
    let target = format!("netns:{}", world.netns("box"));
    let mut world = waiting_for_a_lease(&target, world).await;

    world.ip(&["netns", "del", &world.netns("box")]);

    let report = world.phase(is_failed).await;
    let target = target.parse().unwrap();
    assert_eq!(error_of(report.phase), BindError::TargetGone { target });
    world.assert_held();
}
