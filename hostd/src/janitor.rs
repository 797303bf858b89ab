//! The janitor: ports that bear our names although no record owns them, records whose removal was
//! interrupted, client tokens that nobody sends again.
//!
//! A port without a record is isolated at once and removed once its quarantine is over. Without
//! our prefix nothing is ever touched.

use std::collections::BTreeMap;
use std::time::Duration;

use nic_lifecycle::NicRecord;
use nic_model::NicId;
use tokio::time::Instant;

use crate::clock::unix_ms;
use crate::daemon::half_deleted;
use crate::worker::Tools;

/// How often the janitor looks.
const ROUND: Duration = Duration::from_secs(5);

/// Cleans up until the task is aborted.
pub(crate) async fn run(tools: Tools) {
    let mut quarantine = BTreeMap::new();
    let mut rounds = tokio::time::interval(ROUND);
    loop {
        rounds.tick().await;
        finish_deletions(&tools).await;
        clean_ports(&tools, &mut quarantine).await;
        if let Err(error) = tools.store.expire_tokens(unix_ms()).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "old client tokens stay"
            );
        }
    }
}

/// A deletion that was interrupted, by a crash or a full disk, is admitted already: it is finished.
async fn finish_deletions(tools: &Tools) {
    for nic in half_deleted(&tools.store) {
        if let Err(error) = tools.store.remove(&nic).await {
            tracing::error!(%nic, error = &error as &dyn std::error::Error, "record stays");
        }
    }
}

/// Every provider sees every port of ours on the host, so one of them is enough.
async fn clean_ports(tools: &Tools, quarantine: &mut BTreeMap<NicId, Instant>) {
    let Some(ports) = tools.ports.values().next() else {
        return;
    };
    let found = match ports.ports().await {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "ports not listed");
            return;
        }
    };
    let owned = |nic: &NicId| {
        tools
            .store
            .nic(nic)
            .is_some_and(|record| may_have_a_port(&record))
    };
    let stray: Vec<_> = found
        .into_iter()
        .map(|port| port.nic)
        .filter(|nic| !owned(nic))
        .collect();
    quarantine.retain(|nic, _| stray.contains(nic));
    for nic in stray {
        // Cleaning up another took time in which this one may have been attached.
        if owned(&nic) {
            continue;
        }
        let since = *quarantine.entry(nic.clone()).or_insert_with(|| {
            tracing::warn!(%nic, "port without a record: quarantined");
            Instant::now()
        });
        let is_over = since.elapsed() >= tools.patience.quarantine;
        let done = if is_over && !plugged(tools, &nic) {
            tracing::warn!(%nic, "port without a record: removed");
            ports.remove(&nic).await.map_err(|error| error.to_string())
        } else {
            ports.isolate(&nic).await.map_err(|error| error.to_string())
        };
        if let Err(error) = done {
            tracing::warn!(%nic, error, "port without a record cannot be cleaned up");
        }
    }
}

/// An available NIC is nowhere: a port of it is a leftover.
fn may_have_a_port(record: &NicRecord) -> bool {
    record.placement.is_some()
}

/// A port is not taken from under a device that still uses it.
fn plugged(tools: &Tools, nic: &NicId) -> bool {
    tools.store.read(|ledger| {
        ledger
            .vms()
            .any(|(_, hardware)| hardware.nic(nic).is_some())
    })
}
