//! Finding a link that is in none of the namespaces the agent knows.
//!
//! After a restart the agent holds nothing open, and a release does not say where the NIC was.
//! Every namespace that a process lives in or that has a name is asked once; one that is merely
//! pinned by a mount elsewhere stays out of reach until its owner lets go.

use std::collections::BTreeSet;
use std::fs;

use linux_network::Netns;
use nic_model::NetnsInode;

use crate::guest::{Guest, Located, Space};
use crate::nic::Nic;

/// Processes looked at: beyond that something else is wrong with the guest.
const MAX_PROCESSES: usize = 32_768;

/// The link of `nic` in any namespace but those that have been `asked`.
pub(crate) async fn search(
    nic: &Nic,
    guest: &Guest,
    mut asked: BTreeSet<NetnsInode>,
) -> Option<(Located, linux_network::LinkView)> {
    let named = Netns::names().unwrap_or_default();
    let named = named.iter().filter_map(|name| Netns::open_named(name).ok());
    let of_processes = processes().filter_map(|pid| Netns::open_pid(pid).ok());
    for netns in named.chain(of_processes) {
        if !asked.insert(netns.inode()) {
            continue;
        }
        if let Ok(space) = Space::open(netns).await
            && let Some(found) = nic.find_in(&space, guest).await
        {
            return Some(found);
        }
    }
    None
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
