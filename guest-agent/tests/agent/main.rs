//! The agent's process against a real kernel: what it does with links, containers and hosts that
//! come and go. Needs root, `ip`, `nsenter`, `sysctl` and `dnsmasq`.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod arrivals;
mod bindings;
mod leases;
mod releases;
mod restarts;
mod returns;
mod support;

use agent_protocol::{BindError, Phase};
use support::{World, dhcp_binding, static_binding};

pub(crate) fn is_failed(phase: &Phase) -> bool {
    matches!(phase, Phase::Failed { .. })
}

pub(crate) fn error_of(phase: Phase) -> BindError {
    let Phase::Failed { error } = phase else {
        panic!("not failed: {phase:?}");
    };
    error
}

pub(crate) fn namespace_of(pid: u32) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(format!("/proc/{pid}/ns/net"))
        .unwrap()
        .ino()
}

pub(crate) async fn container(world: &mut World) -> u32 {
    let pid = world.spawn_in("box", "sleep", &["1000"]);
    // nsenter enters before it becomes the program.
    while namespace_of(pid) == namespace_of(std::process::id()) {
        tokio::task::yield_now().await;
    }
    pid
}

pub(crate) async fn bound_world() -> World {
    let mut world = World::start().await;
    let target = format!("netns:{}", world.netns("box"));
    world.want_bound(1, static_binding(&target)).await;
    world.plug();
    world.bound().await;
    world
}

pub(crate) fn serve_dhcp(world: &mut World, range: &str) -> u32 {
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

/// The link is in `target`, and its DHCP client waits for a server that is not there.
pub(crate) async fn waiting_for_a_lease(target: &str, mut world: World) -> World {
    world.want_bound(1, dhcp_binding(target)).await;
    world.plug();
    world.dhcp_client_waits().await;
    world
}
