//! How a simulated kernel behaves: how fast it is, and what it does when it is asked for a device.

use std::time::Duration;

use misbehaviour::{Pace, Span, Transition};

/// What does not change while a guest lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelSettings {
    /// What its boot ids are drawn from.
    pub seed: u64,
    /// How long it takes to boot.
    pub boot: BootTimes,
    /// How fast all of a boot goes instead of that, where somebody has said it.
    pub boot_pace: Option<Pace>,
    /// From the plug to the link. Measured: 0.1 s under emulation.
    pub probe: Pace,
    /// What it does when it is asked to let go of a device.
    pub unplug: Unplug,
    /// How long after a link has appeared udev gives it its predictable name; `None` where nobody
    /// does.
    pub rename_after: Option<Duration>,
    /// How long a namespace that nobody holds is torn down (`cleanup_net` in
    /// net/core/net_namespace.c) before its links are given back.
    pub teardown: Duration,
    /// Whether a link that is up can be renamed.
    pub rename_while_up: RenameWhileUp,
    /// Link events that wait for one listener before more are lost: a receive buffer of 1 MiB, at
    /// about 1 KiB each.
    pub events_kept: usize,
}

/// How long the parts of a boot take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootTimes {
    /// From power-on until the kernel runs.
    pub firmware: Duration,
    /// From then until it looks for devices that come and go. Requests to let go of one that come
    /// earlier are lost: Linux clears the status bits of ACPI's GPE0 when it starts.
    pub hotplug: Duration,
    /// From then until the agent runs.
    pub agent: Duration,
}

impl BootTimes {
    /// At once.
    pub const NONE: Self = Self {
        firmware: Duration::ZERO,
        hotplug: Duration::ZERO,
        agent: Duration::ZERO,
    };
}

/// What a kernel does when it is asked to let go of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unplug {
    /// It does, asked by ACPI.
    LetsGo(Pace),
    /// It does, asked by the attention button of a native slot: the button can be pressed again for
    /// five seconds to cancel, and power takes a second to drain
    /// (drivers/pci/hotplug/pciehp_ctrl.c).
    Native,
    /// It says no (ACPI's `_OST`).
    Refuses,
    /// It does not react, or has no driver for the slot.
    Ignores,
}

/// What `dev_change_name` does with a link that is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameWhileUp {
    /// It renames it, since Linux 6.2 (commit bd039b5ea2a9).
    Allowed,
    /// It refuses with `EBUSY`.
    Refused,
}

impl KernelSettings {
    /// Sets the pace of a transition. A native slot and a guest that refuses or ignores requests
    /// have no pace at which they let go.
    pub fn set_pace(&mut self, transition: Transition, pace: Pace) {
        match (transition, &mut self.unplug) {
            (Transition::Boot, _) => self.boot_pace = Some(pace),
            (Transition::Plug, _) => self.probe = pace,
            (Transition::Unplug, Unplug::LetsGo(usual)) => *usual = pace,
            (Transition::Unplug, Unplug::Native | Unplug::Refuses | Unplug::Ignores) => {}
        }
    }
}

impl Default for KernelSettings {
    /// As Debian 12: Linux 6.1 with systemd-udevd, asked by ACPI, and booted at once.
    fn default() -> Self {
        let pace = |milliseconds| Pace::After(Span(Duration::from_millis(milliseconds)));
        Self {
            seed: 0,
            boot: BootTimes::NONE,
            boot_pace: None,
            probe: pace(100),
            unplug: Unplug::LetsGo(pace(50)),
            rename_after: Some(Duration::from_millis(20)),
            teardown: Duration::from_millis(10),
            rename_while_up: RenameWhileUp::Refused,
            events_kept: 1000,
        }
    }
}
