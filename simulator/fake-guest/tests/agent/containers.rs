//! Containers that end with the namespace they had to themselves, and numbers that are used again.

use std::time::Duration;

use agent_protocol::Phase;
use fake_guest::DhcpMode;

use crate::bed::{Admin, Bed, dhcp_binding, static_binding};
use crate::fake::Fake;

/// Bound in a container with a namespace of its own; gives its pid.
async fn bound_in_a_container() -> (Fake, u32) {
    let mut bed = Fake::start().await;
    let container = bed.guest.start_container().unwrap();
    let target = format!("pid:{}", container.pid);
    bed.want_bound(1, static_binding(&target)).await;
    bed.plug();
    bed.bound().await;
    (bed, container.pid)
}

#[tokio::test(start_paused = true)]
async fn the_kernel_gives_a_dead_containers_link_back_under_its_name() {
    let (mut bed, pid) = bound_in_a_container().await;
    bed.kill_agent();

    bed.guest.kill(pid).unwrap();
    bed.pass(Duration::from_millis(5)).await;
    assert_eq!(bed.link("guest"), None);
    bed.pass(Duration::from_millis(10)).await;

    let link = bed.link("guest").unwrap();
    assert_eq!((link.name.as_str(), link.admin), ("eth0", Admin::Down));
    assert!(link.addresses.is_empty());
    bed.start_agent();
    bed.connect().await;
    bed.phase(|phase| *phase == Phase::Returned).await;
    bed.assert_held();
}

#[tokio::test(start_paused = true)]
async fn a_link_that_is_given_back_to_where_its_name_is_taken_is_named_after_its_number() {
    let (mut bed, pid) = bound_in_a_container().await;
    // udev has tried to rename it by then.
    bed.pass(Duration::from_secs(1)).await;
    let index = {
        let view = bed.guest.view();
        view.of_process(pid).unwrap().links[0].index
    };
    bed.add_link("guest", "eth0", Admin::Down);
    bed.kill_agent();

    bed.guest.kill(pid).unwrap();
    bed.pass(Duration::from_secs(1)).await;

    assert_eq!(bed.link("guest").unwrap().name, format!("dev{index}"));
}

#[tokio::test(start_paused = true)]
async fn a_pid_that_another_container_bears_now_gets_nothing() {
    let (mut bed, pid) = bound_in_a_container().await;
    bed.kill_agent();
    bed.guest.kill(pid).unwrap();
    bed.pass(Duration::from_secs(1)).await;
    let successor = bed.guest.start_container_as(pid).unwrap();

    bed.start_agent();
    bed.connect().await;

    bed.phase(|phase| *phase == Phase::Returned).await;
    bed.assert_held();
    let view = bed.guest.view();
    assert!(view.of_process(successor.pid).unwrap().links.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_not_renewed_ends_and_is_asked_for_anew() {
    let mut bed = Fake::start().await;
    let target = bed.target("box");
    bed.plug();
    bed.serve_dhcp();
    bed.want_bound(1, dhcp_binding(&target)).await;
    bed.bound().await;
    bed.segment(DhcpMode::StopsRenewing);

    // Two minutes, and the address is asked for at once when it is over.
    bed.pass(Duration::from_secs(119)).await;
    assert!(bed.answers("box", "192.0.2.100").await);
    bed.segment(DhcpMode::Silent);
    bed.pass(Duration::from_secs(2)).await;
    assert!(!bed.answers("box", "192.0.2.100").await);

    bed.segment(DhcpMode::Answers);
    bed.pass(Duration::from_secs(5)).await;
    assert!(bed.answers("box", "192.0.2.100").await);
}

#[tokio::test(start_paused = true)]
async fn a_slow_server_is_waited_for_and_one_that_refuses_is_not_enough() {
    let mut bed = Fake::start().await;
    let target = bed.target("box");
    bed.plug();
    bed.segment(DhcpMode::Slow(Duration::from_secs(10)));
    bed.want_bound(1, dhcp_binding(&target)).await;
    bed.bound().await;

    let mut bed = Fake::start().await;
    bed.plug();
    bed.segment(DhcpMode::Refuses);
    bed.want_bound(1, dhcp_binding(&target)).await;
    let error = bed.error().await;
    assert!(error.to_string().contains("no DHCP server"), "{error}");
}
