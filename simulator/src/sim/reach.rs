//! How a simulated hostd reaches what is in its VMs: by addresses that name them.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;

use async_trait::async_trait;
use hostd::surroundings::{ChannelDialer, ChannelStream};
use hypervisor_qmp::client::{Dialer, MonitorStream};
use nic_model::VmId;

use super::boundary::{Boundary, ChannelEnd, MonitorEnd};
use super::life::Life;
use super::stage::Stage;
use super::vm::SimVm;

/// Where the monitor of a VM is reached.
pub(crate) fn monitor_address(vm: &VmId) -> String {
    format!("/monitor/{vm}")
}

/// Where the agent's channel of a VM is reached.
pub(crate) fn channel_address(vm: &VmId) -> String {
    format!("/channel/{vm}")
}

/// The VMs that one life of hostd can reach.
struct Doors {
    vms: BTreeMap<VmId, SimVm>,
    stage: Stage,
    life: Life,
}

impl Doors {
    fn vm(&self, address: &Path) -> io::Result<(&SimVm, Boundary)> {
        let name = address.file_name().and_then(|name| name.to_str());
        let id = name.and_then(|name| name.parse::<VmId>().ok());
        let vm = id.as_ref().and_then(|id| self.vms.get(id));
        let vm = vm.ok_or(io::ErrorKind::NotFound)?;
        let boundary = Boundary {
            life: self.life.clone(),
            stage: self.stage.clone(),
            vm: vm.id().clone(),
        };
        Ok((vm, boundary))
    }
}

/// Reaches monitors.
pub(crate) struct MonitorDoors(Doors);

/// Reaches agents' channels.
pub(crate) struct ChannelDoors(Doors);

impl MonitorDoors {
    pub(crate) fn new(vms: &BTreeMap<VmId, SimVm>, stage: &Stage, life: &Life) -> Self {
        Self(Doors {
            vms: vms.clone(),
            stage: stage.clone(),
            life: life.clone(),
        })
    }
}

impl ChannelDoors {
    pub(crate) fn new(vms: &BTreeMap<VmId, SimVm>, stage: &Stage, life: &Life) -> Self {
        Self(Doors {
            vms: vms.clone(),
            stage: stage.clone(),
            life: life.clone(),
        })
    }
}

impl fmt::Debug for MonitorDoors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MonitorDoors").finish_non_exhaustive()
    }
}

impl fmt::Debug for ChannelDoors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelDoors").finish_non_exhaustive()
    }
}

#[async_trait]
impl Dialer for MonitorDoors {
    async fn dial(&self, address: &Path) -> io::Result<Box<dyn MonitorStream>> {
        let (vm, boundary) = self.0.vm(address)?;
        boundary.life.or_never(true).await;
        let (end, run) = vm.open_monitor()?;
        Ok(Box::new(MonitorEnd { end, run, boundary }))
    }
}

#[async_trait]
impl ChannelDialer for ChannelDoors {
    async fn dial(&self, address: &Path) -> io::Result<Box<dyn ChannelStream>> {
        let (vm, boundary) = self.0.vm(address)?;
        boundary.life.or_never(true).await;
        let stream = vm.open_channel()?;
        Ok(Box::new(ChannelEnd::new(stream, boundary)))
    }
}
