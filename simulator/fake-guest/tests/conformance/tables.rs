//! The tables: each begins with a fresh pair of systems.

use crate::step::{A, B, C, Change, NO_SUCH_LINK, Space, Step, Way};

const PLAIN: Change = Change {
    to: None,
    mac: None,
    mtu: None,
    name: None,
    alias: None,
    up: None,
};

fn up(space: Space, link: &'static str) -> Step {
    let up = Some(true);
    Step::Set(space, link, Change { up, ..PLAIN })
}

fn down(space: Space, link: &'static str) -> Step {
    let up = Some(false);
    Step::Set(space, link, Change { up, ..PLAIN })
}

fn rename(space: Space, link: &'static str, name: &'static str) -> Step {
    let name = Some(name);
    Step::Set(space, link, Change { name, ..PLAIN })
}

fn mtu(space: Space, link: &'static str, mtu: u32) -> Step {
    let mtu = Some(mtu);
    Step::Set(space, link, Change { mtu, ..PLAIN })
}

fn move_to(space: Space, link: &'static str, to: Space) -> Step {
    let to = Some(to);
    Step::Set(space, link, Change { to, ..PLAIN })
}

fn move_as(space: Space, link: &'static str, to: Space, name: &'static str) -> Step {
    let (to, name) = (Some(to), Some(name));
    Step::Set(space, link, Change { to, name, ..PLAIN })
}

fn route(space: Space, link: &'static str, to: &'static str) -> Step {
    let (by, metric) = (None, None);
    Step::AddRoute(space, link, Way { to, by, metric })
}

fn by(space: Space, link: &'static str, to: &'static str, by: &'static str) -> Step {
    let (by, metric) = (Some(by), None);
    Step::AddRoute(space, link, Way { to, by, metric })
}

fn with_metric(space: Space, link: &'static str, to: &'static str, metric: u32) -> Step {
    let (by, metric) = (None, Some(metric));
    Step::AddRoute(space, link, Way { to, by, metric })
}

use Step::{AddAddress as Add, DisableIpv6, DisableIpv6InAll, RemoveAddress as Remove};

/// Every table with its name.
pub(crate) fn all() -> Vec<(&'static str, Vec<Step>)> {
    vec![
        ("names", names()),
        ("moves", moves()),
        ("moves that clash", clashes()),
        ("one message", one_message()),
        ("addresses while down", addresses_while_down()),
        ("addresses while up", addresses_while_up()),
        ("routes", routes()),
        ("gateways", gateways()),
        ("metrics", metrics()),
        ("IPv6 switched off", ipv6_off()),
        ("links that are not there", no_such_link()),
    ]
}

fn names() -> Vec<Step> {
    vec![
        rename(A, "one", "two"),
        rename(A, "one", "one"),
        rename(A, "one", "eth0"),
        rename(A, "eth0", "lo"),
        up(A, "eth0"),
        rename(A, "eth0", "eth1"),
        rename(A, "eth1", "two"),
        mtu(A, "eth1", 1280),
        mtu(A, "eth1", 9000),
        mtu(A, "eth1", 65535),
        down(A, "eth1"),
        down(A, "eth1"),
    ]
}

fn moves() -> Vec<Step> {
    vec![
        Add(A, "one", "192.0.2.1/24"),
        Add(A, "one", "2001:db8::1/64"),
        up(A, "one"),
        mtu(A, "one", 1400),
        // The number is free there, and is not free, and is free again.
        move_to(A, "one", C),
        move_to(A, "two", C),
        move_to(C, "one", B),
        move_to(B, "taken", C),
        move_to(B, "one", A),
        move_to(C, "two", A),
        move_to(A, "two", A),
        up(A, "two"),
        move_as(A, "two", B, "eth0"),
    ]
}

fn clashes() -> Vec<Step> {
    vec![
        // A free name of its own, and one that is taken asked for.
        move_as(A, "one", B, "taken"),
        rename(A, "two", "taken"),
        move_to(A, "taken", B),
        move_as(A, "taken", B, "taken"),
        move_as(A, "taken", B, "eth0"),
        up(A, "one"),
        up(B, "one"),
        move_as(B, "one", A, "lo"),
        move_as(A, "one", B, "lo"),
    ]
}

fn one_message() -> Vec<Step> {
    let all = Change {
        to: Some(B),
        mac: Some("52:54:00:00:00:77"),
        mtu: Some(1400),
        name: Some("eth0"),
        alias: Some("nic-1"),
        up: Some(true),
    };
    vec![
        Step::Set(A, "one", all),
        Step::Set(
            B,
            "eth0",
            Change {
                alias: Some(""),
                ..PLAIN
            },
        ),
        // What comes before the part that fails has been done.
        Step::Set(
            B,
            "eth0",
            Change {
                mtu: Some(1300),
                name: Some("taken"),
                alias: Some("not done"),
                ..PLAIN
            },
        ),
        Step::Set(
            B,
            "eth0",
            Change {
                to: Some(A),
                up: Some(false),
                ..PLAIN
            },
        ),
    ]
}

fn addresses_while_down() -> Vec<Step> {
    vec![
        Add(A, "one", "192.0.2.1/24"),
        Add(A, "one", "192.0.2.1/24"),
        Add(A, "one", "192.0.2.1/25"),
        Add(A, "one", "2001:db8::1/64"),
        Add(A, "one", "2001:db8::1/64"),
        Add(A, "one", "2001:db8::1/80"),
        up(A, "one"),
        down(A, "one"),
        up(A, "one"),
        Remove(A, "one", "192.0.2.1/24"),
        Remove(A, "one", "192.0.2.1/24"),
        Remove(A, "one", "2001:db8::1/64"),
    ]
}

fn addresses_while_up() -> Vec<Step> {
    vec![
        up(A, "one"),
        Add(A, "one", "192.0.2.1/32"),
        Add(A, "one", "198.51.100.1/24"),
        Add(A, "one", "198.51.100.0/31"),
        Add(A, "one", "2001:db8::1/128"),
        Add(A, "one", "2001:db8:1::1/64"),
        Add(A, "one", "2001:db8:1::2/64"),
        by(A, "one", "0.0.0.0/0", "198.51.100.254"),
        by(A, "one", "203.0.113.0/24", "192.0.2.9"),
        Remove(A, "one", "2001:db8:1::1/64"),
        Remove(A, "one", "2001:db8:1::2/64"),
        Remove(A, "one", "198.51.100.1/24"),
        Remove(A, "one", "198.51.100.0/31"),
        // The last one takes every IPv4 route along.
        Remove(A, "one", "192.0.2.1/32"),
        Remove(A, "one", "2001:db8::1/128"),
    ]
}

fn routes() -> Vec<Step> {
    vec![
        route(A, "one", "203.0.113.0/24"),
        route(A, "one", "2001:db8:9::/48"),
        Add(A, "one", "192.0.2.1/24"),
        Add(A, "one", "2001:db8::1/64"),
        by(A, "one", "0.0.0.0/0", "192.0.2.254"),
        by(A, "one", "::/0", "2001:db8::fe"),
        up(A, "one"),
        up(A, "two"),
        by(A, "one", "0.0.0.0/0", "192.0.2.254"),
        by(A, "one", "0.0.0.0/0", "192.0.2.254"),
        by(A, "two", "0.0.0.0/0", "192.0.2.253"),
        by(A, "one", "::/0", "2001:db8::fe"),
        by(A, "one", "::/0", "2001:db8::fe"),
        route(A, "one", "203.0.113.0/24"),
        route(A, "two", "203.0.113.0/24"),
        // The subnet's own route is in the way of one without a metric, for IPv4.
        route(A, "two", "192.0.2.0/24"),
        route(A, "two", "2001:db8::/64"),
        down(A, "one"),
        up(A, "one"),
    ]
}

fn gateways() -> Vec<Step> {
    vec![
        Add(A, "one", "192.0.2.1/24"),
        Add(A, "one", "2001:db8::1/64"),
        up(A, "one"),
        up(A, "two"),
        // Outside every subnet, its own, a group's, the link's own scope.
        by(A, "one", "10.0.0.0/8", "203.0.113.1"),
        by(A, "one", "10.1.0.0/16", "192.0.2.1"),
        by(A, "two", "10.1.0.0/16", "192.0.2.1"),
        by(A, "one", "10.2.0.0/16", "224.0.0.1"),
        by(A, "one", "10.3.0.0/16", "192.0.2.255"),
        by(A, "one", "10.4.0.0/16", "127.0.0.1"),
        by(A, "one", "2001:db8:1::/48", "2001:db8:ffff::1"),
        by(A, "one", "2001:db8:2::/48", "2001:db8::1"),
        by(A, "one", "2001:db8:3::/48", "ff02::1"),
        by(A, "one", "2001:db8:4::/48", "fe80::1"),
    ]
}

fn metrics() -> Vec<Step> {
    vec![
        up(A, "one"),
        up(A, "two"),
        with_metric(A, "one", "203.0.113.0/24", 100),
        with_metric(A, "two", "203.0.113.0/24", 100),
        with_metric(A, "two", "203.0.113.0/24", 200),
        with_metric(A, "one", "203.0.113.0/24", 0),
        route(A, "two", "203.0.113.0/24"),
        with_metric(A, "one", "2001:db8:9::/48", 0),
        with_metric(A, "two", "2001:db8:9::/48", 1024),
        route(A, "two", "2001:db8:9::/48"),
        with_metric(A, "two", "2001:db8:9::/48", 10),
    ]
}

fn ipv6_off() -> Vec<Step> {
    vec![
        Add(A, "one", "2001:db8::1/64"),
        Add(A, "one", "192.0.2.1/24"),
        up(A, "one"),
        DisableIpv6(A, "one", true),
        Add(A, "one", "2001:db8::1/64"),
        route(A, "one", "2001:db8:9::/48"),
        DisableIpv6(A, "one", false),
        Add(A, "one", "2001:db8::1/64"),
        DisableIpv6(A, NO_SUCH_LINK, true),
        DisableIpv6InAll(B, true),
        Add(B, "taken", "2001:db8::2/64"),
        move_to(A, "one", B),
        Add(B, "one", "2001:db8::1/64"),
        DisableIpv6(B, "one", false),
        Add(B, "one", "2001:db8::1/64"),
        move_to(B, "one", C),
        Add(C, "one", "2001:db8::1/64"),
        DisableIpv6InAll(B, false),
        Add(B, "taken", "2001:db8::2/64"),
    ]
}

fn no_such_link() -> Vec<Step> {
    vec![
        up(A, NO_SUCH_LINK),
        rename(A, NO_SUCH_LINK, "eth0"),
        move_to(A, NO_SUCH_LINK, B),
        Add(A, NO_SUCH_LINK, "192.0.2.1/24"),
        Add(A, NO_SUCH_LINK, "2001:db8::1/64"),
        Remove(A, NO_SUCH_LINK, "192.0.2.1/24"),
        Remove(A, NO_SUCH_LINK, "2001:db8::1/64"),
        route(A, NO_SUCH_LINK, "203.0.113.0/24"),
        route(A, NO_SUCH_LINK, "2001:db8:9::/48"),
        by(A, NO_SUCH_LINK, "0.0.0.0/0", "192.0.2.254"),
    ]
}
