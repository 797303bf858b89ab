//! Where a link ends up and in which state, and what stands in its way.

use agent_protocol::{BindError, BindStep, Phase};

use crate::support::{World, static_binding};
use crate::{bound_world, error_of, is_failed};

#[tokio::test]
async fn a_link_is_bound_with_both_families_and_reachable_at_once() {
    let mut world = World::start().await;
    // As `docker run --net none` leaves a container.
    for scope in ["all", "default"] {
        let setting = format!("net.ipv6.conf.{scope}.disable_ipv6=1");
        world.run_in("box", "sysctl", &["-qw", &setting]);
    }
    let target = format!("netns:{}", world.netns("box"));
    world.want_bound(1, static_binding(&target)).await;
    assert_eq!(world.next_phase().await, Phase::Awaited);
    world.plug();

    assert_eq!(world.next_phase().await, Phase::Binding);
    let report = world.bound().await;
    world.assert_reachable("box", "2001:db8::10").await;
    world.assert_reachable("box", "192.0.2.10").await;
    let link = world.link("box", "eth0").unwrap();
    assert!(link.contains("mtu 1400"), "{link}");
    let routes = world.run_in("box", "ip", &["route"]);
    assert!(
        routes.contains("default via 192.0.2.1 dev eth0"),
        "{routes}"
    );
    let steps: Vec<_> = report.steps.iter().map(|timing| timing.step).collect();
    assert_eq!(
        steps,
        [
            BindStep::Enter,
            BindStep::SetAddresses,
            BindStep::SetUp,
            BindStep::SetRoutes,
            BindStep::Announce,
            BindStep::Verify
        ]
    );
}

#[tokio::test]
async fn a_bound_address_is_announced() {
    let mut world = World::start().await;
    // A host that believes announcements of addresses it did not ask for.
    for scope in ["all", "default"] {
        let setting = format!("net.ipv4.conf.{scope}.arp_accept=1");
        world.run_in("peer", "sysctl", &["-qw", &setting]);
    }
    let target = format!("netns:{}", world.netns("box"));
    world.want_bound(1, static_binding(&target)).await;
    world.plug();

    world.bound().await;

    let neighbours = world.run_in("peer", "ip", &["-4", "neigh"]);
    assert!(neighbours.contains("192.0.2.10"), "{neighbours}");
    assert!(neighbours.contains(&world.mac()), "{neighbours}");
}

#[tokio::test]
async fn a_taken_name_is_an_error_and_the_link_is_held() {
    let mut world = World::start().await;
    let container = world.netns("box");
    world.ip(&[
        "-n", &container, "link", "add", "eth0", "type", "veth", "peer", "name", "other",
    ]);
    world
        .want_bound(1, static_binding(&format!("netns:{container}")))
        .await;
    world.plug();

    let report = world.phase(is_failed).await;

    let name = "eth0".parse().unwrap();
    assert_eq!(error_of(report.phase), BindError::NameTaken { name });
    world.assert_held();
}

#[tokio::test]
async fn a_target_that_does_not_exist_is_an_error_until_a_new_generation() {
    let mut world = World::start().await;
    let missing = world.netns("other");
    let binding = static_binding(&format!("netns:{missing}"));
    let target = binding.target.clone();
    world.want_bound(1, binding.clone()).await;
    world.plug();

    let report = world.phase(is_failed).await;
    assert_eq!(error_of(report.phase), BindError::TargetGone { target });
    world.assert_held();

    world.ip(&["netns", "add", &missing]);
    world.want_bound(2, binding).await;
    world.bound().await;
    assert!(world.link("other", "eth0").is_some());
}

#[tokio::test]
async fn a_pid_in_another_namespace_than_declared_is_refused() {
    let mut world = World::start().await;
    let pid = world.spawn_in("box", "sleep", &["1000"]);
    let target = format!("pid:{pid}@1");
    world.want_bound(1, static_binding(&target)).await;
    world.plug();

    let report = world.phase(is_failed).await;

    let error = error_of(report.phase);
    assert!(
        matches!(error, BindError::TargetChanged { .. }),
        "{error:?}"
    );
    world.assert_held();
}

#[tokio::test]
async fn the_guests_own_namespace_is_no_target() {
    let mut world = World::start().await;
    let targets = [
        format!("netns:{}", world.netns("guest")),
        format!("netns:{}", world.netns("holding")),
    ];
    world.plug();
    for (generation, target) in (1..).zip(targets) {
        world.want_bound(generation, static_binding(&target)).await;

        let report = world.phase(is_failed).await;

        let error = error_of(report.phase);
        assert!(
            matches!(error, BindError::TargetIsGuest { .. }),
            "{error:?}"
        );
        world.assert_held();
    }
}

#[tokio::test]
async fn another_target_moves_the_link() {
    let mut world = bound_world().await;
    let other = world.netns("other");
    world.ip(&["netns", "add", &other]);

    let binding = static_binding(&format!("netns:{other}"));
    world.want_bound(2, binding).await;

    let report = world.bound().await;
    let steps: Vec<_> = report.steps.iter().map(|timing| timing.step).collect();
    assert_eq!(steps[..2], [BindStep::Enter, BindStep::SetAddresses]);
    assert_eq!(world.link("box", "eth0"), None);
    world.assert_reachable("other", "192.0.2.10").await;
}

#[tokio::test]
async fn a_link_nobody_declared_is_not_touched() {
    let mut world = World::start().await;
    let guest = world.netns("guest");
    world.ip(&[
        "-n", &guest, "link", "add", "own0", "type", "veth", "peer", "name", "own1",
    ]);
    world.ip(&["-n", &guest, "link", "set", "own0", "up"]);
    let target = format!("netns:{}", world.netns("box"));
    world.want_bound(1, static_binding(&target)).await;
    world.plug();
    world.bound().await;

    let own = world.link("guest", "own0").unwrap();

    assert!(own.contains("UP"), "{own}");
}

#[tokio::test]
async fn a_forgotten_nic_is_left_where_it_is() {
    let mut world = bound_world().await;

    world.forget().await;
    world.connect().await;

    assert!(world.link("box", "eth0").is_some());
    assert_eq!(world.held(), None);
}
