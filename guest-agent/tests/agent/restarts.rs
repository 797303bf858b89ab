//! Agents and hosts that begin anew and find what was done before.

use agent_protocol::{Goal, KnownTarget, Phase};
use nic_model::{NetnsInode, ProcessStart, TargetIdentity};

use crate::support::{World, dhcp_binding, static_binding};
use crate::{bound_world, container, serve_dhcp};

#[tokio::test]
async fn a_host_that_restarts_is_told_everything_again() {
    let mut world = bound_world().await;

    world.connect().await;

    assert!(matches!(world.next_phase().await, Phase::Bound { .. }));
}

#[tokio::test]
async fn a_killed_agent_finds_a_bound_link_and_leaves_it_up() {
    let mut world = bound_world().await;
    let index = world.link("box", "eth0").unwrap();

    world.kill_agent();
    world.start_agent();
    world.connect().await;

    world.bound().await;
    assert_eq!(world.link("box", "eth0").unwrap(), index);
}

#[tokio::test]
async fn a_killed_agent_releases_a_link_it_was_never_told_the_place_of() {
    let mut world = bound_world().await;
    world.kill_agent();
    world.start_agent();
    world.want_offline(2, Goal::Released);

    world.connect().await;

    world.phase(|phase| *phase == Phase::Released).await;
    world.assert_held_soon().await;
}

#[tokio::test]
async fn a_container_that_died_while_no_agent_ran_is_told_as_one_that_died() {
    let mut world = World::start().await;
    let pid = container(&mut world).await;
    world
        .want_bound(1, static_binding(&format!("pid:{pid}")))
        .await;
    world.plug();
    world.bound().await;
    world.kill_agent();
    world.kill_helper(pid);

    world.start_agent();
    world.connect().await;

    world.phase(|phase| *phase == Phase::Returned).await;
    world.assert_held();
}

#[tokio::test]
async fn a_process_that_bears_the_pid_of_a_dead_container_gets_nothing() {
    let mut world = World::start().await;
    let pid = container(&mut world).await;
    let binding = static_binding(&format!("pid:{pid}"));
    world.want_bound(1, binding.clone()).await;
    world.plug();
    let Phase::Bound { target, .. } = world.bound().await.phase else {
        unreachable!("bound() waits for it");
    };
    let others = [
        TargetIdentity {
            process_started: target
                .process_started
                .map(|start| ProcessStart(start.0 + 1)),
            ..target
        },
        TargetIdentity {
            boot_id: "00000000-0000-4000-8000-000000000001".parse().unwrap(),
            ..target
        },
        TargetIdentity {
            netns_inode: NetnsInode(target.netns_inode.0 + 1),
            ..target
        },
    ];
    for target in others {
        world.kill_agent();
        world.know_offline(binding.clone(), KnownTarget::BoundIn { target });

        world.start_agent();
        world.connect().await;

        world.phase(|phase| *phase == Phase::Returned).await;

        world.assert_held();
    }
}

#[tokio::test]
async fn an_agent_killed_in_mid_bind_carries_on_after_its_restart() {
    let mut world = World::start().await;
    let target = format!("netns:{}", world.netns("box"));
    world.want_bound(1, dhcp_binding(&target)).await;
    world.plug();
    world.phase(|phase| *phase == Phase::Binding).await;
    // The link is in its target once nobody answers its DHCP client.
    while world.link("box", "eth0").is_none() {
        tokio::task::yield_now().await;
    }

    world.kill_agent();
    serve_dhcp(&mut world, "192.0.2.100,192.0.2.150");
    world.start_agent();
    world.connect().await;

    world.bound().await;
    assert!(world.link("box", "eth0").unwrap().contains("192.0.2.1"));
}
