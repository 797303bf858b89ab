//! Agents and hosts that begin anew and find what was done before.

use agent_protocol::{Goal, KnownTarget, Phase};
use nic_model::{NetnsInode, ProcessStart, TargetIdentity};

use crate::bed::{Bed, static_binding};

pub(crate) async fn a_host_that_restarts_is_told_everything_again<B: Bed>() {
    let mut bed = B::bound_bed().await;

    bed.connect().await;

    let next = bed.phase(|_any| true).await.phase;
    assert!(matches!(next, Phase::Bound { .. }), "{next:?}");
}

pub(crate) async fn a_killed_agent_finds_a_bound_link_and_leaves_it_up<B: Bed>() {
    let mut bed = B::bound_bed().await;
    let before = bed.link("box").unwrap();

    bed.kill_agent();
    bed.start_agent();
    bed.connect().await;

    bed.bound().await;
    assert_eq!(bed.link("box").unwrap(), before);
}

pub(crate) async fn a_killed_agent_releases_a_link_it_was_never_told_the_place_of<B: Bed>() {
    let mut bed = B::bound_bed().await;
    bed.kill_agent();
    bed.start_agent();
    bed.host().want_offline(2, Goal::Released);

    bed.connect().await;

    bed.phase(|phase| *phase == Phase::Released).await;
    bed.assert_held_soon().await;
}

pub(crate) async fn a_container_that_died_while_no_agent_ran_is_told_as_one_that_died<B: Bed>() {
    let mut bed = B::start().await;
    let container = bed.start_container().await;
    let target = format!("pid:{}", container.pid);
    bed.want_bound(1, static_binding(&target)).await;
    bed.plug();
    bed.bound().await;
    bed.kill_agent();
    bed.kill_container(container);

    bed.start_agent();
    bed.connect().await;

    bed.phase(|phase| *phase == Phase::Returned).await;
    bed.assert_held();
}

pub(crate) async fn a_process_that_bears_the_pid_of_a_dead_container_gets_nothing<B: Bed>() {
    let mut bed = B::start().await;
    let container = bed.start_container().await;
    let binding = static_binding(&format!("pid:{}", container.pid));
    bed.want_bound(1, binding.clone()).await;
    bed.plug();
    let Phase::Bound { target, .. } = bed.bound().await.phase else {
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
        bed.kill_agent();
        let known = KnownTarget::BoundIn { target };
        bed.host().know_offline(binding.clone(), known);

        bed.start_agent();
        bed.connect().await;

        bed.phase(|phase| *phase == Phase::Returned).await;
        bed.assert_held();
    }
}

pub(crate) async fn an_agent_killed_in_mid_bind_carries_on_after_its_restart<B: Bed>() {
    let bed = B::start().await;
    let target = bed.target("box");
    let mut bed = B::waiting_for_a_lease(&target, bed).await;

    bed.kill_agent();
    bed.serve_dhcp();
    bed.start_agent();
    bed.connect().await;

    bed.bound().await;
    let addresses = bed.link("box").unwrap().addresses;
    assert!(addresses[0].starts_with("192.0.2.1"), "{addresses:?}");
}
