//! A guest kernel as far as a NIC can tell: PCI slots, links, namespaces, processes.
//!
//! It has no clock, no chance and no I/O: the time comes in, what it does of itself comes out as
//! [`Output`]s, and the same calls give the same results. Refusals bear the errno Linux gives; what
//! was doubtful is held against a running kernel by `tests/conformance.rs`.
//!
//! ```text
//!   power_on ──► Firmware ──► NoHotplug ──► NoAgent ──► Up ──reset──► Firmware …
//!
//!   plug ──(seen)──probe──► link ethN ──udev──► enpXsY ──set_link──► in a namespace
//!   request_unplug ──► link gone ──► Output::Ejected
//!   a namespace nobody holds ──teardown──► its links are back in the guest's own
//! ```

mod address;
mod device;
mod event;
mod link;
mod namespace;
mod process;
mod route;
mod settings;
mod timer;
mod view;

use std::collections::BTreeMap;
use std::time::Duration;

use guest_agent::kernel::Errno;
use misbehaviour::Chance;
use nic_model::{BootId, NetnsInode, NetnsName, PciPath};

pub use device::{Handling, PluggedDevice};
pub use event::SubscriptionId;
pub use namespace::Held;
pub use process::ProcessKey;
pub use settings::{BootTimes, KernelSettings, RenameWhileUp, Unplug};
pub use view::{DeviceView, GuestView, LinkState, NamespaceView, ProcessView};

use device::Device;
use event::Subscription;
use link::{Link, LinkId};
use namespace::Namespace;
use process::Process;
use timer::{Timer, Waiting};

/// What came of a request.
pub type Answer<T> = Result<T, Errno>;

/// How far a guest has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It has no power.
    Off,
    /// No kernel runs yet.
    Firmware,
    /// A kernel runs that does not look for devices yet.
    NoHotplug,
    /// Links appear, and no agent runs yet.
    NoAgent,
    /// An agent runs, unless somebody has ended it.
    Up,
}

/// What a kernel did of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// It has let go of the device there.
    Ejected(PciPath),
    /// It will not let go of the device there.
    Refused(PciPath),
    /// Its native driver is at work on the slot there: the power indicator blinks.
    SlotBusy(PciPath),
    /// Its native driver is done with the slot there, which has power.
    SlotOn(PciPath),
    /// It has come so far.
    Phase(Phase),
    /// There is something to read for this listener.
    LinkEvents(SubscriptionId),
    /// This process has ended.
    ProcessEnded(ProcessKey),
    /// A name of a namespace has gone.
    NameGone,
    /// It asks for a reset of its machine.
    Reset,
}

/// The kernel of one guest.
#[derive(Debug)]
pub struct Kernel {
    settings: KernelSettings,
    chance: Chance,
    now: Duration,
    phase: Phase,
    lives: u64,
    boot_id: BootId,
    booted_at: Duration,
    own: NetnsInode,
    namespaces: BTreeMap<NetnsInode, Namespace>,
    names: BTreeMap<NetnsName, NetnsInode>,
    links: BTreeMap<LinkId, Link>,
    processes: BTreeMap<u32, Process>,
    last_pid: u32,
    devices: BTreeMap<PciPath, Device>,
    subscriptions: BTreeMap<SubscriptionId, Subscription>,
    events_to_lose: u32,
    timers: BTreeMap<(Duration, u64), Timer>,
    waiting: Vec<Waiting>,
    /// Numbers whatever has to be told apart for good: links, timers, subscriptions, processes.
    last_number: u64,
    outputs: Vec<Output>,
}

impl Kernel {
    /// A guest that is off.
    #[must_use]
    pub fn new(settings: KernelSettings) -> Self {
        let mut chance = Chance::new(settings.seed).fork("boot");
        Self {
            boot_id: boot_id(&mut chance),
            chance,
            settings,
            now: Duration::ZERO,
            phase: Phase::Off,
            lives: 0,
            booted_at: Duration::ZERO,
            own: NetnsInode(0),
            namespaces: BTreeMap::new(),
            names: BTreeMap::new(),
            links: BTreeMap::new(),
            processes: BTreeMap::new(),
            last_pid: 0,
            devices: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            events_to_lose: 0,
            timers: BTreeMap::new(),
            waiting: Vec::new(),
            last_number: 0,
            outputs: Vec::new(),
        }
    }

    /// Switches it on. Devices that are plugged are found when the kernel looks for them.
    pub fn power_on(&mut self) {
        if self.phase == Phase::Off {
            self.boot();
        }
    }

    /// Everything a running kernel has is gone; devices stay in their slots.
    pub fn power_off(&mut self) {
        self.forget_everything();
        self.enter(Phase::Off);
    }

    /// A reset: everything is gone, and it boots anew. The same from outside and from inside.
    pub fn reset(&mut self) {
        if self.phase != Phase::Off {
            self.forget_everything();
            self.boot();
        }
    }

    /// Its kernel panics or hangs: nothing happens any more, until a reset.
    pub fn hang(&mut self) {
        if self.phase != Phase::Off {
            self.forget_everything();
            self.enter(Phase::Firmware);
        }
    }

    /// It gets nowhere, and resets itself so much later.
    pub fn hang_and_reset(&mut self, later: Duration) {
        if self.phase != Phase::Off {
            self.hang();
            self.after(later, Timer::ResetsItself(self.lives));
        }
    }

    /// How far it has come.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Made anew at each boot.
    #[must_use]
    pub fn boot_id(&self) -> BootId {
        self.boot_id
    }

    /// Counts its lives: handles of an earlier one hold nothing.
    #[must_use]
    pub fn life(&self) -> u64 {
        self.lives
    }

    /// How it behaves. Takes effect on what begins from now on.
    pub fn settings_mut(&mut self) -> &mut KernelSettings {
        &mut self.settings
    }

    /// What it has done of itself since it was asked last.
    pub fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    fn boot(&mut self) {
        self.boot_id = boot_id(&mut self.chance);
        self.booted_at = self.now;
        self.own = self.new_namespace();
        self.start_init();
        self.enter(Phase::Firmware);
        match self.settings.boot_pace {
            None => self.after(self.settings.boot.firmware, Timer::KernelRuns(self.lives)),
            Some(pace) => self.at_pace(pace, Timer::Booted(self.lives)),
        }
    }

    fn forget_everything(&mut self) {
        self.lives += 1;
        self.links.clear();
        self.namespaces.clear();
        self.names.clear();
        self.processes.clear();
        self.subscriptions.clear();
        self.timers.clear();
        self.waiting.clear();
        self.last_pid = 0;
        self.forget_probes();
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.outputs.push(Output::Phase(phase));
    }

    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }
}

/// A random UUID (RFC 9562 §5.4), as `/proc/sys/kernel/random/boot_id` is one.
fn boot_id(chance: &mut Chance) -> BootId {
    let (high, low) = (chance.next_u64(), chance.next_u64());
    let text = format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xfff,
        0x8000 | (low >> 48) & 0x3fff,
        low & 0xffff_ffff_ffff,
    );
    text.parse().expect("it has the form of a UUID")
}
