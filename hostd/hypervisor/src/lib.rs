//! What hostd asks of a hypervisor, and nothing else.
//!
//! ```text
//!   vms ──► inspect ──► plug ──► (guest works) ──► inspect: device present
//!                         │
//!                         └──► set_link down ──► unplug ──► event DeviceGone ──► unplug: Gone
//! ```
//!
//! One implementation speaks QMP, one libvirt. Both are *level-triggered*: an event only says that
//! looking again is worth it, and [`Hypervisor::inspect`] alone says how things stand. Every method
//! may be repeated: `plug` finds what an earlier run left, `unplug` asks, asks again, cleans up
//! behind the guest and finally says [`Unplugging::Gone`]. Every call ends within a deadline that
//! the implementation sets, also when QEMU or libvirtd hangs, and a call for one VM never waits for
//! another VM.

mod descriptor;
mod error;

use async_trait::async_trait;
use nic_model::{MacAddr, NicId, SlotId, VmHardware, VmId};
use tokio::sync::broadcast;
use tokio::time::Instant;

pub use descriptor::Descriptor;
pub use error::{InspectError, ListError, PlugError, SetLinkError, Trouble, UnplugError};

/// A hypervisor, or a set of them, on this host.
#[async_trait]
pub trait Hypervisor: Send + Sync + 'static {
    /// Every VM it knows, running or not.
    async fn vms(&self) -> Result<Vec<VmId>, ListError>;

    /// One VM's hardware as it is now, read from the hypervisor itself. A VM that looks off, or is
    /// not known, may be one that only cannot be reached any more: whoever gives its resources to
    /// others makes sure first that no process holds its taps.
    async fn inspect(&self, vm: &VmId) -> Result<VmHardware, InspectError>;

    /// Makes the backend, then the device. Whatever of the two is there already is left as it is;
    /// when the device fails, a backend made by this call is removed again.
    async fn plug(&self, vm: &VmId, request: PlugRequest) -> Result<Plugged, PlugError>;

    /// Brings a NIC one step nearer to being gone: asks the guest to let go of the device, or,
    /// when the device is gone, removes the backend behind it. It never waits for the guest.
    async fn unplug(&self, vm: &VmId, nic: &NicId) -> Result<Unplugging, UnplugError>;

    /// Shows the guest a carrier or none, and stops or starts delivery with it.
    async fn set_link(&self, vm: &VmId, nic: &NicId, carrier: Carrier) -> Result<(), SetLinkError>;

    /// Hints that something changed, from now on. A receiver that lags must look at everything.
    fn events(&self) -> broadcast::Receiver<HypervisorEvent>;
}

/// One NIC to be plugged.
#[derive(Debug)]
pub struct PlugRequest {
    /// Which; device and backend ids derive from it.
    pub nic: NicId,
    /// Its address.
    pub mac: MacAddr,
    /// Where, as reserved by the ledger.
    pub slot: SlotId,
    /// The host end.
    pub tap: Tap,
}

/// How a NIC came to be plugged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plugged {
    /// By this call.
    Now {
        /// When the device itself was asked for: from here on it is the guest's time. The QMP back
        /// end sees its own `device_add` leave; libvirt gives no nearer moment than its call.
        device_asked_at: Instant,
    },
    /// It had been there.
    Before,
}

/// The tap a NIC is connected to.
#[derive(Debug)]
pub struct Tap {
    /// What the hypervisor opens, where it opens it by its name.
    pub name: String,
    /// How it comes to it.
    pub access: TapAccess,
    /// One open queue each, ready to be passed to QEMU; empty where the hypervisor opens the
    /// persistent tap by its name.
    pub queues: Vec<Descriptor>,
    /// How many queues the device gets, 1 or more.
    pub queue_count: u16,
}

/// How a hypervisor comes to a tap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TapAccess {
    /// It is passed open descriptors.
    Descriptors,
    /// It opens the tap by its name, which nobody else may hold then.
    Name,
}

/// How far an unplug has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unplugging {
    /// The guest has been asked and has not let go yet.
    Asked,
    /// QEMU still has an earlier request open and takes no new one.
    Pending,
    /// Neither device nor backend is left.
    Gone,
}

/// Whether the guest sees a carrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// It does.
    Up,
    /// It does not.
    Down,
}

/// Something changed: look again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HypervisorEvent {
    /// Where; `None` when it may be anywhere (a reconnect, a list that changed).
    pub vm: Option<VmId>,
    /// What it was, for the log and for waking the right waiter.
    pub kind: EventKind,
}

/// What a [`HypervisorEvent`] is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventKind {
    /// QEMU let go of a device. Asked for or not.
    DeviceGone(NicId),
    /// The guest said no: everything is as it was, and it may be asked again.
    UnplugRefused(NicId),
    /// The guest was reset, which completes every pending unplug.
    Reset,
    /// The VM started, stopped, paused, or resumed.
    Power,
    /// VMs appeared or disappeared.
    VmsChanged,
    /// The connection to the hypervisor was lost or is back: events in between are lost. A first
    /// one that nobody had been refused before need not be told.
    Connection,
}
