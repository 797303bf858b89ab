//! Finding a link that is in none of the namespaces the agent knows.
//!
//! After a restart the agent holds nothing open, and a release does not say where the NIC was.
//! Every namespace that a process lives in or that has a name is asked once; one that is merely
//! pinned by a mount elsewhere stays out of reach until its owner lets go.

use std::collections::BTreeSet;

use nic_model::NetnsInode;

use crate::guest::{Guest, Located, Space};
use crate::kernel::{GuestKernel, LinkView, Netns};
use crate::nic::Nic;

/// The link of `nic` in any namespace but those that have been `asked`.
pub(crate) async fn search<K: GuestKernel>(
    nic: &Nic<K>,
    guest: &Guest<K>,
    mut asked: BTreeSet<NetnsInode>,
) -> Option<(Located<K>, LinkView)> {
    for netns in guest.kernel.reachable_netns() {
        if !asked.insert(netns.inode()) {
            continue;
        }
        if let Ok(space) = Space::open(&guest.kernel, netns).await
            && let Some(found) = nic.find_in(&space, guest).await
        {
            return Some(found);
        }
    }
    None
}
