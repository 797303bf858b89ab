//! One VM: a QEMU that comes and goes, and in each of its lives a guest.
//!
//! ```text
//!   hostd ──monitor──► FakeQemu ── plugged, asked, removed ──► FakeGuest ◄──channel── hostd
//!                         ▲                                        │
//!                         └──────── ejected, refused, reset ◄──────┘
//! ```
//!
//! A QEMU that ends takes everything with it: its clients, the taps it held, its guest. Whoever
//! dials then finds that no process listens.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use fake_guest::kernel::{GuestView, KernelSettings};
use fake_guest::{FakeGuest, GuestOptions, GuestSignal, NicPlug, PortEnd, Segment};
use fake_qemu::driver::{FakeQemu, Settings, Surroundings};
use fake_qemu::{
    BackendChange, GuestAct, GuestDevice, GuestSignal as QemuSignal, Hardware, Host, MonitorId,
    TapError,
};
use hypervisor::Descriptor;
use linux_network::Carrier;
use misbehaviour::{CueOrder, Pace, Transition};
use nic_model::{MacAddr, NicId, PciPath, PowerState, VmId, VmRunId};
use oracle::DeviceView;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::look::Devices;
use super::stage::{Stage, lock};
use super::stream::{StreamEnd, pair};

/// Clients that wait for the monitor.
const BACKLOG: usize = 16;
/// The one monitor.
const MONITOR: MonitorId = MonitorId(0);

/// How VMs are made.
#[derive(Debug, Clone)]
pub struct VmSettings {
    /// What each is made of.
    pub hardware: Arc<Hardware>,
    /// How their kernels behave; the seed is each one's own.
    pub kernel: KernelSettings,
    /// What their NICs are plugged into; without one no DHCP server answers.
    pub segment: Option<Segment>,
}

/// Whether a VM's monitor can be reached anew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MonitorDoor {
    /// It can.
    #[default]
    Open,
    /// Its socket is not where it was, as after somebody has cleaned up `/run`.
    Hidden,
}

/// A QEMU whose descriptors are those of the simulated host.
type Qemu = FakeQemu<Descriptor, GuestSide>;

/// One VM. Clones are of the same.
#[derive(Clone)]
pub struct SimVm(Arc<Inner>);

struct Inner {
    id: Arc<VmId>,
    stage: Stage,
    state: Mutex<State>,
}

struct State {
    settings: VmSettings,
    lives: u64,
    monitor: MonitorDoor,
    powered: Option<Powered>,
}

/// One life of a QEMU.
struct Powered {
    qemu: Qemu,
    guest: Arc<FakeGuest>,
    run: VmRunId,
    clients: mpsc::Sender<StreamEnd>,
    _tasks: JoinSet<()>,
}

impl SimVm {
    /// A VM that is off.
    #[must_use]
    pub fn new(id: VmId, stage: &Stage, settings: &VmSettings) -> Self {
        Self(Arc::new(Inner {
            id: Arc::new(id),
            stage: stage.clone(),
            state: Mutex::new(State {
                settings: settings.clone(),
                lives: 0,
                monitor: MonitorDoor::Open,
                powered: None,
            }),
        }))
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> &Arc<VmId> {
        &self.0.id
    }

    /// How it is made the next time it is switched on.
    pub fn change(&self, change: impl FnOnce(&mut VmSettings)) {
        change(&mut lock(&self.0.state).settings);
    }

    /// Lets nobody reach its monitor any more, or again. Who is connected stays so.
    pub fn set_monitor_door(&self, door: MonitorDoor) {
        lock(&self.0.state).monitor = door;
    }

    /// Starts its QEMU, unless one runs, with a guest that boots.
    pub fn power_on(&self) {
        let mut state = lock(&self.0.state);
        if state.powered.is_none() {
            state.lives += 1;
            let powered = self.start(&state);
            powered.guest.power_on();
            state.powered = Some(powered);
        }
    }

    fn start(&self, state: &State) -> Powered {
        let Inner { id, stage, .. } = &*self.0;
        let life = format!("{id}/{}", state.lives);
        stage.note(id.as_str(), "power-on", life.as_bytes());
        let mut options = GuestOptions::new(VmId::clone(id));
        options.kernel = KernelSettings {
            seed: stage.chance(&life).next_u64(),
            ..state.settings.kernel.clone()
        };
        options.rules = Some(stage.shared_rules().into());
        let (guest, signals) = FakeGuest::new(options);
        let guest = Arc::new(guest);
        let settings = Settings {
            hardware: state.settings.hardware.clone(),
            vm: Some(VmId::clone(id)),
            rules: stage.shared_rules(),
            epoch: Duration::from_millis(super::surroundings::EPOCH_MS) + stage.now(),
        };
        let side = GuestSide {
            guest: guest.clone(),
            segment: state.settings.segment.clone(),
        };
        let qemu = Qemu::start(settings, side);
        let (clients, waiting) = mpsc::channel(BACKLOG);
        let mut tasks = JoinSet::new();
        let vm = Arc::downgrade(&self.0);
        tasks.spawn(live(vm, qemu.clone(), guest.clone(), waiting, signals));
        Powered {
            qemu,
            guest,
            run: VmRunId(life),
            clients,
            _tasks: tasks,
        }
    }

    /// Ends its QEMU as `kill -9` does, and everything in it; `false` when none runs.
    pub fn kill(&self) -> bool {
        let Some(powered) = lock(&self.0.state).powered.take() else {
            return false;
        };
        self.0.stage.note(self.0.id.as_str(), "killed", b"");
        powered.qemu.kill();
        true
    }

    /// Resets it, as its button does.
    pub fn reset(&self) {
        self.with_qemu(|qemu| qemu.act(GuestAct::Reset));
    }

    /// Sets the pace of a transition, of the guest that runs and of those to come.
    pub fn set_pace(&self, transition: Transition, pace: Pace) {
        self.change(|settings| settings.kernel.set_pace(transition, pace));
        if let Some(guest) = self.guest_handle() {
            guest.set_pace(transition, pace);
        }
    }

    /// Does as a script has it, if it is on: to its clocks, or to what waits to be told.
    pub fn follow(&self, order: CueOrder) {
        let guest = self.guest_handle();
        match order {
            CueOrder::Step => guest.iter().for_each(|guest| guest.step()),
            CueOrder::Clock(order) => {
                guest.iter().for_each(|guest| guest.set_clock(order));
                self.with_qemu(|qemu| qemu.set_clock(order));
            }
        }
    }

    /// How its guests' kernels behave.
    #[must_use]
    pub fn kernel(&self) -> KernelSettings {
        lock(&self.0.state).settings.kernel.clone()
    }

    /// Has the kernel of its guest, and those to come, behave otherwise.
    pub fn set_kernel(&self, kernel: KernelSettings) {
        self.change(|settings| settings.kernel = kernel.clone());
        if let Some(guest) = self.guest_handle() {
            guest.with_kernel(|running| *running.settings_mut() = kernel);
        }
    }

    /// What waits in its guest for looks or to be told waits no longer.
    pub fn hurry(&self) {
        if let Some(guest) = self.guest_handle() {
            guest.with_kernel(fake_guest::kernel::Kernel::hurry);
        }
    }

    /// Does something with its QEMU, if one runs.
    pub fn with_qemu<T>(&self, act: impl FnOnce(&Qemu) -> T) -> Option<T> {
        let qemu = {
            let state = lock(&self.0.state);
            state.powered.as_ref().map(|powered| powered.qemu.clone())
        };
        qemu.as_ref().map(act)
    }

    /// Its guest, if it is on.
    #[must_use]
    pub fn guest_handle(&self) -> Option<Arc<FakeGuest>> {
        let state = lock(&self.0.state);
        let powered = state.powered.as_ref();
        powered.map(|powered| powered.guest.clone())
    }

    /// What its virtual CPUs do, as far as anybody outside can tell.
    #[must_use]
    pub fn power(&self) -> PowerState {
        match lock(&self.0.state).powered {
            Some(_) => PowerState::Running,
            None => PowerState::Off,
        }
    }

    /// What is in its guest.
    #[must_use]
    pub fn guest(&self) -> Option<GuestView> {
        self.guest_handle().map(|guest| guest.view())
    }

    /// Its network devices, by id.
    #[must_use]
    pub fn devices(&self) -> Devices {
        let devices = self.with_qemu(|qemu| {
            qemu.with(|machine, _| {
                let nics = machine.devices().filter_map(|device| {
                    let mac = device.mac()?;
                    let view = DeviceView {
                        slot: None,
                        mac: MacAddr::new(mac.0).ok(),
                    };
                    Some((device.id()?.to_owned(), view))
                });
                nics.collect()
            })
        });
        devices.unwrap_or_default()
    }

    /// Ids of its network backends.
    #[must_use]
    pub fn netdevs(&self) -> BTreeSet<String> {
        let netdevs = self.with_qemu(|qemu| {
            qemu.with(|machine, _| {
                let ids = machine.backends().map(|backend| backend.id.clone());
                ids.collect()
            })
        });
        netdevs.unwrap_or_default()
    }

    /// Connects to its monitor, which serves one client after the other.
    pub(crate) fn open_monitor(&self) -> io::Result<(StreamEnd, VmRunId)> {
        let state = lock(&self.0.state);
        if state.monitor == MonitorDoor::Hidden {
            return Err(io::ErrorKind::NotFound.into());
        }
        let refused = io::ErrorKind::ConnectionRefused;
        let powered = state.powered.as_ref().ok_or(refused)?;
        let (ours, theirs) = pair();
        // A full backlog is what a client of a unix socket meets too (unix(7), EAGAIN).
        let sent = powered.clients.try_send(theirs);
        sent.map_err(|_full| io::ErrorKind::WouldBlock)?;
        Ok((ours, powered.run.clone()))
    }

    /// Connects to the host end of the agent's channel.
    pub(crate) fn open_channel(&self) -> io::Result<PortEnd> {
        let guest = self.guest_handle();
        Ok(guest.ok_or(io::ErrorKind::ConnectionRefused)?.connect())
    }
}

impl fmt::Debug for SimVm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SimVm").field(&self.0.id).finish()
    }
}

/// One life of a QEMU, until it ends.
async fn live(
    vm: Weak<Inner>,
    qemu: Qemu,
    guest: Arc<FakeGuest>,
    mut clients: mpsc::Receiver<StreamEnd>,
    mut signals: mpsc::Receiver<GuestSignal>,
) {
    let working = async {
        tokio::select! {
            biased;
            () = qemu.run() => {}
            () = forward(&qemu, &mut signals) => {}
        }
    };
    let serving = async {
        while let Some(stream) = clients.recv().await {
            qemu.serve(MONITOR, stream).await;
            if qemu.has_ended() {
                return;
            }
        }
    };
    tokio::select! {
        biased;
        () = working => {}
        () = serving => {}
    }
    guest.power_off();
    if let Some(vm) = vm.upgrade() {
        vm.stage.note(vm.id.as_str(), "ended", b"");
        // This very task goes with it, at its next await, of which it has none.
        let gone = lock(&vm.state).powered.take();
        drop(gone);
    }
}

/// What a guest does of itself, to its QEMU.
async fn forward(qemu: &Qemu, signals: &mut mpsc::Receiver<GuestSignal>) {
    while let Some(signal) = signals.recv().await {
        if let Some(act) = act_of(signal) {
            qemu.act(act);
        }
    }
}

fn act_of(signal: GuestSignal) -> Option<GuestAct> {
    let port = |path: &PciPath| path.slots().first().copied();
    Some(match signal {
        GuestSignal::Ejected(path) => GuestAct::Ejected { path },
        GuestSignal::Refused(path) => GuestAct::Refused { path },
        GuestSignal::SlotBusy(path) => GuestAct::SlotBusy { port: port(&path)? },
        GuestSignal::SlotOn(path) => GuestAct::SlotOn { port: port(&path)? },
        GuestSignal::Reset => GuestAct::Reset,
        GuestSignal::Panicked => GuestAct::Panic,
        GuestSignal::PowerOff => GuestAct::PowerOff,
    })
}

/// The guest as its QEMU knows it. It answers by signals of its own, later.
#[derive(Debug)]
pub struct GuestSide {
    guest: Arc<FakeGuest>,
    segment: Option<Segment>,
}

impl Host<Descriptor> for GuestSide {
    fn check_tap(&mut self, _descriptor: &Descriptor) -> Result<(), TapError> {
        Ok(())
    }

    fn open_tap(&mut self, _name: &str) -> Result<(), TapError> {
        Err(TapError("Operation not permitted".to_owned()))
    }
}

impl Surroundings<Descriptor> for GuestSide {
    fn signal(&mut self, signal: QemuSignal) -> Vec<(Duration, GuestAct)> {
        let guest = &self.guest;
        match signal {
            QemuSignal::Plugged(device) => plug(guest, device, self.segment.clone()),
            QemuSignal::UnplugRequested { path } => guest.request_unplug(&path),
            QemuSignal::Removed { path } => guest.remove(&path),
            QemuSignal::CarrierUp { path } => guest.set_carrier(&path, Carrier::Present),
            QemuSignal::CarrierDown { path } => guest.set_carrier(&path, Carrier::Absent),
            QemuSignal::Reset => guest.reset(),
            QemuSignal::Gone => guest.power_off(),
            QemuSignal::Stopped => guest.pause(),
            QemuSignal::Resumed => guest.resume(),
            QemuSignal::PowerButton => guest.press_power_button(),
            // The agent announces what it binds by itself.
            QemuSignal::Announce { .. } => {}
        }
        Vec::new()
    }

    fn looked(&mut self) {
        self.guest.look();
    }

    fn backend(&mut self, change: BackendChange<Descriptor>) {
        // What a backend held is closed with it.
        drop(change);
    }
}

fn plug(guest: &FakeGuest, device: GuestDevice, segment: Option<Segment>) {
    let mac = device.mac.and_then(|mac| MacAddr::new(mac.0).ok());
    let Some(mac) = mac else {
        return;
    };
    guest.plug(NicPlug {
        mac,
        mtu: Some(device.mtu_bytes).filter(|bytes| *bytes > 0),
        carrier: Carrier::Present,
        nic: device.id.as_deref().and_then(NicId::from_device_id),
        segment,
        path: device.path,
    });
}
