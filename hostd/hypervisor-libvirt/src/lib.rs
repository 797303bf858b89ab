//! [`Hypervisor`] over libvirt, for hosts whose VMs libvirt manages.
//!
//! ```text
//!                        ┌── thread "libvirt-host" ── list of VMs ───────┐
//!   async callers ──────►├── thread "virt-<vm>" ───── calls for that VM ─┼──► libvirtd ──► QEMU
//!    (deadline each)     ├── thread "virt-<vm>" ─────        "          ─┤
//!                        └── thread "libvirt-link" ── connects, again ───┘
//!   events ◄──────────────── thread "libvirt-events" ◄── callbacks ──────────┘
//! ```
//!
//! libvirt's calls block and may hang with libvirtd or with one VM, so none is made on a thread of
//! the async runtime. Each VM has a thread and a connection of its own, made at the first call and
//! ended when the VM has disappeared.
//!
//! # What libvirt does to the tap
//!
//! Seen with libvirt 9.0 on a persistent tap attached with `managed='no'`, and in its
//! `qemuInterfaceEthernetConnect`, `qemuDomainAttachNetDevice` and `qemuDomainRemoveNetDevice`:
//!
//! | | attach | update of the link state | detach completes | libvirtd restarts, VM stops |
//! | --- | --- | --- | --- | --- |
//! | MAC, MTU, up or down, bridge | kept | kept | kept | kept |
//! | root qdisc | **replaced by `noqueue`** | kept | **deleted** | kept |
//! | `ingress` qdisc | kept | kept | **deleted** | kept |
//! | `clsact` qdisc | kept | kept | kept | kept |
//!
//! So whoever shapes the tap with a root qdisc must do so again after a plug, and filters that must
//! outlive the device belong on `clsact`. A request for more than one queue needs a tap that was
//! made multi-queue: libvirt opens it so, and the kernel refuses a tap of the other kind.
//!
//! # What is left in a domain
//!
//! The first look at a running domain writes one element into its live metadata, `<run id='…'
//! xmlns='urn:nicferry:run'/>`, which tells this run from the next and ends with it. The stored
//! definition is never changed.

mod event_loop;
mod events;
mod ffi;
mod hardware;
mod interface_xml;
mod library;
mod link;
mod operations;
mod options;
mod session;
mod trouble;
mod workers;
mod xml;

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use hypervisor::{
    Carrier, Hypervisor, HypervisorEvent, InspectError, ListError, PlugError, PlugRequest, Plugged,
    SetLinkError, UnplugError, Unplugging,
};
use nic_model::{NicId, VmHardware, VmId};
use tokio::sync::broadcast;

use crate::events::Events;
use crate::link::Link;
use crate::session::Endpoint;
use crate::workers::{For, Workers};

pub use hardware::AGENT_CHANNEL;
pub use options::{Deadlines, Options};

/// From [`LibvirtHypervisor::connect`].
#[derive(Debug, thiserror::Error)]
#[error("failed to set up libvirt for {uri:?}: {reason}")]
pub struct ConnectError {
    uri: String,
    reason: String,
}

/// All VMs of one libvirtd.
pub struct LibvirtHypervisor {
    options: Options,
    link: Arc<Link>,
    events: Arc<Events>,
    workers: Workers,
    /// Names in the last list that cannot be VM names, so that each is logged once.
    unusable: Mutex<Vec<String>>,
}

impl LibvirtHypervisor {
    /// Starts to connect to `uri` (`qemu:///system`, say) and to stay connected. A libvirtd that
    /// is not there is not an error: it is waited for, and calls say so meanwhile.
    ///
    /// # Errors
    /// When `uri` has a NUL byte, there is no libvirt on this host, or a thread or libvirt's event
    /// loop cannot be started.
    pub fn connect(uri: &str, options: Options) -> Result<Self, ConnectError> {
        let failed = |reason: String| ConnectError {
            uri: uri.to_owned(),
            reason,
        };
        if uri.contains('\0') {
            return Err(failed("a URI has no NUL byte".to_owned()));
        }
        library::load().map_err(failed)?;
        event_loop::start().map_err(failed)?;
        let endpoint = Endpoint {
            uri: uri.to_owned(),
            keepalive_interval: options.keepalive_interval,
            keepalive_count: options.keepalive_count,
        };
        Self::start(endpoint, options).map_err(|error| failed(error.to_string()))
    }

    fn start(endpoint: Endpoint, options: Options) -> std::io::Result<Self> {
        let link = Link::new();
        let events = Arc::new(Events::new(Arc::clone(&link)));
        let workers = Workers::new(Arc::clone(&link), endpoint.clone())?;
        let supervised = Arc::clone(&link);
        let observer = Arc::clone(&events);
        std::thread::Builder::new()
            .name("libvirt-link".to_owned())
            .spawn(move || link::supervise(&supervised, &endpoint, &observer))?;
        Ok(Self {
            options,
            link,
            events,
            workers,
            unusable: Mutex::default(),
        })
    }

    /// Logs the names that were not there at the last list.
    fn log_unusable(&self, names: Vec<String>) {
        let mut known = self
            .unusable
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        for name in names.iter().filter(|name| !known.contains(name)) {
            tracing::warn!(name, "skipping a domain whose name cannot be a VM name");
        }
        *known = names;
    }
}

impl Drop for LibvirtHypervisor {
    fn drop(&mut self) {
        self.link.end();
    }
}

#[async_trait]
impl Hypervisor for LibvirtHypervisor {
    async fn vms(&self) -> Result<Vec<VmId>, ListError> {
        let deadline = self.options.deadlines.list;
        let (vms, unusable) = self
            .workers
            .call(For::Host, deadline, operations::vms)
            .await
            .map_err(ListError)?;
        self.log_unusable(unusable);
        self.workers.keep_only(&vms);
        Ok(vms)
    }

    async fn inspect(&self, vm: &VmId) -> Result<VmHardware, InspectError> {
        let asked = vm.clone();
        self.workers
            .call(
                For::Vm(vm),
                self.options.deadlines.inspect,
                move |connect| operations::inspect(connect, &asked),
            )
            .await
            .map_err(|trouble| InspectError {
                vm: vm.clone(),
                trouble,
            })
    }

    async fn plug(&self, vm: &VmId, request: PlugRequest) -> Result<Plugged, PlugError> {
        let asked = vm.clone();
        let (nic, slot) = (request.nic.clone(), request.slot.clone());
        self.workers
            .call(For::Vm(vm), self.options.deadlines.plug, move |connect| {
                operations::plug(connect, &asked, &request)
            })
            .await
            .map_err(|trouble| PlugError {
                vm: vm.clone(),
                nic,
                slot,
                trouble,
            })
    }

    async fn unplug(&self, vm: &VmId, nic: &NicId) -> Result<Unplugging, UnplugError> {
        let (asked, leaving) = (vm.clone(), nic.clone());
        self.workers
            .call(For::Vm(vm), self.options.deadlines.unplug, move |connect| {
                operations::unplug(connect, &asked, &leaving)
            })
            .await
            .map_err(|trouble| UnplugError {
                vm: vm.clone(),
                nic: nic.clone(),
                trouble,
            })
    }

    async fn set_link(&self, vm: &VmId, nic: &NicId, carrier: Carrier) -> Result<(), SetLinkError> {
        let (asked, changed) = (vm.clone(), nic.clone());
        self.workers
            .call(
                For::Vm(vm),
                self.options.deadlines.set_link,
                move |connect| operations::set_link(connect, &asked, &changed, carrier),
            )
            .await
            .map_err(|trouble| SetLinkError {
                vm: vm.clone(),
                nic: nic.clone(),
                trouble,
            })
    }

    fn events(&self) -> broadcast::Receiver<HypervisorEvent> {
        self.events.subscribe()
    }
}
