//! The agent's process against a real kernel: what it does with links, containers and hosts that
//! come and go. Needs root, `ip`, `nsenter`, `sysctl` and `dnsmasq`.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod support;

use agent_protocol::{BindError, BindStep, Goal, KnownTarget, Phase};
use nic_model::{NetnsInode, ProcessStart, TargetIdentity};
use support::{World, dhcp_binding, static_binding};

fn is_failed(phase: &Phase) -> bool {
    matches!(phase, Phase::Failed { .. })
}

fn error_of(phase: Phase) -> BindError {
    let Phase::Failed { error } = phase else {
        panic!("not failed: {phase:?}");
    };
    error
}

fn namespace_of(pid: u32) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(format!("/proc/{pid}/ns/net"))
        .unwrap()
        .ino()
}

async fn container(world: &mut World) -> u32 {
    let pid = world.spawn_in("box", "sleep", &["1000"]);
    // nsenter enters before it becomes the program.
    while namespace_of(pid) == namespace_of(std::process::id()) {
        tokio::task::yield_now().await;
    }
    pid
}

async fn bound_world() -> World {
    let mut world = World::start().await;
    let target = format!("netns:{}", world.netns("box"));
    world.want_bound(1, static_binding(&target)).await;
    world.plug();
    world.bound().await;
    world
}

fn serve_dhcp(world: &mut World, range: &str) -> u32 {
    let leases = format!("--dhcp-leasefile={}", world.file("leases").display());
    let range = format!("--dhcp-range={range},2m");
    let arguments = [
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--pid-file",
        "--port=0",
        "--interface=peer0",
        "--no-ping",
        "--dhcp-authoritative",
        &leases,
        &range,
    ];
    world.spawn_in("peer", "dnsmasq", &arguments)
}

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
async fn a_killed_container_gives_its_link_back() {
    let mut world = World::start().await;
    let pid = container(&mut world).await;
    let target = format!("pid:{pid}@{}", namespace_of(pid));
    world.want_bound(1, static_binding(&target)).await;
    world.plug();
    world.bound().await;

    world.kill_helper(pid);

    world.phase(|phase| *phase == Phase::Returned).await;
    world.assert_held();
}

#[tokio::test]
async fn a_deleted_namespace_gives_its_link_back() {
    let mut world = bound_world().await;

    world.ip(&["netns", "del", &world.netns("box")]);

    world.phase(|phase| *phase == Phase::Returned).await;
    world.assert_held();
}

/// Bound, and then released without anybody unplugging it.
async fn released_world() -> World {
    let mut world = bound_world().await;
    world.want(2, Goal::Released).await;
    world.phase(|phase| *phase == Phase::Released).await;
    world
}

#[tokio::test]
async fn a_released_link_is_bare_and_down_and_absent_once_unplugged() {
    let mut world = released_world().await;

    let link = world.link("box", "eth0").or_else(|| world.held());
    let link = link.expect("the link is where it was, or held already");
    assert!(link.contains("state DOWN"), "{link}");
    assert!(!link.contains("inet"), "{link}");
    world.unplug();
    world.phase(|phase| *phase == Phase::Absent).await;
}

#[tokio::test]
async fn a_released_link_that_is_not_unplugged_is_held() {
    let world = released_world().await;

    world.assert_held_soon().await;
}

#[tokio::test]
async fn a_released_link_that_its_container_switches_on_again_is_held() {
    let world = released_world().await;
    let container = world.netns("box");
    // Refused when the agent was quicker.
    for arguments in [
        ["link", "set", "eth0", "up"].as_slice(),
        &["addr", "add", "192.0.2.10/24", "dev", "eth0"],
    ] {
        world.try_ip(&[&["-n", &container], arguments].concat());
    }

    world.assert_held_soon().await;
}

#[tokio::test]
async fn a_released_link_leaves_a_container_that_dies() {
    let world = released_world().await;

    world.ip(&["netns", "del", &world.netns("box")]);

    world.assert_held_soon().await;
}

#[tokio::test]
async fn a_released_link_that_is_forgotten_is_held() {
    let mut world = released_world().await;

    world.forget().await;

    world.assert_held_soon().await;
}

#[tokio::test]
async fn a_released_link_is_bound_again_wherever_it_is_wanted() {
    for target in ["other", "box"] {
        let mut world = released_world().await;
        let target = world.netns(target);
        if world.link("other", "lo").is_none() {
            world.ip(&["netns", "add", &world.netns("other")]);
        }

        let binding = static_binding(&format!("netns:{target}"));
        world.want_bound(3, binding).await;

        let report = world.bound().await;
        assert_eq!(report.generation, 3);
        let which = target.rsplit('-').next().unwrap();
        world.assert_reachable(which, "192.0.2.10").await;
    }
}

#[tokio::test]
async fn an_agent_killed_between_release_and_unplug_releases_again() {
    let mut world = released_world().await;
    world.kill_agent();
    world.start_agent();

    world.connect().await;

    world.phase(|phase| *phase == Phase::Released).await;
    world.assert_held_soon().await;
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
async fn a_host_that_restarts_is_told_everything_again() {
    let mut world = bound_world().await;

    world.connect().await;

    assert!(matches!(world.next_phase().await, Phase::Bound { .. }));
}

#[tokio::test]
async fn a_killed_agent_finds_a_bound_link_and_leaves_it_up() {
    let mut world = bound_world().await;
    let index = world.link("box", "eth0").unwrap();

    world.kill_agent();
    world.start_agent();
    world.connect().await;

    world.bound().await;
    assert_eq!(world.link("box", "eth0").unwrap(), index);
}

#[tokio::test]
async fn a_killed_agent_releases_a_link_it_was_never_told_the_place_of() {
    let mut world = bound_world().await;
    world.kill_agent();
    world.start_agent();
    world.want_offline(2, Goal::Released);

    world.connect().await;

    world.phase(|phase| *phase == Phase::Released).await;
    world.assert_held_soon().await;
}

#[tokio::test]
async fn a_container_that_died_while_no_agent_ran_is_told_as_one_that_died() {
    let mut world = World::start().await;
    let pid = container(&mut world).await;
    world
        .want_bound(1, static_binding(&format!("pid:{pid}")))
        .await;
    world.plug();
    world.bound().await;
    world.kill_agent();
    world.kill_helper(pid);

    world.start_agent();
    world.connect().await;

    world.phase(|phase| *phase == Phase::Returned).await;
    world.assert_held();
}

#[tokio::test]
async fn a_process_that_bears_the_pid_of_a_dead_container_gets_nothing() {
    let mut world = World::start().await;
    let pid = container(&mut world).await;
    let binding = static_binding(&format!("pid:{pid}"));
    world.want_bound(1, binding.clone()).await;
    world.plug();
    let Phase::Bound { target, .. } = world.bound().await.phase else {
        unreachable!("bound() waits for it");
    };
    let others = [
        TargetIdentity {
            process_started: target
                .process_started
                .map(|start| ProcessStart(start.0 + 1)),
            ..target
        },
        TargetIdentity {
            boot_id: "00000000-0000-4000-8000-000000000001".parse().unwrap(),
            ..target
        },
        TargetIdentity {
            netns_inode: NetnsInode(target.netns_inode.0 + 1),
            ..target
        },
    ];
    for target in others {
        world.kill_agent();
        world.know_offline(binding.clone(), KnownTarget::BoundIn { target });

        world.start_agent();
        world.connect().await;

        world.phase(|phase| *phase == Phase::Returned).await;

        world.assert_held();
    }
}

#[tokio::test]
async fn an_agent_killed_in_mid_bind_carries_on_after_its_restart() {
    let mut world = World::start().await;
    let target = format!("netns:{}", world.netns("box"));
    world.want_bound(1, dhcp_binding(&target)).await;
    world.plug();
    world.phase(|phase| *phase == Phase::Binding).await;
    // The link is in its target once nobody answers its DHCP client.
    while world.link("box", "eth0").is_none() {
        tokio::task::yield_now().await;
    }

    world.kill_agent();
    serve_dhcp(&mut world, "192.0.2.100,192.0.2.150");
    world.start_agent();
    world.connect().await;

    world.bound().await;
    assert!(world.link("box", "eth0").unwrap().contains("192.0.2.1"));
}

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
async fn a_forgotten_nic_is_left_where_it_is() {
    let mut world = bound_world().await;

    world.forget().await;
    world.connect().await;

    assert!(world.link("box", "eth0").is_some());
    assert_eq!(world.held(), None);
}
