//! Taps: who holds them, and what is left of them.

use std::num::NonZeroU16;

use linux_network::tap::{self, AttachTapError, TapSpec};
use linux_network::{Carrier, LinkView, Netlink, Netns, remove_links};
use nic_model::LinkName;

use crate::common::ip;

fn name() -> LinkName {
    "tap0".parse().unwrap()
}

fn spec(queues: u16) -> TapSpec {
    TapSpec {
        name: name(),
        queue_count: NonZeroU16::new(queues).unwrap(),
        owner: None,
    }
}

async fn link(netlink: &Netlink) -> LinkView {
    netlink.link_by_name(&name()).await.unwrap().unwrap()
}

#[tokio::test]
async fn the_far_end_of_a_tap_is_there_while_a_queue_is_held_whether_it_is_up_or_down() {
    for queues in [1, 3] {
        let netns = Netns::unnamed().unwrap();
        let netlink = Netlink::connect(&netns).await.unwrap();
        for admin in ["up", "down"] {
            let mut held = tap::attach(&netns, spec(queues)).await.unwrap();
            ip(&netns, &format!("link set tap0 {admin}")).await;

            let while_held = link(&netlink).await;
            held.truncate(1);
            let by_one_queue = link(&netlink).await;
            drop(held);
            let afterwards = until_let_go(&netlink).await;

            assert_eq!(while_held.far_end, Carrier::Present, "{queues} {admin}");
            assert_eq!(by_one_queue.far_end, Carrier::Present, "{queues} {admin}");
            assert_eq!(afterwards.index, while_held.index, "the tap stays");
        }
    }
}

/// A child that another test has forked may hold a descriptor until it executes.
async fn until_let_go(netlink: &Netlink) -> LinkView {
    loop {
        let found = link(netlink).await;
        if found.far_end == Carrier::Absent {
            return found;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_tap_that_another_holds_is_not_attached_to() {
    let netns = Netns::unnamed().unwrap();
    let _held = tap::attach(&netns, spec(1)).await.unwrap();

    let refused = tap::attach(&netns, spec(1)).await;

    assert!(matches!(refused, Err(AttachTapError::Held(_))));
}

#[tokio::test]
async fn removed_links_are_gone_and_those_that_never_were_are_no_failure() {
    let netns = Netns::unnamed().unwrap();
    let netlink = Netlink::connect(&netns).await.unwrap();
    drop(tap::attach(&netns, spec(1)).await.unwrap());
    ip(&netns, "link add ifb7 type ifb").await;
    ip(&netns, "link add other type ifb").await;
    let names = ["tap0", "absent", "ifb7"].map(|name| name.parse().unwrap());

    remove_links(&netns, names.to_vec()).await.unwrap();

    let links = netlink.links().await.unwrap();
    let left: Vec<_> = links.iter().map(|link| link.name.as_str()).collect();
    assert_eq!(left, ["lo", "other"]);
}

#[tokio::test]
async fn a_link_that_cannot_be_removed_is_named() {
    let netns = Netns::unnamed().unwrap();

    let refused = remove_links(&netns, vec!["lo".parse().unwrap()]).await;

    assert_eq!(refused.unwrap_err().to_string(), "failed to delete link lo");
}
