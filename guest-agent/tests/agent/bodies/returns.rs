//! Containers that end under their link.

use agent_protocol::{BindError, Phase};

use crate::bed::{Bed, static_binding};

pub(crate) async fn a_killed_container_gives_its_link_back<B: Bed>() {
    let mut bed = B::start().await;
    let container = bed.start_container().await;
    let target = format!("pid:{}@{}", container.pid, container.inode);
    bed.want_bound(1, static_binding(&target)).await;
    bed.plug();
    bed.bound().await;

    bed.kill_container(container);

    bed.phase(|phase| *phase == Phase::Returned).await;
    bed.assert_held();
}

pub(crate) async fn a_deleted_namespace_gives_its_link_back<B: Bed>() {
    let mut bed = B::bound_bed().await;

    bed.remove_netns("box");

    bed.phase(|phase| *phase == Phase::Returned).await;
    bed.assert_held();
}

pub(crate) async fn a_container_killed_in_mid_bind_is_an_error_and_the_link_is_held<B: Bed>() {
    let mut bed = B::start().await;
    let container = bed.start_container().await;
    let target = format!("pid:{}@{}", container.pid, container.inode);
    let mut bed = B::waiting_for_a_lease(&target, bed).await;

    bed.kill_container(container);

    let target = target.parse().unwrap();
    assert_eq!(bed.error().await, BindError::TargetGone { target });
    bed.assert_held();
}

pub(crate) async fn a_namespace_deleted_in_mid_bind_is_an_error_and_the_link_is_held<B: Bed>() {
    let bed = B::start().await;
    let target = bed.target("box");
    let mut bed = B::waiting_for_a_lease(&target, bed).await;

    bed.remove_netns("box");

    let target = target.parse().unwrap();
    assert_eq!(bed.error().await, BindError::TargetGone { target });
    bed.assert_held();
}
