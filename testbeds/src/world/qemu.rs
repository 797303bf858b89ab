//! QEMU over QMP: each VM a process of ours, with one monitor for hostd and one for sabotage.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Context, Result};
use async_trait::async_trait;
use nic_model::{NicId, VmId};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::{DaemonRestart, Misbehaving, SimWorld, World, WorldKind, hidden, qmp_vms};
use crate::guest::{Guest, ShellGuest};
use crate::host::Host;
use crate::hostd::{Hostd, HostdProcess, JOURNAL};
use crate::inspection::QemuState;
use crate::qemu::{Qemu, QemuStart};
use crate::qmp::Qmp;
use crate::site::Site;
use crate::vm::{VmFiles, VmOptions};

/// The `qemu` world.
#[derive(Debug)]
pub struct QemuWorld {
    // Before the site: processes end before their namespace does.
    running: Mutex<BTreeMap<VmId, Qemu>>,
    site: Arc<Site>,
}

impl QemuWorld {
    /// On a piece of host.
    #[must_use]
    pub fn over(site: Arc<Site>) -> Self {
        let running = Mutex::default();
        Self { running, site }
    }

    /// The host's files of a VM.
    #[must_use]
    pub fn files(&self, vm: &VmId) -> VmFiles {
        VmFiles::of(self.site.directory(), vm)
    }
}

#[async_trait(?Send)]
impl World for QemuWorld {
    fn kind(&self) -> WorldKind {
        WorldKind::Qemu
    }

    fn host(&self) -> &dyn Host {
        self.site.as_ref()
    }

    fn configure_hostd(&self) -> Result<Box<dyn Hostd>> {
        let site = Arc::clone(&self.site);
        let vms = qmp_vms(|vm, ending| site.directory().join(format!("{vm}.{ending}")));
        let hostd =
            HostdProcess::configure(Arc::clone(&site), site.directory().join(JOURNAL), &vms)?;
        Ok(Box::new(hostd))
    }

    async fn boot(&self, options: &VmOptions) -> Result<Box<dyn Guest>> {
        let mut running = self.running.lock().await;
        let vm = &options.id;
        anyhow::ensure!(!running.contains_key(vm), "{vm} runs already");
        let files = self.files(vm);
        let guests = self.site.foundation.guests().await?;
        let qemu = Qemu::start(QemuStart {
            image: &guests.image,
            accelerator: guests.accelerator,
            options,
            files: &files,
            netns: Some(&self.site.netns),
        })?;
        running.insert(vm.clone(), qemu);
        Ok(Box::new(ShellGuest::connect(&files.shell).await?))
    }

    async fn console(&self, vm: &VmId) -> String {
        std::fs::read_to_string(self.files(vm).console).unwrap_or_default()
    }

    async fn kill(&self, vm: &VmId) -> Result<()> {
        let qemu = self.running.lock().await.remove(vm);
        qemu.with_context(|| format!("{vm} does not run"))?
            .kill()
            .await
    }

    async fn monitor(&self, vm: &VmId, command: &str, arguments: Value) -> Result<Value> {
        let mut qmp = Qmp::connect(&self.files(vm).sabotage).await?;
        qmp.execute(command, arguments).await
    }

    async fn qemu(&self, vm: &VmId) -> Result<QemuState> {
        QemuState::by_monitor(self, vm).await
    }

    async fn hide_monitor(&self, vm: &VmId) -> Result<()> {
        let socket = self.files(vm).qmp;
        Ok(std::fs::rename(&socket, hidden(&socket))?)
    }

    async fn reveal_monitor(&self, vm: &VmId) -> Result<()> {
        let socket = self.files(vm).qmp;
        Ok(std::fs::rename(hidden(&socket), &socket)?)
    }

    async fn unplug_behind_hostd(&self, vm: &VmId, nic: &NicId) -> Result<()> {
        let arguments = json!({ "id": nic.device_id() });
        self.monitor(vm, "device_del", arguments).await.map(drop)
    }

    async fn restart_daemon(&self) -> Result<DaemonRestart> {
        Ok(DaemonRestart::NoDaemon)
    }

    async fn definition(&self, _vm: &VmId) -> Result<BTreeSet<String>> {
        Ok(BTreeSet::new())
    }

    async fn log_tail(&self, lines: usize) -> String {
        let mut logs = String::new();
        for vm in self.running.lock().await.keys() {
            let log = std::fs::read_to_string(self.files(vm).log).unwrap_or_default();
            let all: Vec<&str> = log.lines().collect();
            let tail = all[all.len().saturating_sub(lines)..].join("\n");
            logs = format!("{logs}{vm}: {tail}\n");
        }
        logs
    }

    fn simulated(&self) -> Option<&SimWorld> {
        None
    }

    fn misbehaving(&self) -> Option<&dyn Misbehaving> {
        None
    }
}
