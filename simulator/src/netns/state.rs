//! What others are told of a cloud that runs: where everything is.

use std::path::PathBuf;

use nic_model::VmId;
use serde::{Deserialize, Serialize};

use super::plan::{Frames, Plan};
use super::site::Site;
use super::topology::HostName;
use super::trouble::{Doing, Trouble};

/// A cloud that runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Its directory.
    pub directory: PathBuf,
    /// The process that it ends with.
    pub pid: u32,
    /// Where it takes orders.
    pub control: PathBuf,
    /// The same over TCP, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// How frames get into its guests.
    pub frames: Frames,
    /// How long it took until all of it was ready, in milliseconds.
    pub ready_after_ms: f64,
    /// Its hosts.
    pub hosts: Vec<HostState>,
    /// Its VMs.
    pub vms: Vec<VmState>,
}

/// A host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostState {
    /// Its name.
    pub name: HostName,
    /// The socket of its hostd's API.
    pub socket: PathBuf,
}

/// A VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmState {
    /// Its name.
    pub id: VmId,
    /// The host it runs on.
    pub host: HostName,
    /// The socket of its monitor, which hostd uses.
    pub qmp: PathBuf,
    /// The socket of another monitor of it, which is everybody's.
    pub monitor: PathBuf,
    /// A terminal in its guest.
    pub guest: PathBuf,
}

impl State {
    /// Of the cloud that follows `plan` at `site`.
    pub(super) fn of(plan: &Plan, site: &Site, pid: u32, ready_after_ms: f64) -> Self {
        let host = |name: &HostName| HostState {
            name: name.clone(),
            socket: site.api(name),
        };
        let vm = |vm: &super::topology::Vm| VmState {
            id: vm.id.clone(),
            host: vm.host.clone(),
            qmp: site.monitor(&vm.id),
            monitor: site.spare_monitor(&vm.id),
            guest: site.guest(&vm.id),
        };
        Self {
            directory: site.directory().to_owned(),
            pid,
            control: site.control(),
            url: None,
            frames: plan.frames,
            ready_after_ms,
            hosts: plan.topology.hosts.iter().map(host).collect(),
            vms: plan.topology.vms.iter().map(vm).collect(),
        }
    }

    /// Reads that of a cloud that runs.
    ///
    /// # Errors
    /// When none runs there.
    pub fn read(site: &Site) -> Result<Self, Trouble> {
        let doing = format!(
            "find a simulator that runs in {}",
            site.directory().display()
        );
        let text = std::fs::read(site.state()).doing(&doing)?;
        serde_json::from_slice(&text).doing(doing)
    }

    pub(super) fn write(&self, site: &Site) -> Result<(), Trouble> {
        let doing = "write down what runs";
        let text = serde_json::to_vec_pretty(self).doing(doing)?;
        // In one step, for whoever reads it meanwhile.
        let fresh = site.state().with_extension("new");
        std::fs::write(&fresh, text).doing(doing)?;
        std::fs::rename(fresh, site.state()).doing(doing)
    }
}
