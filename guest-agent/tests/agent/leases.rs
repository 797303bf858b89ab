//! Addresses from a DHCP server.

use agent_protocol::{BindError, BindStep, Goal, Phase};

use crate::support::{World, dhcp_binding};
use crate::{error_of, is_failed, serve_dhcp, waiting_for_a_lease};

#[tokio::test]
async fn a_lease_is_taken_and_given_back() {
    let mut world = World::start().await;
    let target = format!("netns:{}", world.netns("box"));
    world.plug();
    serve_dhcp(&mut world, "192.0.2.100,192.0.2.100");
    world.want_bound(1, dhcp_binding(&target)).await;

    let report = world.bound().await;

    let Phase::Bound { addresses, .. } = report.phase else {
        panic!("{report:?}");
    };
    assert_eq!(addresses, ["192.0.2.100/24".parse().unwrap()]);
    let routes = world.run_in("box", "ip", &["route"]);
    assert!(routes.contains("default via 192.0.2.1"), "{routes}");
    let leases = || std::fs::read_to_string(world.file("leases")).unwrap();
    assert!(leases().contains(&world.mac()), "{}", leases());

    world.want(2, Goal::Released).await;
    world.phase(|phase| *phase == Phase::Released).await;
    let leases = || std::fs::read_to_string(world.file("leases")).unwrap();
    let begun = std::time::Instant::now();
    while leases().contains(&world.mac()) && begun.elapsed().as_secs() < 20 {
        tokio::task::yield_now().await;
    }
    assert!(!leases().contains(&world.mac()), "{}", leases());
}

#[tokio::test]
async fn no_dhcp_server_is_an_error_and_the_link_is_held() {
    let mut world = World::start().await;
    let target = format!("netns:{}", world.netns("box"));
    world.plug();
    world.want_bound(1, dhcp_binding(&target)).await;

    let report = world.phase(is_failed).await;

    let error = error_of(report.phase);
    assert!(matches!(error, BindError::NoLease { waited_ms } if waited_ms >= 15_000));
    world.assert_held();
}

#[tokio::test]
async fn a_link_unplugged_in_mid_bind_is_an_error_and_the_next_one_is_bound() {
    let world = World::start().await;
    let target = format!("netns:{}", world.netns("box"));
    let mut world = waiting_for_a_lease(&target, world).await;

    world.unplug();

    let report = world.phase(is_failed).await;
    let step = BindStep::Lease;
    assert_eq!(error_of(report.phase), BindError::LinkVanished { step });
    world.plug();
    serve_dhcp(&mut world, "192.0.2.100,192.0.2.100");
    world.want_bound(2, dhcp_binding(&target)).await;
    let report = world.bound().await;
    assert_eq!(report.generation, 2);
    world.assert_reachable("box", "192.0.2.100").await;
}
