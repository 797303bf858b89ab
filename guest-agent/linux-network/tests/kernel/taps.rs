//! Taps: who holds them, and what is left of them.

use std::num::NonZeroU16;

use linux_network::tap::{self, AttachTapError, TapSpec};
use linux_network::{Carrier, LinkChange, LinkView, Netlink, Netns, remove_links};
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

async fn links_named(netlink: &Netlink, names: &[&str]) -> Vec<LinkView> {
    let mut links = netlink.links().await.unwrap();
    links.retain(|link| names.contains(&link.name.as_str()));
    links
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
    ip(&netns, "link add absent type ifb").await;
    let doomed = links_named(&netlink, &["tap0", "absent", "ifb7"]).await;
    ip(&netns, "link delete absent").await;

    remove_links(&netns, doomed, ()).await.unwrap();

    let links = netlink.links().await.unwrap();
    let left: Vec<_> = links.iter().map(|link| link.name.as_str()).collect();
    assert_eq!(left, ["lo", "other"]);
}

#[tokio::test]
async fn a_link_made_under_the_name_of_a_removed_one_stays() {
    let netns = Netns::unnamed().unwrap();
    let netlink = Netlink::connect(&netns).await.unwrap();
    ip(&netns, "link add ifb7 type ifb").await;
    let old = links_named(&netlink, &["ifb7"]).await;
    ip(&netns, "link delete ifb7").await;
    ip(&netns, "link add ifb7 type ifb").await;

    remove_links(&netns, old, ()).await.unwrap();

    assert_eq!(links_named(&netlink, &["ifb7"]).await.len(), 1);
}

#[tokio::test]
async fn a_claim_is_held_until_the_links_are_gone_though_nobody_waits() {
    let netns = Netns::unnamed().unwrap();
    let netlink = Netlink::connect(&netns).await.unwrap();
    ip(&netns, "link add ifb7 type ifb").await;
    ip(&netns, "link add ifb8 type ifb").await;
    let doomed = links_named(&netlink, &["ifb7", "ifb8"]).await;
    let (claim, dropped) = tokio::sync::oneshot::channel::<()>();

    {
        let mut removal = std::pin::pin!(remove_links(&netns, doomed, claim));
        assert!(futures::poll!(&mut removal).is_pending());
    }
    dropped.await.unwrap_err();

    assert!(links_named(&netlink, &["ifb7", "ifb8"]).await.is_empty());
}

#[tokio::test]
async fn a_link_that_cannot_be_removed_is_named() {
    let netns = Netns::unnamed().unwrap();
    let netlink = Netlink::connect(&netns).await.unwrap();
    let loopback = links_named(&netlink, &["lo"]).await;

    let refused = remove_links(&netns, loopback, ()).await;

    assert_eq!(refused.unwrap_err().to_string(), "failed to delete link lo");
}

#[tokio::test]
async fn a_plugged_tap_is_named_as_a_drivers_link_and_goes_with_its_descriptor_from_anywhere() {
    let (machine, container) = (Netns::unnamed().unwrap(), Netns::unnamed().unwrap());
    let inside = Netlink::connect(&container).await.unwrap();
    let (first, eth0) = tap::plug_in(&machine).await.unwrap();
    let (_second, eth1) = tap::plug_in(&machine).await.unwrap();
    assert_eq!((eth0.as_str(), eth1.as_str()), ("eth0", "eth1"));
    let netlink = Netlink::connect(&machine).await.unwrap();
    let link = netlink.link_by_name(&eth0).await.unwrap().unwrap();
    let over = LinkChange {
        move_to: Some(&container),
        ..LinkChange::default()
    };
    netlink.set_link(link.index, over).await.unwrap();
    assert!(inside.link_by_name(&eth0).await.unwrap().is_some());

    drop(first);

    assert_eq!(inside.link_by_name(&eth0).await.unwrap(), None);
    assert!(netlink.link_by_name(&eth1).await.unwrap().is_some());
}

#[tokio::test]
async fn a_tap_can_be_held_without_a_carrier() {
    let netns = Netns::unnamed().unwrap();
    let netlink = Netlink::connect(&netns).await.unwrap();
    let (queue, name) = tap::plug_in(&netns).await.unwrap();
    let far_end = async || {
        let link = netlink.link_by_name(&name).await.unwrap();
        link.unwrap().far_end
    };
    assert_eq!(far_end().await, Carrier::Present);

    tap::set_carrier(&queue, Carrier::Absent).unwrap();
    assert_eq!(far_end().await, Carrier::Absent);

    tap::set_carrier(&queue, Carrier::Present).unwrap();
    assert_eq!(far_end().await, Carrier::Present);
}
