//! The decisions about leases that come, change and go.

use agent_protocol::Phase;

use super::super::tests::{bound, configured_link, dhcp_binding, fresh_link, lease, run, sight};
use super::*;
use crate::sight::LinkPlace;

#[test]
fn a_lease_is_asked_for_applied_and_announced() {
    let mut nic = NicBinding::new(bound(dhcp_binding()));
    nic.see(sight(LinkPlace::Guest(fresh_link())));
    assert_eq!(
        run(&mut nic),
        ["Report Binding", "Enter", "SetUp", "StartLease", "Wait"]
    );

    nic.see_lease(LeaseSight::Granted(lease(50)));

    assert_eq!(
        run(&mut nic),
        [
            "SetAddresses",
            "SetRoutes",
            "Announce",
            "Verify",
            "Report Bound",
            "Wait"
        ]
    );
}

#[test]
fn another_lease_replaces_the_first_and_is_reported() {
    let mut nic = NicBinding::new(bound(dhcp_binding()));
    nic.see(sight(LinkPlace::Guest(fresh_link())));
    run(&mut nic);
    nic.see_lease(LeaseSight::Granted(lease(50)));
    run(&mut nic);

    nic.see_lease(LeaseSight::Granted(lease(50)));
    assert_eq!(run(&mut nic), ["Wait"]);
    nic.see_lease(LeaseSight::Granted(lease(51)));
    let done = run(&mut nic);

    assert_eq!(done[..2], ["Report Binding", "DropLease"]);
    let Phase::Bound { addresses, .. } = nic.phase() else {
        panic!("{:?}", nic.phase());
    };
    assert_eq!(addresses, ["192.0.2.51/24".parse::<IpNet>().unwrap()]);
}

#[test]
fn a_lost_lease_takes_its_address_away_and_waits_for_another() {
    let mut nic = NicBinding::new(bound(dhcp_binding()));
    nic.see(sight(LinkPlace::Guest(fresh_link())));
    run(&mut nic);
    nic.see_lease(LeaseSight::Granted(lease(50)));
    run(&mut nic);

    nic.see_lease(LeaseSight::Pending);

    assert_eq!(
        run(&mut nic),
        ["Report Binding", "DropLease", "SetUp", "Wait"]
    );
}

#[test]
fn an_address_leased_in_an_earlier_life_gives_way_to_the_new_one() {
    let mut link = configured_link();
    link.addresses = vec!["192.0.2.50/24".parse().unwrap()];
    let mut nic = NicBinding::new(bound(dhcp_binding()));
    nic.see(sight(LinkPlace::Target(link)));
    run(&mut nic);

    nic.see_lease(LeaseSight::Granted(lease(51)));
    run(&mut nic);

    let Phase::Bound { addresses, .. } = nic.phase() else {
        panic!("{:?}", nic.phase());
    };
    assert_eq!(addresses, ["192.0.2.51/24".parse::<IpNet>().unwrap()]);
}

#[test]
fn no_lease_in_time_fails_and_the_link_is_held() {
    let mut nic = NicBinding::new(bound(dhcp_binding()));
    nic.see(sight(LinkPlace::Guest(fresh_link())));
    run(&mut nic);

    nic.see_lease(LeaseSight::Refused { waited_ms: 15_000 });
    nic.see(sight(LinkPlace::Target(fresh_link())));

    assert_eq!(run(&mut nic), ["Hold", "Report Failed", "Wait"]);
    let error = BindError::NoLease { waited_ms: 15_000 };
    assert_eq!(nic.phase(), Phase::Failed { error });
}
