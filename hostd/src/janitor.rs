//! The janitor: ports whose NICs have no place any more, ports that bear our names although no
//! record owns them, records whose removal was interrupted, client tokens that nobody sends again.
//!
//! ```text
//!   port of a NIC that has no place ──► removed at once; isolated while a process holds its tap
//!   port without a record ──► isolated ── quarantine ──► removed, once no process holds its tap
//! ```
//!
//! Without our prefix nothing is ever touched.

use std::collections::BTreeMap;
use std::time::Duration;

use nic_model::NicId;
use port::{Holder, PortView};
use tokio::time::Instant;

use crate::daemon::half_deleted;
use crate::pace::Pace;
use crate::service::finish_deletion;
use crate::worker::{Tools, chain};

/// How often the janitor looks, unless there is so much to look at that it would take more than a
/// five-thousandth of the time; but at least as often as [`Pace::round`] says.
const ROUND: Duration = Duration::from_secs(5);
const SHARE: u32 = 5000;

/// Cleans up until the task is aborted. What a detach leaves is removed as soon as it is known;
/// what cannot be removed, or was left before a crash, is found by the next round.
pub(crate) async fn run(tools: Tools, pace: Pace) {
    let mut quarantine = BTreeMap::new();
    let mut next_round = Instant::now();
    loop {
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(next_round) => {
                let began = Instant::now();
                clean_up(&tools, &mut quarantine).await;
                let pause = (began.elapsed() * SHARE).clamp(ROUND, pace.round());
                next_round = Instant::now() + pause;
            }
            nic = tools.ports.next_left() => clean_left(&tools, &nic).await,
        }
    }
}

async fn clean_up(tools: &Tools, quarantine: &mut BTreeMap<NicId, Instant>) {
    finish_deletions(tools).await;
    clean_ports(tools, quarantine).await;
    if let Err(error) = tools
        .store
        .expire_tokens(tools.surroundings.unix_ms())
        .await
    {
        tracing::warn!(error = chain(&error), "old client tokens stay");
    }
}

/// A deletion that was interrupted, by a crash or a full disk, is admitted already: it is finished.
async fn finish_deletions(tools: &Tools) {
    for nic in half_deleted(&tools.store) {
        if let Err(error) = finish_deletion(&tools.store, &tools.ports, &nic).await {
            tracing::error!(%nic, error = chain(&error), "record stays");
        }
    }
}

/// What a detach has just left. Who holds its tap may not have been QEMU.
async fn clean_left(tools: &Tools, nic: &NicId) {
    match tools.ports.find(nic).await {
        Ok(Some(port)) => remove_unless_held(tools, &port).await,
        Ok(None) => {}
        Err(error) => tracing::warn!(%nic, error = chain(&error), "ports not listed"),
    }
}

async fn clean_ports(tools: &Tools, quarantine: &mut BTreeMap<NicId, Instant>) {
    let mut found = match tools.ports.list().await {
        Ok(found) => found,
        Err(error) => return tracing::warn!(error = chain(&error), "ports not listed"),
    };
    found.retain(|port| owner(tools, &port.nic) != Owner::Placed);
    quarantine.retain(|nic, _| found.iter().any(|port| port.nic == *nic));
    for port in found {
        let due = match owner(tools, &port.nic) {
            // Cleaning up another took time in which this one was attached.
            Owner::Placed => continue,
            Owner::Nowhere => true,
            Owner::Nobody => {
                let since = *quarantine.entry(port.nic.clone()).or_insert_with(|| {
                    tracing::warn!(nic = %port.nic, "port without a record: quarantined");
                    Instant::now()
                });
                since.elapsed() >= tools.patience.quarantine
            }
        };
        if due {
            tracing::info!(nic = %port.nic, "removing a port that is left over");
            remove_unless_held(tools, &port).await;
        } else {
            isolate(tools, &port.nic).await;
        }
    }
}

/// Who answers for a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// The worker of the VM that its NIC is in.
    Placed,
    /// A record, whose NIC is nowhere: the port is a leftover.
    Nowhere,
    /// No record.
    Nobody,
}

fn owner(tools: &Tools, nic: &NicId) -> Owner {
    match tools.store.shared(nic) {
        Some(record) if record.placement.is_some() => Owner::Placed,
        Some(_) => Owner::Nowhere,
        None => Owner::Nobody,
    }
}

/// A tap is not taken from under a process that still uses it.
async fn remove_unless_held(tools: &Tools, port: &PortView) {
    match port.holder {
        Holder::Nobody => remove(tools, &port.nic).await,
        Holder::Somebody => isolate(tools, &port.nic).await,
    }
}

async fn remove(tools: &Tools, nic: &NicId) {
    if let Err(error) = tools.ports.remove(&tools.store, nic).await {
        tracing::warn!(%nic, error = chain(&error), "a port that is left over stays");
    }
}

async fn isolate(tools: &Tools, nic: &NicId) {
    if let Err(error) = tools.ports.isolate(&tools.store, nic).await {
        tracing::warn!(%nic, error = chain(&error), "a port that is left over is not cut off");
    }
}
