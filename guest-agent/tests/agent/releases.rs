//! Links that the host wants back: it unplugs them in a moment, or does not.

use agent_protocol::{Goal, Phase};

use crate::bound_world;
use crate::support::{World, static_binding};

/// Bound, and then released without anybody unplugging it.
async fn released_world() -> World {
    let mut world = bound_world().await;
    world.want(2, Goal::Released).await;
    world.phase(|phase| *phase == Phase::Released).await;
    world
}

#[tokio::test]
async fn a_released_link_is_bare_and_down_and_absent_once_unplugged() {
    let mut world = released_world().await;

    let link = world.link("box", "eth0").or_else(|| world.held());
    let link = link.expect("the link is where it was, or held already");
    assert!(link.contains("state DOWN"), "{link}");
    assert!(!link.contains("inet"), "{link}");
    world.unplug();
    world.phase(|phase| *phase == Phase::Absent).await;
}

#[tokio::test]
async fn a_released_link_that_is_not_unplugged_is_held() {
    let world = released_world().await;

    world.assert_held_soon().await;
}

#[tokio::test]
async fn a_released_link_that_its_container_switches_on_again_is_held() {
    let world = released_world().await;
    let container = world.netns("box");
    // Refused when the agent was quicker.
    for arguments in [
        ["link", "set", "eth0", "up"].as_slice(),
        &["addr", "add", "192.0.2.10/24", "dev", "eth0"],
    ] {
        world.try_ip(&[&["-n", &container], arguments].concat());
    }

    world.assert_held_soon().await;
}

#[tokio::test]
async fn a_released_link_leaves_a_container_that_dies() {
    let world = released_world().await;

    world.ip(&["netns", "del", &world.netns("box")]);

    world.assert_held_soon().await;
}

#[tokio::test]
async fn a_released_link_that_is_forgotten_is_held() {
    let mut world = released_world().await;

    world.forget().await;

    world.assert_held_soon().await;
}

#[tokio::test]
async fn a_released_link_is_bound_again_wherever_it_is_wanted() {
    for target in ["other", "box"] {
        let mut world = released_world().await;
        let target = world.netns(target);
        if world.link("other", "lo").is_none() {
            world.ip(&["netns", "add", &world.netns("other")]);
        }

        let binding = static_binding(&format!("netns:{target}"));
        world.want_bound(3, binding).await;

        let report = world.bound().await;
        assert_eq!(report.generation, 3);
        let which = target.rsplit('-').next().unwrap();
        world.assert_reachable(which, "192.0.2.10").await;
    }
}

#[tokio::test]
async fn an_agent_killed_between_release_and_unplug_releases_again() {
    let mut world = released_world().await;
    world.kill_agent();
    world.start_agent();

    world.connect().await;

    world.phase(|phase| *phase == Phase::Released).await;
    world.assert_held_soon().await;
}
