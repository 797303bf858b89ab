//! Links, addresses and routes through a real kernel, in private namespaces.

use crate::common::{index, ip, netns_with_pair};
use linux_network::{
    AdminState, Carrier, DuplicateDetection, Errno, LinkChange, LinkIndex, Netlink, Netns,
    PeerName, VethPeer, VethSpec, every_link,
};
use nic_model::{IpNet, MacAddr, Mtu, Route};

const UP: LinkChange<'_> = LinkChange {
    move_to: None,
    mac: None,
    mtu: None,
    name: None,
    alias: None,
    admin: Some(AdminState::Up),
};

#[tokio::test]
async fn everything_about_a_link_is_changed_in_one_message() {
    let (netns, netlink) = netns_with_pair().await;
    let one = index(&netlink, "one").await;
    let change = LinkChange {
        mac: Some("52:54:00:00:00:01".parse().unwrap()),
        mtu: Some(1400.try_into().unwrap()),
        name: Some(&"eth0".parse().unwrap()),
        alias: Some("a text"),
        admin: Some(AdminState::Up),
        move_to: None,
    };

    netlink.set_link(one, change).await.unwrap();

    let view = netlink.link(one).await.unwrap().unwrap();
    assert_eq!(
        (view.name.as_str(), view.mtu, view.admin),
        ("eth0", 1400, AdminState::Up)
    );
    assert_eq!(view.mac, Some("52:54:00:00:00:01".parse().unwrap()));
    assert_eq!(view.alias.as_deref(), Some("a text"));
    assert_eq!(view.kind.as_deref(), Some("veth"));
    let shown = ip(&netns, "-d link show eth0").await;
    assert!(
        shown.contains("mtu 1400") && shown.contains("alias a text"),
        "{shown}"
    );
}

#[tokio::test]
async fn a_link_has_a_carrier_once_its_peer_is_up() {
    let (_netns, netlink) = netns_with_pair().await;
    let (one, two) = (index(&netlink, "one").await, index(&netlink, "two").await);
    netlink.set_link(one, UP).await.unwrap();
    assert_eq!(
        netlink.link(one).await.unwrap().unwrap().carrier,
        Carrier::Absent
    );

    netlink.set_link(two, UP).await.unwrap();

    assert_eq!(
        netlink.link(one).await.unwrap().unwrap().carrier,
        Carrier::Present
    );
}

#[tokio::test]
async fn a_link_moves_and_gets_its_new_name_in_one_step() {
    let (_netns, netlink) = netns_with_pair().await;
    let target = Netns::unnamed().unwrap();
    let there = Netlink::connect(&target).await.unwrap();
    let one = index(&netlink, "one").await;
    let name = "eth0".parse().unwrap();

    let change = LinkChange {
        move_to: Some(&target),
        name: Some(&name),
        ..UP
    };
    netlink.set_link(one, change).await.unwrap();

    assert_eq!(netlink.link(one).await.unwrap(), None);
    let arrived = there.link_by_name(&name).await.unwrap().unwrap();
    assert_eq!(arrived.admin, AdminState::Up);
}

#[tokio::test]
async fn a_move_to_where_the_name_is_taken_leaves_the_link_where_it_was() {
    let (_netns, netlink) = netns_with_pair().await;
    let (target, there) = netns_with_pair().await;
    let one = index(&netlink, "one").await;
    let taken = "two".parse().unwrap();

    let change = LinkChange {
        move_to: Some(&target),
        name: Some(&taken),
        ..UP
    };
    let refusal = netlink.set_link(one, change).await.unwrap_err();

    assert_eq!(refusal.errno(), Some(Errno::EXIST), "{refusal}");
    let stayed = netlink.link(one).await.unwrap().unwrap();
    assert_eq!(
        (stayed.name.as_str(), stayed.admin),
        ("one", AdminState::Down)
    );
    assert_eq!(there.links().await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_link_that_is_gone_is_told_apart_from_a_name_that_is_taken() {
    let (_netns, netlink) = netns_with_pair().await;
    let one = index(&netlink, "one").await;
    let two = "two".parse().unwrap();

    let gone = netlink.set_link(LinkIndex(9999), UP).await.unwrap_err();
    let taken = netlink.set_link(
        one,
        LinkChange {
            name: Some(&two),
            ..LinkChange::default()
        },
    );

    assert_eq!(gone.errno(), Some(Errno::NODEV));
    assert_eq!(taken.await.unwrap_err().errno(), Some(Errno::EXIST));
    assert_eq!(netlink.link(LinkIndex(9999)).await.unwrap(), None);
    assert_eq!(
        netlink
            .link_by_name(&"none".parse().unwrap())
            .await
            .unwrap(),
        None
    );
}

#[tokio::test]
async fn deleting_a_link_twice_is_fine() {
    let (_netns, netlink) = netns_with_pair().await;
    let one = index(&netlink, "one").await;

    netlink.delete_link(one).await.unwrap();
    netlink.delete_link(one).await.unwrap();

    assert_eq!(
        netlink.links().await.unwrap().len(),
        1,
        "the loopback alone is left"
    );
}

#[tokio::test]
async fn addresses_of_both_families_can_be_used_at_once() {
    let (netns, netlink) = netns_with_pair().await;
    let one = index(&netlink, "one").await;
    netlink.set_link(one, UP).await.unwrap();
    let wanted: Vec<IpNet> = ["10.1.2.3/24", "2001:db8::3/64"]
        .map(|text| text.parse().unwrap())
        .into();

    for address in &wanted {
        netlink
            .add_address(one, *address, DuplicateDetection::Off)
            .await
            .unwrap();
    }

    let found = netlink.addresses(one).await.unwrap();
    let own: Vec<_> = found.iter().filter(|view| !view.link_local).collect();
    assert_eq!(
        own.iter().map(|view| view.address).collect::<Vec<_>>(),
        wanted
    );
    assert!(
        own.iter().all(|view| !view.tentative && !view.duplicate),
        "{found:?}"
    );
    let shown = ip(&netns, "address show dev one").await;
    assert!(
        shown.contains("inet 10.1.2.3/24 brd 10.1.2.255 scope global one"),
        "{shown}"
    );
}

#[tokio::test]
async fn an_address_that_is_there_or_not_there_is_told() {
    let (_netns, netlink) = netns_with_pair().await;
    let one = index(&netlink, "one").await;
    let address = "10.1.2.3/24".parse().unwrap();
    netlink
        .add_address(one, address, DuplicateDetection::Off)
        .await
        .unwrap();

    let again = netlink
        .add_address(one, address, DuplicateDetection::Off)
        .await
        .unwrap_err();
    netlink.remove_address(one, address).await.unwrap();
    netlink.remove_address(one, address).await.unwrap();

    assert_eq!(again.errno(), Some(Errno::EXIST));
    assert_eq!(netlink.addresses(one).await.unwrap(), []);
}

#[tokio::test]
async fn routes_are_read_back_as_they_were_added() {
    let (netns, netlink) = netns_with_pair().await;
    let one = index(&netlink, "one").await;
    netlink.set_link(one, UP).await.unwrap();
    netlink
        .set_link(index(&netlink, "two").await, UP)
        .await
        .unwrap();
    let address = "10.1.2.3/32".parse().unwrap();
    netlink
        .add_address(one, address, DuplicateDetection::Off)
        .await
        .unwrap();
    let address = "2001:db8::3/128".parse().unwrap();
    netlink
        .add_address(one, address, DuplicateDetection::Off)
        .await
        .unwrap();
    let route = |to: &str, gateway: Option<&str>, metric| Route {
        destination: to.parse().unwrap(),
        gateway: gateway.map(|hop| hop.parse().unwrap()),
        metric: Some(metric),
    };
    let wanted = [
        route("0.0.0.0/0", Some("10.1.2.1"), 100),
        route("10.9.0.0/16", None, 7),
        route("::/0", Some("2001:db8::1"), 100),
        route("2001:db8:9::/48", None, 7),
    ];

    for route in &wanted {
        netlink.add_route(one, route).await.unwrap();
    }

    let found = netlink.routes(one).await.unwrap();
    let found: Vec<_> = found.into_iter().filter(|view| !view.by_kernel).collect();
    for route in &wanted {
        assert!(
            found.iter().any(|view| view.route == *route),
            "{route:?} not in {found:?}"
        );
    }
    assert_eq!(found.len(), wanted.len());
    let shown = ip(&netns, "route show").await;
    assert!(
        shown.contains("default via 10.1.2.1 dev one proto static metric 100"),
        "{shown}"
    );
    let again = netlink.add_route(one, &wanted[0]).await.unwrap_err();
    assert_eq!(again.errno(), Some(Errno::EXIST));
}

#[tokio::test]
async fn a_route_through_a_link_that_is_down_is_refused_as_such() {
    let (_netns, netlink) = netns_with_pair().await;
    let one = index(&netlink, "one").await;
    let destination = "10.9.0.0/16".parse().unwrap();

    let route = Route {
        destination,
        gateway: None,
        metric: None,
    };
    let refusal = netlink.add_route(one, &route).await.unwrap_err();

    assert_eq!(refusal.errno(), Some(Errno::NETDOWN), "{refusal}");
}

#[tokio::test]
async fn a_list_read_while_links_come_and_go_is_whole() {
    let (netns, netlink) = netns_with_pair().await;
    for number in 0..40 {
        ip(&netns, &format!("link add stay{number} type ifb")).await;
    }
    let churn = netns.run("churn", || {
        for _ in 0..20 {
            for verb in ["add", "del"] {
                let arguments = ["link", verb, "brief", "type", "ifb"];
                assert!(
                    std::process::Command::new("ip")
                        .args(arguments)
                        .status()
                        .unwrap()
                        .success()
                );
            }
        }
    });
    let churn = tokio::spawn(async move { churn.await.unwrap() });

    while !churn.is_finished() {
        let links = netlink.links().await.unwrap();
        let staying = links
            .iter()
            .filter(|link| link.name.starts_with("stay"))
            .count();
        assert_eq!(staying, 40);
        tokio::task::yield_now().await;
    }

    churn.await.unwrap();
}

#[tokio::test]
async fn every_link_of_a_crowd_is_seen_as_in_the_usual_list() {
    let (netns, netlink) = netns_with_pair().await;
    for number in 0..300 {
        ip(&netns, &format!("link add many{number} type ifb")).await;
    }
    ip(&netns, "link add bridge type bridge").await;
    ip(&netns, "link set one master bridge alias words up").await;

    let every = every_link(&netns).await.unwrap();

    assert_eq!(every, netlink.links().await.unwrap());
    assert_eq!(every.len(), 304);
}

#[tokio::test]
async fn many_lists_at_once_all_arrive() {
    let (netns, netlink) = netns_with_pair().await;
    for number in 0..60 {
        ip(&netns, &format!("link add many{number} type ifb")).await;
    }

    let lists = futures::future::join_all((0..50).map(|_| netlink.links())).await;

    for list in lists {
        assert_eq!(list.unwrap().len(), 63);
    }
}

#[tokio::test]
async fn a_pair_reaches_into_another_namespace_and_goes_with_either_end() {
    let (host, guest) = (Netns::unnamed().unwrap(), Netns::unnamed().unwrap());
    let netlink = Netlink::connect(&host).await.unwrap();
    let inside = Netlink::connect(&guest).await.unwrap();
    let (near, mac) = ("hw0".parse().unwrap(), MacAddr::local([0, 0, 0, 0, 7]));
    let pair = VethSpec {
        name: &near,
        mtu: Some(Mtu::try_from(9000).unwrap()),
        peer: VethPeer {
            name: PeerName::NextEthernet,
            netns: Some(&guest),
            mac: Some(mac),
            mtu: None,
        },
    };

    netlink.add_veth(pair).await.unwrap();
    let again = netlink.add_veth(pair).await.unwrap_err();

    let eth0 = "eth0".parse().unwrap();
    let far = inside.link_by_name(&eth0).await.unwrap().unwrap();
    let near = netlink.link_by_name(&near).await.unwrap().unwrap();
    assert_eq!((far.mac, far.mtu, near.mtu), (Some(mac), 1500, 9000));
    assert_eq!(again.errno(), Some(Errno::EXIST));
    netlink.delete_link(near.index).await.unwrap();
    assert_eq!(inside.link_by_name(&eth0).await.unwrap(), None);
}
