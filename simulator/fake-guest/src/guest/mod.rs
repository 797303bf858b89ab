//! A guest that lives: the kernel's model in tokio's time, the real agent on it, a port.
//!
//! All of it ends when the [`FakeGuest`] is dropped. It has to be made and used on a tokio runtime;
//! with a paused clock nothing in it depends on real time. What it does of itself (ejecting a
//! device, refusing to) comes out of the receiver that was made with it.

mod dhcp_client;
mod handles;
mod hands;
mod inner;
mod linux;
mod port;
mod rules;
mod segment;

use std::sync::Arc;
use std::time::Duration;

use guest_agent::Task;
use guest_agent::kernel::Carrier;
use misbehaviour::{ClockOrder, Effect, Pace, Transition};
use nic_model::{MacAddr, NetnsName, NicId, PciPath, VmId};
use tokio::sync::mpsc;

use crate::kernel::{GuestView, Handling, Kernel, KernelSettings, PluggedDevice};
pub use dhcp_client::FakeDhcpClient;
pub use handles::{
    FakeAnnouncer, FakeLinkEvents, FakeNameEvents, FakeNetns, FakeProcess, FakeRtnetlink,
};
pub use hands::Container;
use inner::Inner;
pub use linux::FakeKernel;
pub use port::PortEnd;
pub use rules::SharedRules;
pub use segment::Segment;

/// Signals that wait to be taken: two for each device there can be, and some.
const SIGNALS: usize = 64;

/// How a guest is to be.
#[derive(Debug, Clone)]
pub struct GuestOptions {
    /// Whose it is: rules name it.
    pub vm: VmId,
    /// How its kernel behaves.
    pub kernel: KernelSettings,
    /// Name of the namespace in which the agent keeps links.
    pub holding: NetnsName,
    /// How long after it has died the agent is started again (`RestartSec` of its unit).
    pub restart: Duration,
    /// What goes wrong.
    pub rules: Option<SharedRules>,
}

impl GuestOptions {
    /// A guest that does as it is told, with an agent as its unit file starts it.
    #[must_use]
    pub fn new(vm: VmId) -> Self {
        Self {
            vm,
            kernel: KernelSettings::default(),
            holding: usual_holding(),
            restart: Duration::from_millis(100),
            rules: None,
        }
    }
}

fn usual_holding() -> NetnsName {
    let name = "nicferry-holding".parse();
    name.expect("it is letters and a hyphen")
}

/// What a guest tells its hypervisor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestSignal {
    /// It has let go of the device there, asked or not.
    Ejected(PciPath),
    /// It refuses to let go of the device there.
    Refused(PciPath),
    /// It resets itself: nothing runs in it until the hypervisor does so.
    Reset,
    /// The native driver of the slot there blinks: requests to unplug are refused meanwhile.
    SlotBusy(PciPath),
    /// It is done with the slot, which has power.
    SlotOn(PciPath),
    /// Its kernel has panicked: nothing runs in it until a reset.
    Panicked,
    /// It has switched itself off.
    PowerOff,
}

/// A NIC as the hypervisor plugs it.
#[derive(Debug, Clone)]
pub struct NicPlug {
    /// Where.
    pub path: PciPath,
    /// Its permanent address.
    pub mac: MacAddr,
    /// Largest packet the host allows, in bytes.
    pub mtu: Option<u16>,
    /// Whether its host end is there.
    pub carrier: Carrier,
    /// Whose device it is, so that rules can name it.
    pub nic: Option<NicId>,
    /// What it is plugged into on the host; without one no DHCP server answers.
    pub segment: Option<Segment>,
}

/// A guest. Dropping it is pulling the plug.
#[derive(Debug)]
pub struct FakeGuest {
    inner: Arc<Inner>,
    _driver: Task,
}

impl FakeGuest {
    /// A guest that is off, and the signals it gives.
    #[must_use]
    pub fn new(options: GuestOptions) -> (Self, mpsc::Receiver<GuestSignal>) {
        let (signals, receiver) = mpsc::channel(SIGNALS);
        let kernel = Kernel::new(options.kernel.clone());
        let inner = Arc::new(Inner::new(options, kernel, signals));
        let driver = Task::spawn(Inner::drive(Arc::downgrade(&inner)));
        let guest = Self {
            inner,
            _driver: driver,
        };
        (guest, receiver)
    }

    /// Switches it on.
    pub fn power_on(&self) {
        self.inner.boot(Kernel::power_on);
    }

    /// Switches it off: everything in it is gone.
    pub fn power_off(&self) {
        self.inner.with(Kernel::power_off);
    }

    /// Resets it, as the hypervisor does. Devices the guest was to let go of should be removed
    /// first.
    pub fn reset(&self) {
        self.inner.boot(Kernel::reset);
    }

    /// Its virtual CPUs stand still: whatever is under way in it waits.
    pub fn pause(&self) {
        self.inner.pause();
    }

    /// They run again.
    pub fn resume(&self) {
        self.inner.resume();
    }

    /// Somebody presses the power button: a running system shuts down, and nothing else hears it.
    pub fn press_power_button(&self) {
        self.inner.shut_down();
    }

    /// Plugs a device in, or has rules see to it that it goes wrong.
    pub fn plug(&self, plug: NicPlug) {
        let effect = self.inner.consult("guest.plug", plug.nic.as_ref());
        let device = PluggedDevice {
            mac: plug.mac,
            mtu: plug.mtu,
            carrier: plug.carrier,
        };
        let path = plug.path.clone();
        self.inner.remember(plug);
        let handling = handling(effect.as_ref());
        self.inner
            .with(|kernel| kernel.plug(path.clone(), device, handling));
        self.suffer(&path, effect);
    }

    /// Asks for a device. An answer is a signal, or never comes.
    pub fn request_unplug(&self, path: &PciPath) {
        let nic = self.inner.nic_at(path);
        let effect = self.inner.consult("guest.unplug", nic.as_ref());
        let handling = handling(effect.as_ref());
        self.inner
            .with(|kernel| kernel.request_unplug(path, handling));
        self.suffer(path, effect);
    }

    /// A device is gone, whatever the guest thinks of it.
    pub fn remove(&self, path: &PciPath) {
        self.inner.with(|kernel| kernel.remove(path));
        self.inner.forget(path);
    }

    /// The host end of a device comes or goes.
    pub fn set_carrier(&self, path: &PciPath, carrier: Carrier) {
        self.inner.with(|kernel| kernel.set_carrier(path, carrier));
    }

    /// Opens the host's end of the agent's port. An earlier one ends.
    #[must_use]
    pub fn connect(&self) -> PortEnd {
        self.inner.port.connect()
    }

    /// Everything in it, as it is now.
    #[must_use]
    pub fn view(&self) -> GuestView {
        self.inner.with(|kernel| kernel.view())
    }

    /// Somebody has looked at the guest: what waits for looks comes nearer.
    pub fn look(&self) {
        let waits = |state: &mut inner::State| state.kernel().waits_for_looks();
        if self.inner.take(waits) {
            self.inner.with(Kernel::look);
        }
    }

    /// Does what has waited longest to be told.
    pub fn step(&self) {
        self.inner.with(Kernel::step);
    }

    /// Sets the pace of a transition from now on. A native slot and a guest that refuses or ignores
    /// requests have no pace at which they let go.
    pub fn set_pace(&self, transition: Transition, pace: Pace) {
        self.inner
            .with(|kernel| kernel.settings_mut().set_pace(transition, pace));
    }

    /// Changes the clock of the kernel: what goes by time in it goes by this clock. The agent is a
    /// program of its own, with a clock of its own.
    pub fn set_clock(&self, order: ClockOrder) {
        self.inner.set_clock(order);
    }

    /// Does anything else to the kernel: what the parts above do not offer.
    pub fn with_kernel<T>(&self, work: impl FnOnce(&mut Kernel) -> T) -> T {
        self.inner.with(work)
    }

    /// What an effect does beside the operation itself.
    fn suffer(&self, path: &PciPath, effect: Option<Effect>) {
        match effect {
            Some(Effect::Eject(later)) => {
                self.inner.with(|kernel| kernel.eject_later(path, later.0));
            }
            Some(Effect::Reset) => self.inner.reset_itself(),
            Some(Effect::Crash(_)) => self.inner.panic(),
            _ => {}
        }
    }
}

impl Drop for FakeGuest {
    /// The agent holds the kernel that holds the agent.
    fn drop(&mut self) {
        self.inner.with(Kernel::power_off);
    }
}

fn handling(effect: Option<&Effect>) -> Handling {
    match effect {
        Some(Effect::Delay(span)) => Handling::Late(span.0),
        Some(Effect::Lose | Effect::Ignore | Effect::Crash(_)) => Handling::Never,
        Some(Effect::Refuse) => Handling::Refused,
        _ => Handling::Usual,
    }
}
