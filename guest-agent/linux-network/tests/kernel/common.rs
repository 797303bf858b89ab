//! What the tests of this crate share: iproute2 inside a private namespace, as the judge that has
//! nothing in common with the code under test.

use std::process::Command;

use linux_network::{LinkIndex, Netlink, Netns};

/// Runs `ip` with `arguments` inside `netns` and gives what it printed.
pub(crate) async fn ip(netns: &Netns, arguments: &str) -> String {
    let words: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
    let run = netns.run("ip", move || Command::new("ip").args(words).output());
    let output = run.await.unwrap().expect("iproute2 is installed");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A private namespace with a pair of links `one` and `two`, both down, and a connection to it.
pub(crate) async fn netns_with_pair() -> (Netns, Netlink) {
    let netns = Netns::unnamed().unwrap();
    ip(&netns, "link add one type veth peer name two").await;
    let netlink = Netlink::connect(&netns).await.unwrap();
    (netns, netlink)
}

/// The number of the link named `name`.
pub(crate) async fn index(netlink: &Netlink, name: &str) -> LinkIndex {
    let found = netlink.link_by_name(&name.parse().unwrap()).await.unwrap();
    found.unwrap_or_else(|| panic!("no link {name}")).index
}
