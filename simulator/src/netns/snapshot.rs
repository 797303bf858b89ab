//! Everything there is to make a cloud anew: what it is made of, what each hostd has promised, what
//! is where.
//!
//! ```text
//!   take:   plan, journals, containers, places of NICs ──► one JSON document
//!   launch: plan and journals ──► hostd finds its NICs without their devices: available
//!   place:  containers ──► each NIC attached where it was, same id, MAC and addresses
//! ```
//!
//! Guests boot anew: what ran in them is gone, as after a power failure of the whole site.

use std::collections::BTreeMap;
use std::time::Duration;

use host_api::client::{Mutation, Progress};
use host_api::{AttachNic, Client, NicState};
use nic_model::{NicId, Target, VmId};
use serde::{Deserialize, Serialize};

use super::cloud::{Cloud, OrderError};
use super::guest::{ContainerView, GuestClient, Naming};
use super::hostd;
use super::plan::Plan;
use super::site::Site;
use super::topology::HostName;
use super::trouble::{Doing, Trouble};

/// How long each NIC may take to be where it was.
const PLACE_DEADLINE: Duration = Duration::from_secs(30);
/// hostd finds out within milliseconds what is missing.
const SETTLE_POLL: Duration = Duration::from_millis(5);

/// A cloud at rest in a document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// The form of the document.
    pub version: u32,
    /// What it is made of, with the rules and paces that were in force.
    pub plan: Plan,
    /// What each hostd has promised: its journal's files, in hexadecimal digits.
    pub journals: BTreeMap<HostName, Vec<String>>,
    /// The containers of each VM.
    pub containers: BTreeMap<VmId, Vec<ContainerView>>,
    /// Where each NIC was.
    pub placed: Vec<PlacedNic>,
}

/// Where a NIC was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlacedNic {
    /// The host whose NIC it is.
    pub host: HostName,
    /// Which.
    pub nic: NicId,
    /// Where it is to be again.
    pub attach: AttachNic,
}

/// The form of documents that are written by now.
const VERSION: u32 = 1;

/// A document that cannot be followed.
#[derive(Debug, thiserror::Error)]
enum SnapshotError {
    #[error("version: it is {0}, and this program knows {VERSION}")]
    Version(u32),
    #[error("journals: those of {0} are no hexadecimal digits")]
    Digits(HostName),
    #[error("{0} is {1}, not in use")]
    NotPlaced(NicId, NicState),
}

/// Takes one of a cloud that runs. Each hostd is killed for it and starts again, since what it has
/// written is then exactly what survives it.
///
/// # Errors
/// When a part does not answer.
pub(super) async fn take(cloud: &Cloud) -> Result<Snapshot, OrderError> {
    let turn = cloud.turn("take a snapshot").await?;
    let plan = cloud.plan();
    let mut snapshot = Snapshot {
        version: VERSION,
        journals: BTreeMap::new(),
        containers: BTreeMap::new(),
        placed: Vec::new(),
        plan,
    };
    for vm in &snapshot.plan.topology.vms {
        let guest = GuestClient::new(cloud.site().guest(&vm.id));
        // A VM that is off has none.
        let containers = guest.containers().await.unwrap_or_default();
        snapshot.containers.insert(vm.id.clone(), containers);
    }
    for host in &snapshot.plan.topology.hosts {
        let list = Client::unix(cloud.site().api(host)).nics().await;
        for nic in list.doing(format_args!("list the NICs of {host}"))?.nics {
            let Some(place) = nic.placement.filter(|_| nic.state == NicState::InUse) else {
                continue;
            };
            let attach = AttachNic {
                vm: place.vm,
                target: place.target,
                link_name: Some(place.link_name),
            };
            let (host, nic) = (host.clone(), nic.id);
            snapshot.placed.push(PlacedNic { host, nic, attach });
        }
        let journals = cloud
            .without_hostd(&turn, host, || read_journal(cloud.site(), host))
            .await?;
        snapshot.journals.insert(host.clone(), journals);
    }
    Ok(snapshot)
}

fn read_journal(site: &Site, host: &HostName) -> Result<Vec<String>, Trouble> {
    let read = |path: &std::path::PathBuf| match std::fs::read(path) {
        Ok(bytes) => Ok(to_digits(&bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    };
    let files = hostd::journal_files(site, host);
    let read: std::io::Result<Vec<String>> = files.iter().map(read).collect();
    read.doing(format_args!("read the journal of {host}"))
}

impl Snapshot {
    /// Reads one.
    ///
    /// # Errors
    /// When it is none, or of another version.
    pub fn read(path: &std::path::Path) -> Result<Self, Trouble> {
        let doing = format!("read the snapshot {}", path.display());
        let text = std::fs::read(path).doing(&doing)?;
        let snapshot: Self = serde_json::from_slice(&text).doing(&doing)?;
        if snapshot.version != VERSION {
            return Err(SnapshotError::Version(snapshot.version)).doing(doing);
        }
        Ok(snapshot)
    }

    /// Puts back what each hostd has promised, before it starts.
    ///
    /// # Errors
    /// When the journals are damaged or cannot be written.
    pub fn write_journals(&self, site: &Site) -> Result<(), Trouble> {
        for (host, files) in &self.journals {
            let doing = format!("put back the journal of {host}");
            for (path, digits) in hostd::journal_files(site, host).iter().zip(files) {
                let bytes = from_digits(digits).ok_or_else(|| SnapshotError::Digits(host.clone()));
                let bytes = bytes.doing(&doing)?;
                if !bytes.is_empty() {
                    let disk = path.parent().unwrap_or(path);
                    std::fs::create_dir_all(disk).doing(&doing)?;
                    std::fs::write(path, bytes).doing(&doing)?;
                }
            }
        }
        Ok(())
    }
}

/// Puts containers and NICs of a snapshot where they were, in a cloud that was made of its plan and
/// its journals.
///
/// # Errors
/// When one of them cannot be put there.
pub(super) async fn place(cloud: &Cloud, snapshot: &Snapshot) -> Result<(), Trouble> {
    let mut processes = BTreeMap::new();
    for (vm, containers) in &snapshot.containers {
        let guest = GuestClient::new(cloud.site().guest(vm));
        let there = guest.containers().await?;
        for old in containers {
            let new = match there.iter().find(|known| known.name == old.name) {
                Some(known) => known.clone(),
                None => guest.make_container(&old.name, naming(old)).await?,
            };
            processes.insert((vm.clone(), old.pid), new);
        }
    }
    for placed in &snapshot.placed {
        let mut attach = placed.attach.clone();
        if let Target::Pid { pid, .. } = attach.target
            && let Some(container) = processes.get(&(attach.vm.clone(), pid))
        {
            attach.target = Target::Pid {
                pid: container.pid,
                netns_inode: Some(container.netns_inode),
            };
        }
        attach_again(cloud, placed, &attach).await?;
    }
    Ok(())
}

fn naming(container: &ContainerView) -> Naming {
    if container.named {
        Naming::Named
    } else {
        Naming::Unnamed
    }
}

async fn attach_again(
    cloud: &Cloud,
    placed: &PlacedNic,
    attach: &AttachNic,
) -> Result<(), Trouble> {
    let doing = format!("put {} where it was", placed.nic);
    let client = Client::unix(cloud.site().api(&placed.host));
    let settled = async {
        while client.nic(&placed.nic).await.doing(&doing)?.state != NicState::Available {
            tokio::time::sleep(SETTLE_POLL).await;
        }
        Ok(())
    };
    tokio::time::timeout(PLACE_DEADLINE, settled)
        .await
        .doing(&doing)??;
    let waiting = Mutation {
        token: None,
        wait: Some("30s".parse().doing(&doing)?),
    };
    let answer = client
        .attach_nic(&placed.nic, attach, &waiting)
        .await
        .doing(&doing)?;
    if answer.progress == Progress::UnderWay || answer.nic.state != NicState::InUse {
        let (nic, state) = (answer.nic.id, answer.nic.state);
        return Err(SnapshotError::NotPlaced(nic, state)).doing(doing);
    }
    Ok(())
}

fn to_digits(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            write!(text, "{byte:02x}").expect("a text takes what is written to it");
            text
        })
}

fn from_digits(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    let pairs = text.as_bytes().chunks_exact(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs.map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_as_digits_and_anything_else_is_refused() {
        let bytes: Vec<u8> = (0..=255).collect();

        assert_eq!(from_digits(&to_digits(&bytes)), Some(bytes));
        for text in ["0", "0g", "é0"] {
            assert_eq!(from_digits(text), None, "{text}");
        }
    }
}
