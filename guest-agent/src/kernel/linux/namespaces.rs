//! Every namespace that can be reached: one that is merely pinned by a mount stays out of reach.

use std::collections::BTreeSet;
use std::fs;

use linux_network::Netns;

/// Processes looked at: beyond that something else is wrong with the guest.
const MAX_PROCESSES: usize = 32_768;

/// Those with a name, then those of processes, each opened when it is come to.
pub(super) fn reachable() -> impl Iterator<Item = Netns> + Send {
    let named = Netns::names().unwrap_or_default();
    let named = named
        .into_iter()
        .filter_map(|name| Netns::open_named(&name).ok());
    named.chain(processes().filter_map(|pid| Netns::open_pid(pid).ok()))
}

/// One process of each namespace would do, but which are whose is not known before they are asked.
fn processes() -> impl Iterator<Item = u32> {
    let own = namespace_of("self");
    let mut seen = BTreeSet::new();
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        .take(MAX_PROCESSES)
        .filter(move |pid| {
            let namespace = namespace_of(pid);
            namespace.is_some() && namespace != own && seen.insert(namespace)
        })
        .filter_map(|pid| pid.parse().ok())
}

/// `net:[4026531840]`: cheaper than opening it.
fn namespace_of(pid: &str) -> Option<String> {
    let link = fs::read_link(format!("/proc/{pid}/ns/net")).ok()?;
    link.into_os_string().into_string().ok()
}
