//! The VMs: fake QEMUs and guests behind unix sockets, as a real QEMU has them.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, Result};
use fake_guest::kernel::{BootTimes, KernelSettings, Unplug};
use fake_qemu::driver::unix::UnixMonitor;
use fake_qemu::driver::{MonitorStream, Parcel};
use fake_qemu::{Hardware, MonitorId, Profile};
use hypervisor::Descriptor;
use misbehaviour::{Pace, Rulebook};
use nic_model::VmId;
use simulator::sim::{Keeping, SimVm, Stage, VmSettings};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

/// The monitor of each VM.
const MONITOR: MonitorId = MonitorId(0);

/// Every VM, switched on and served until this is dropped.
#[derive(Debug)]
pub struct Peers {
    vms: BTreeMap<VmId, SimVm>,
    directory: PathBuf,
    _served: JoinSet<()>,
}

impl Peers {
    /// Switches `count` VMs on, each with `slots` slots and the container `container`, with their
    /// sockets in `directory`.
    ///
    /// # Errors
    /// When a socket cannot be made.
    pub fn start(count: usize, slots: usize, container: &str, directory: &Path) -> Result<Self> {
        let stage = Stage::new(1, Rulebook::new(1), Keeping::Nothing);
        let settings = VmSettings {
            hardware: Arc::new(Hardware::with_root_ports(Profile::Qemu7_2, slots)?),
            kernel: kernel(),
            segment: None,
        };
        let mut peers = Self {
            vms: BTreeMap::new(),
            directory: directory.to_owned(),
            _served: JoinSet::new(),
        };
        for number in 0..count {
            let id: VmId = format!("vm{number}").parse()?;
            let vm = SimVm::new(id.clone(), &stage, &settings);
            vm.power_on();
            let guest = vm.guest_handle().context("it has just been switched on")?;
            guest
                .add_netns(&container.parse()?)
                .map_err(|errno| anyhow::anyhow!("no container: {errno:?}"))?;
            peers.serve(&vm)?;
            peers.vms.insert(id, vm);
        }
        Ok(peers)
    }

    fn serve(&mut self, vm: &SimVm) -> Result<()> {
        let monitor = UnixListener::bind(self.monitor(vm.id()))?;
        let channel = UnixListener::bind(self.channel(vm.id()))?;
        self._served.spawn(serve_monitor(vm.clone(), monitor));
        self._served.spawn(serve_channel(vm.clone(), channel));
        Ok(())
    }

    /// Every VM's name, in order.
    pub fn names(&self) -> impl Iterator<Item = &VmId> {
        self.vms.keys()
    }

    /// Where a VM's monitor is.
    #[must_use]
    pub fn monitor(&self, vm: &VmId) -> PathBuf {
        self.directory.join(format!("{vm}.qmp"))
    }

    /// Where the host's end of its agent's channel is.
    #[must_use]
    pub fn channel(&self, vm: &VmId) -> PathBuf {
        self.directory.join(format!("{vm}.agent"))
    }

    /// Network devices of all of them.
    #[must_use]
    pub fn devices(&self) -> usize {
        self.vms.values().map(|vm| vm.devices().len()).sum()
    }
}

fn kernel() -> KernelSettings {
    KernelSettings {
        boot: BootTimes::NONE,
        probe: Pace::Instant,
        unplug: Unplug::LetsGo(Pace::Instant),
        rename_after: None,
        teardown: Duration::ZERO,
        ..KernelSettings::default()
    }
}

/// One client after the other, for as long as the socket and the QEMU are there.
async fn serve_monitor(vm: SimVm, listener: UnixListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let client = Client(UnixMonitor::new(stream));
        match vm.with_qemu(|qemu| qemu.serve(MONITOR, client)) {
            Some(served) => drop(served.await),
            None => return,
        }
    }
}

async fn serve_channel(vm: SimVm, listener: UnixListener) {
    while let Ok((stream, _)) = listener.accept().await {
        if carry(&vm, stream).await.is_none() {
            return;
        }
    }
}

/// Until either side ends it; `None` when the VM is off. A guest's agent has nothing to say for
/// minutes, so that hostd is gone is seen in its own direction alone.
async fn carry(vm: &SimVm, stream: UnixStream) -> Option<()> {
    let (mut from_guest, mut to_guest) = tokio::io::split(vm.guest_handle()?.connect());
    let (mut from_host, mut to_host) = stream.into_split();
    tokio::select! {
        biased;
        _ = tokio::io::copy(&mut from_host, &mut to_guest) => {}
        _ = tokio::io::copy(&mut from_guest, &mut to_host) => {}
    }
    Some(())
}

/// A client that brings descriptors of the kernel.
struct Client(UnixMonitor);

impl MonitorStream for Client {
    type Descriptor = Descriptor;

    fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<Option<Parcel<Descriptor>>>> {
        let held = |parcel: Parcel<OwnedFd>| Parcel {
            bytes: parcel.bytes,
            descriptors: parcel.descriptors.into_iter().map(Into::into).collect(),
        };
        let received = self.0.poll_receive(context);
        received.map_ok(|parcel| parcel.map(held))
    }

    fn poll_send(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_send(context, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_guest_with_nothing_to_say_does_not_keep_the_next_hostd_waiting() {
        let directory = tempfile::tempdir().expect("there is room");
        let peers = Peers::start(1, 1, "container", directory.path()).expect("it starts");
        let vm = peers.vms.values().next().expect("there is one");
        let (hostd, served) = UnixStream::pair().expect("there are descriptors");

        drop(hostd);
        let carried = tokio::time::timeout(Duration::from_secs(10), carry(vm, served)).await;

        assert_eq!(carried, Ok(Some(())));
    }
}
