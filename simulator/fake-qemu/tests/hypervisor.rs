//! hostd's own QMP back end over fake-qemu, as over a real one.

#![expect(clippy::unwrap_used, reason = "set-up that fails is a failed test")]

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fake_qemu::driver::unix::{KernelTaps, listen};
use fake_qemu::driver::{FakeQemu, LetsGo, PlainGuest, Settings};
use fake_qemu::{Hardware, MonitorId, Profile};
use hypervisor::{
    Carrier, EventKind, Hypervisor, HypervisorEvent, PlugRequest, Tap, TapAccess, Unplugging,
};
use hypervisor_qmp::{QmpHypervisor, QmpVm};
use linux_network::Netns;
use linux_network::tap::TapSpec;
use misbehaviour::Rulebook;
use nic_model::{Backend, HotplugMode, NicId, PowerState, SlotId, VmHardware, VmId};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::broadcast;
use tokio::time::timeout;

/// Long enough never to pass in a test that works.
const PATIENT: Duration = Duration::from_secs(60);

struct Stage {
    hypervisor: QmpHypervisor,
    vm: VmId,
    netns: Netns,
    _directory: TempDir,
}

fn serve(lets_go: LetsGo) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("monitor");
    let listener = UnixListener::bind(&socket).unwrap();
    let settings = Settings {
        hardware: Arc::new(Hardware::with_root_ports(Profile::Qemu7_2, 2).unwrap()),
        vm: None,
        rules: Arc::new(Mutex::new(Rulebook::new(0))),
        epoch: Duration::ZERO,
    };
    let host = KernelTaps;
    let qemu = FakeQemu::start(settings, PlainGuest { lets_go, host });
    tokio::spawn(qemu.run());
    tokio::spawn(async move { listen(&qemu, MonitorId(0), &listener).await });
    (directory, socket)
}

async fn stage(lets_go: LetsGo) -> Stage {
    let (directory, socket) = serve(lets_go);
    let vm: VmId = "vm".parse().unwrap();
    let hypervisor = QmpHypervisor::new(vec![QmpVm {
        id: vm.clone(),
        socket,
        channel: None,
    }]);
    let mut events = hypervisor.events();
    let on = async {
        while hypervisor.inspect(&vm).await.unwrap().power == PowerState::Off {
            events.recv().await.unwrap();
        }
    };
    timeout(PATIENT, on).await.unwrap();
    Stage {
        hypervisor,
        vm,
        netns: Netns::unnamed().unwrap(),
        _directory: directory,
    }
}

fn nic() -> NicId {
    "nic-aaaaaaaaaa".parse().unwrap()
}

fn request_without_queues(slot: &str, queue_count: u16) -> PlugRequest {
    PlugRequest {
        nic: nic(),
        mac: "5a:00:00:00:00:01".parse().unwrap(),
        slot: SlotId(slot.to_owned()),
        tap: Tap {
            name: nic().tap_name(),
            access: TapAccess::Descriptors,
            queues: Vec::new(),
            queue_count,
        },
    }
}

impl Stage {
    /// A request with a fresh tap of so many queues.
    async fn request(&self, slot: &str, queue_count: u16) -> PlugRequest {
        let spec = TapSpec {
            name: nic().tap_name().parse().unwrap(),
            queue_count: queue_count.try_into().unwrap(),
            owner: None,
        };
        let queues = linux_network::tap::attach(&self.netns, spec).await.unwrap();
        let mut request = request_without_queues(slot, queue_count);
        request.tap.queues = queues.into_iter().map(Into::into).collect();
        request
    }

    async fn inspect(&self) -> VmHardware {
        self.hypervisor.inspect(&self.vm).await.unwrap()
    }

    async fn unplug(&self) -> Unplugging {
        self.hypervisor.unplug(&self.vm, &nic()).await.unwrap()
    }
}

async fn until(events: &mut broadcast::Receiver<HypervisorEvent>, wanted: &EventKind) {
    let seen = async { while events.recv().await.unwrap().kind != *wanted {} };
    timeout(PATIENT, seen).await.unwrap();
}

#[tokio::test]
async fn a_nic_is_plugged_seen_and_unplugged() {
    let stage = stage(LetsGo::After(Duration::from_millis(20))).await;
    let mut events = stage.hypervisor.events();
    let request = stage.request("rp2", 2).await;
    stage.hypervisor.plug(&stage.vm, request).await.unwrap();

    let plugged = stage.inspect().await;
    stage
        .hypervisor
        .set_link(&stage.vm, &nic(), Carrier::Down)
        .await
        .unwrap();
    assert_eq!(stage.unplug().await, Unplugging::Asked);
    until(&mut events, &EventKind::DeviceGone(nic())).await;
    assert_eq!(stage.unplug().await, Unplugging::Gone);

    assert_eq!(plugged.nics[0].slot, Some(SlotId("rp2".to_owned())));
    assert_eq!(plugged.nics[0].backend, Backend::Present);
    assert_eq!(
        plugged.nics[0].mac,
        Some("5a:00:00:00:00:01".parse().unwrap())
    );
    assert_eq!(
        (plugged.power, plugged.hotplug),
        (PowerState::Running, HotplugMode::Acpi)
    );
    assert_eq!(stage.inspect().await.nics, []);
}

#[tokio::test]
async fn a_plug_that_is_repeated_changes_nothing() {
    let stage = stage(LetsGo::Never).await;
    let request = stage.request("rp1", 1).await;
    stage.hypervisor.plug(&stage.vm, request).await.unwrap();
    let once = stage.inspect().await;

    let again = request_without_queues("rp1", 1);
    stage.hypervisor.plug(&stage.vm, again).await.unwrap();

    assert_eq!(stage.inspect().await, once);
    assert_eq!(once.nics.len(), 1);
}
