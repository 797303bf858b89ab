//! The [`Hypervisor`] of VMs that are given by their QMP sockets.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hypervisor::{
    Carrier, Hypervisor, HypervisorEvent, InspectError, ListError, PlugError, PlugRequest, Plugged,
    SetLinkError, Trouble, UnplugError, Unplugging,
};
use nic_model::{NicId, VmHardware, VmId};
use tokio::sync::broadcast;

use crate::change;
use crate::client::{CommandError, Dialer, UnixDialer};
use crate::link::{Link, Outage};
use crate::session::{Session, hardware_when_off};

/// Events a receiver may fall behind by before it is told to look at everything.
const EVENTS_LEN: usize = 1024;

/// One VM and where to reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QmpVm {
    /// Its name.
    pub id: VmId,
    /// A QMP socket that QEMU itself listens on (`-qmp unix:PATH,server=on,wait=off`) and that
    /// nobody else uses.
    pub socket: PathBuf,
    /// Host end of the agent's channel, where the VM has one.
    pub channel: Option<PathBuf>,
}

/// Whether the kernel moves the packets (vhost-net) or QEMU does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Vhost {
    /// The kernel, where `/dev/vhost-net` can be opened.
    #[default]
    Auto,
    /// QEMU.
    Never,
}

/// Draws a wait from a range, so that those who wait do not all come back at once.
pub type Jitter = Arc<dyn Fn(RangeInclusive<Duration>) -> Duration + Send + Sync>;

/// How VMs are reached and driven.
#[derive(Clone)]
pub struct Settings {
    /// Who moves the packets.
    pub vhost: Vhost,
    /// How monitors are reached.
    pub dialer: Arc<dyn Dialer>,
    /// How long it takes until one that is away is tried again.
    pub jitter: Jitter,
}

impl Default for Settings {
    /// [`Vhost::Auto`] over unix sockets, waits by the system's randomness.
    fn default() -> Self {
        Self {
            vhost: Vhost::default(),
            dialer: Arc::new(UnixDialer),
            jitter: Arc::new(rand::random_range),
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Settings");
        shown.field("vhost", &self.vhost);
        shown.field("dialer", &self.dialer).finish_non_exhaustive()
    }
}

/// VMs reached over QMP, each by an actor of its own.
#[derive(Debug)]
pub struct QmpHypervisor {
    vms: BTreeMap<VmId, Vm>,
    vhost: Vhost,
    events: broadcast::Sender<HypervisorEvent>,
}

#[derive(Debug)]
struct Vm {
    link: Link,
    channel: Option<PathBuf>,
}

impl QmpHypervisor {
    /// Starts to connect to each of `vms`, with the default [`Settings`]. Of two with the same name
    /// the later one counts.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn new(vms: Vec<QmpVm>) -> Self {
        Self::with(vms, &Settings::default())
    }

    /// The same with other settings.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn with(vms: Vec<QmpVm>, settings: &Settings) -> Self {
        let (events, _) = broadcast::channel(EVENTS_LEN);
        let vms = vms.into_iter().map(|vm| {
            let link = Link::start(vm.id.clone(), vm.socket, events.clone(), settings);
            let channel = vm.channel;
            (vm.id, Vm { link, channel })
        });
        Self {
            vms: vms.collect(),
            vhost: settings.vhost,
            events,
        }
    }

    fn vm(&self, id: &VmId) -> Result<&Vm, Trouble> {
        self.vms.get(id).ok_or(Trouble::NoSuchVm)
    }

    async fn try_plug(&self, vm: &VmId, request: PlugRequest) -> Result<Plugged, Trouble> {
        let link = &self.vm(vm)?.link;
        let _turn = link.turn().await?;
        let session = link.session().await?;
        change::plug(&session, self.vhost, request).await
    }

    async fn try_unplug(&self, vm: &VmId, nic: &NicId) -> Result<Unplugging, Trouble> {
        let link = &self.vm(vm)?.link;
        let _turn = link.turn().await?;
        let session = link.session().await?;
        change::unplug(&session, nic).await
    }

    async fn try_set_link(&self, vm: &VmId, nic: &NicId, carrier: Carrier) -> Result<(), Trouble> {
        let link = &self.vm(vm)?.link;
        let _turn = link.turn().await?;
        let session = link.session().await?;
        change::set_link(&session.qemu, nic, carrier).await
    }
}

impl Vm {
    /// A session that breaks while it is asked says nothing about the VM: the next one does, and
    /// reading twice does no harm.
    async fn inspect(&self) -> Result<VmHardware, Trouble> {
        match self.look().await {
            Err(Look::Failed(CommandError::Lost { .. })) => self.look().await,
            outcome => outcome,
        }
        .or_else(|look| match look {
            Look::Outage(Outage::NoProcess) => Ok(hardware_when_off(self.channel.clone())),
            Look::Outage(outage) => Err(outage.into()),
            Look::Failed(error) => Err(change::trouble(error)),
        })
    }

    async fn look(&self) -> Result<VmHardware, Look> {
        let session: Arc<Session> = self.link.session().await.map_err(Look::Outage)?;
        let hardware = session.hardware(self.channel.clone()).await;
        hardware.map_err(Look::Failed)
    }
}

/// Why a look at a VM brought nothing.
enum Look {
    Outage(Outage),
    Failed(CommandError),
}

#[async_trait]
impl Hypervisor for QmpHypervisor {
    async fn vms(&self) -> Result<Vec<VmId>, ListError> {
        Ok(self.vms.keys().cloned().collect())
    }

    async fn inspect(&self, vm: &VmId) -> Result<VmHardware, InspectError> {
        let looked = match self.vm(vm) {
            Ok(found) => found.inspect().await,
            Err(trouble) => Err(trouble),
        };
        looked.map_err(|trouble| InspectError {
            vm: vm.clone(),
            trouble,
        })
    }

    async fn plug(&self, vm: &VmId, request: PlugRequest) -> Result<Plugged, PlugError> {
        let (nic, slot) = (request.nic.clone(), request.slot.clone());
        let plugged = self.try_plug(vm, request).await;
        plugged.map_err(|trouble| PlugError {
            vm: vm.clone(),
            nic,
            slot,
            trouble,
        })
    }

    async fn unplug(&self, vm: &VmId, nic: &NicId) -> Result<Unplugging, UnplugError> {
        let unplugged = self.try_unplug(vm, nic).await;
        unplugged.map_err(|trouble| UnplugError {
            vm: vm.clone(),
            nic: nic.clone(),
            trouble,
        })
    }

    async fn set_link(&self, vm: &VmId, nic: &NicId, carrier: Carrier) -> Result<(), SetLinkError> {
        let set = self.try_set_link(vm, nic, carrier).await;
        set.map_err(|trouble| SetLinkError {
            vm: vm.clone(),
            nic: nic.clone(),
            trouble,
        })
    }

    fn events(&self) -> broadcast::Receiver<HypervisorEvent> {
        self.events.subscribe()
    }
}
