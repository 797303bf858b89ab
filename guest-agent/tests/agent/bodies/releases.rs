//! Links that the host wants back: it unplugs them in a moment, or does not.

use agent_protocol::{Goal, Phase};

use crate::bed::{Admin, Bed, static_binding};

/// Bound, and then released without anybody unplugging it.
async fn released<B: Bed>() -> B {
    let mut bed = B::bound_bed().await;
    bed.want(2, Goal::Released).await;
    bed.phase(|phase| *phase == Phase::Released).await;
    bed
}

pub(crate) async fn a_released_link_is_bare_and_down_and_absent_once_unplugged<B: Bed>() {
    let mut bed = released::<B>().await;

    let link = bed.link("box").or_else(|| bed.link("holding"));
    let link = link.expect("the link is where it was, or held already");
    assert_eq!(link.admin, Admin::Down, "{link:?}");
    assert!(link.addresses.is_empty(), "{link:?}");
    bed.unplug();
    bed.phase(|phase| *phase == Phase::Absent).await;
}

pub(crate) async fn a_released_link_that_is_not_unplugged_is_held<B: Bed>() {
    let bed = released::<B>().await;

    bed.assert_held_soon().await;
}

pub(crate) async fn a_released_link_that_its_container_switches_on_again_is_held<B: Bed>() {
    let mut bed = released::<B>().await;

    bed.meddle("box");

    bed.assert_held_soon().await;
}

pub(crate) async fn a_released_link_leaves_a_container_that_dies<B: Bed>() {
    let mut bed = released::<B>().await;

    bed.remove_netns("box");

    bed.assert_held_soon().await;
}

pub(crate) async fn a_released_link_that_is_forgotten_is_held<B: Bed>() {
    let mut bed = released::<B>().await;

    bed.host().forget().await;

    bed.assert_held_soon().await;
}

pub(crate) async fn a_released_link_is_bound_again_wherever_it_is_wanted<B: Bed>() {
    for which in ["other", "box"] {
        let mut bed = released::<B>().await;
        bed.add_netns("other");

        let binding = static_binding(&bed.target(which));
        bed.want_bound(3, binding).await;

        let report = bed.bound().await;
        assert_eq!(report.generation, 3);
        assert!(bed.answers(which, "192.0.2.10").await, "{which}");
    }
}

pub(crate) async fn an_agent_killed_between_release_and_unplug_releases_again<B: Bed>() {
    let mut bed = released::<B>().await;
    bed.kill_agent();
    bed.start_agent();

    bed.connect().await;

    bed.phase(|phase| *phase == Phase::Released).await;
    bed.assert_held_soon().await;
}
