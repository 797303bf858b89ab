//! Events of links, announcements on the wire, settings of a namespace.

use std::time::Duration;

use crate::common::{index, ip, netns_with_pair};
use linux_network::announce::Announcer;
use linux_network::{AdminState, LinkChange, LinkEvent, LinkWatch, Netlink, Netns, sysctl};

const UP: LinkChange<'_> = LinkChange {
    move_to: None,
    mac: None,
    mtu: None,
    name: None,
    alias: None,
    admin: Some(AdminState::Up),
};

/// The first event that `wanted` accepts.
async fn wait_for(watch: &mut LinkWatch, wanted: impl Fn(&LinkEvent) -> bool) -> LinkEvent {
    let search = async {
        loop {
            let event = watch.next().await.unwrap();
            if wanted(&event) {
                return event;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), search)
        .await
        .expect("the event comes")
}

#[tokio::test]
async fn a_link_is_told_of_when_it_comes_changes_and_goes() {
    let netns = Netns::unnamed().unwrap();
    let mut watch = LinkWatch::subscribe(&netns).await.unwrap();
    let netlink = Netlink::connect(&netns).await.unwrap();

    ip(&netns, "link add one type ifb").await;
    wait_for(
        &mut watch,
        |event| matches!(event, LinkEvent::Changed(view) if view.name == "one"),
    )
    .await;
    let one = index(&netlink, "one").await;
    netlink.set_link(one, UP).await.unwrap();
    let is_up = |event: &LinkEvent| {
        let LinkEvent::Changed(view) = event else {
            return false;
        };
        view.index == one && view.admin == AdminState::Up
    };
    wait_for(&mut watch, is_up).await;
    netlink.delete_link(one).await.unwrap();
    wait_for(&mut watch, |event| *event == LinkEvent::Gone(one)).await;
}

#[tokio::test]
async fn a_link_that_moves_goes_here_and_comes_there() {
    let (netns, netlink) = netns_with_pair().await;
    let target = Netns::unnamed().unwrap();
    let mut here = LinkWatch::subscribe(&netns).await.unwrap();
    let mut there = LinkWatch::subscribe(&target).await.unwrap();
    let one = index(&netlink, "one").await;

    let change = LinkChange {
        move_to: Some(&target),
        ..LinkChange::default()
    };
    netlink.set_link(one, change).await.unwrap();

    wait_for(&mut here, |event| *event == LinkEvent::Gone(one)).await;
    wait_for(
        &mut there,
        |event| matches!(event, LinkEvent::Changed(view) if view.name == "one"),
    )
    .await;
}

#[tokio::test]
async fn leaving_a_bridge_is_not_taken_for_going_away() {
    let (netns, netlink) = netns_with_pair().await;
    ip(&netns, "link add bridge type bridge").await;
    let mut watch = LinkWatch::subscribe(&netns).await.unwrap();
    let one = index(&netlink, "one").await;
    netlink.set_link(one, UP).await.unwrap();

    ip(&netns, "link set one master bridge").await;
    ip(&netns, "link set one nomaster").await;
    ip(&netns, "link set one alias end").await;

    let end = |event: &LinkEvent| {
        assert_ne!(*event, LinkEvent::Gone(one));
        matches!(event, LinkEvent::Changed(view) if view.alias.as_deref() == Some("end"))
    };
    wait_for(&mut watch, end).await;
}

#[tokio::test]
async fn lost_events_are_told_of_as_an_overrun() {
    let (netns, netlink) = netns_with_pair().await;
    let mut watch = LinkWatch::subscribe(&netns).await.unwrap();
    let one = index(&netlink, "one").await;
    netlink.set_link(one, UP).await.unwrap();

    for number in 0..3000 {
        let alias = format!("number {number}");
        netlink
            .set_link(
                one,
                LinkChange {
                    alias: Some(&alias),
                    ..LinkChange::default()
                },
            )
            .await
            .unwrap();
    }

    wait_for(&mut watch, |event| *event == LinkEvent::Overrun).await;
    let after = LinkChange {
        alias: Some("after"),
        ..LinkChange::default()
    };
    netlink.set_link(one, after).await.unwrap();
    let after = |event: &LinkEvent| {
        let LinkEvent::Changed(view) = event else {
            return false;
        };
        view.alias.as_deref() == Some("after")
    };
    wait_for(&mut watch, after).await;
}

/// Asks for the neighbours of the links in `netns` until the answer contains `wanted`.
async fn neighbour_appears(netns: &Netns, wanted: &str) {
    let search = async {
        loop {
            let shown = ip(netns, "neighbour show").await;
            if shown.contains(wanted) {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), search)
        .await
        .expect("the neighbour appears");
}

/// Two namespaces with a link each, joined and up.
async fn two_neighbours() -> (Netns, Netlink, Netns) {
    let (here, netlink) = netns_with_pair().await;
    let there = Netns::unnamed().unwrap();
    let (one, two) = (index(&netlink, "one").await, index(&netlink, "two").await);
    netlink
        .set_link(
            two,
            LinkChange {
                move_to: Some(&there),
                ..UP
            },
        )
        .await
        .unwrap();
    netlink.set_link(one, UP).await.unwrap();
    (here, netlink, there)
}

#[tokio::test]
async fn a_neighbour_learns_an_ipv4_address_from_its_announcement() {
    let (here, netlink, there) = two_neighbours().await;
    ip(&there, "address add 10.1.2.1/24 dev two").await;
    sysctl::set(&there, "ipv4/conf/two/arp_accept", "1")
        .await
        .unwrap();
    let announcer = Announcer::open(&here).await.unwrap();
    let mac = "52:54:00:00:00:07".parse().unwrap();

    let one = index(&netlink, "one").await;
    announcer
        .gratuitous_arp(one, mac, "10.1.2.7".parse().unwrap())
        .unwrap();

    neighbour_appears(&there, "10.1.2.7 dev two lladdr 52:54:00:00:00:07").await;
}

#[tokio::test]
async fn a_neighbour_corrects_an_ipv6_address_after_its_announcement() {
    let (here, netlink, there) = two_neighbours().await;
    ip(
        &there,
        "neighbour add 2001:db8::7 lladdr 52:54:00:00:00:99 dev two nud stale",
    )
    .await;
    let announcer = Announcer::open(&here).await.unwrap();
    let mac = "52:54:00:00:00:07".parse().unwrap();

    let one = index(&netlink, "one").await;
    let address = "2001:db8::7".parse().unwrap();
    announcer
        .unsolicited_neighbour_advertisement(one, mac, address)
        .unwrap();

    neighbour_appears(&there, "2001:db8::7 dev two lladdr 52:54:00:00:00:07").await;
}

#[tokio::test]
async fn announcing_on_a_link_that_is_down_or_gone_is_an_error() {
    let (netns, netlink) = netns_with_pair().await;
    let announcer = Announcer::open(&netns).await.unwrap();
    let one = index(&netlink, "one").await;
    let mac = "52:54:00:00:00:07".parse().unwrap();
    let address = "10.1.2.7".parse().unwrap();

    let down = announcer.gratuitous_arp(one, mac, address).unwrap_err();
    netlink.delete_link(one).await.unwrap();
    let gone = announcer.gratuitous_arp(one, mac, address).unwrap_err();

    assert_eq!(down.cause.raw_os_error(), Some(libc::ENETDOWN));
    assert_eq!(gone.cause.raw_os_error(), Some(libc::ENXIO));
}

#[tokio::test]
async fn a_setting_is_changed_in_its_own_namespace_alone() {
    let (netns, _netlink) = netns_with_pair().await;
    let (other, _other) = netns_with_pair().await;

    sysctl::set(&netns, "ipv6/conf/one/accept_ra", "0")
        .await
        .unwrap();

    assert_eq!(
        sysctl::get(&netns, "ipv6/conf/one/accept_ra")
            .await
            .unwrap(),
        "0"
    );
    assert_eq!(
        sysctl::get(&other, "ipv6/conf/one/accept_ra")
            .await
            .unwrap(),
        "1"
    );
    let missing = sysctl::set(&netns, "ipv6/conf/none/accept_ra", "0")
        .await
        .unwrap_err();
    assert!(
        missing.to_string().contains("ipv6/conf/none/accept_ra"),
        "{missing}"
    );
}
