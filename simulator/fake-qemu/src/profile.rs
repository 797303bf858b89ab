//! Which QEMU this is: its version, and how long a request to unplug stays open in it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde_json::{Value, json};

/// A version of QEMU, as far as hot-plug tells versions apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Profile {
    /// 6.2 to 7.2.2: a request by ACPI stays open until the machine is reset, so one that came
    /// before the guest's system had booted is lost and blocks every later one (QEMU commit
    /// 9323f892b3).
    Qemu6_2,
    /// 7.2.3 and later of that line: a request by ACPI may be repeated (the line's backport of
    /// commit 0f689cf5ada4), except when it came before the machine had first run.
    Qemu7_2,
    /// 8.0.0: as 6.2.
    Qemu8_0,
    /// 8.1: as 7.2.
    Qemu8_1,
}

/// A text that is no profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of qemu-6.2, qemu-7.2, qemu-8.0, qemu-8.1")]
pub struct ProfileError(String);

/// How the guest is asked to let go of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HotplugMode {
    /// By ACPI, q35's way since 6.1.
    Acpi,
    /// By the slot's attention button, which PCI Express has of its own.
    Native,
}

/// When an open request to unplug may be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expiry {
    /// When the machine's clock is past this.
    At(Duration),
    /// Not before the machine is reset.
    Never,
}

impl Profile {
    const ALL: [(Self, &'static str, [u64; 3]); 4] = [
        (Self::Qemu6_2, "qemu-6.2", [6, 2, 0]),
        (Self::Qemu7_2, "qemu-7.2", [7, 2, 22]),
        (Self::Qemu8_0, "qemu-8.0", [8, 0, 0]),
        (Self::Qemu8_1, "qemu-8.1", [8, 1, 0]),
    ];

    fn row(self) -> (Self, &'static str, [u64; 3]) {
        let row = Self::ALL.into_iter().find(|(profile, ..)| *profile == self);
        row.expect("every profile has its row")
    }

    /// As `query-version` tells it.
    pub(crate) fn version(self) -> Value {
        let (_, _, [major, minor, micro]) = self.row();
        json!({
            "qemu": {"major": major, "minor": minor, "micro": micro},
            "package": " (fake-qemu)",
        })
    }

    /// As `info version` prints it.
    pub(crate) fn version_text(self) -> String {
        let (_, _, [major, minor, micro]) = self.row();
        format!("{major}.{minor}.{micro} (fake-qemu)")
    }

    /// When a request made at `now` on the machine's clock may be repeated.
    ///
    /// QEMU writes the moment in milliseconds and takes zero for never
    /// (`pending_deleted_expires_ms` in its `softmmu/qdev-monitor.c`): so a request by ACPI to a
    /// machine whose clock has not yet moved is open for good.
    pub(crate) fn expiry(self, hotplug: HotplugMode, now: Duration) -> Expiry {
        match (hotplug, self) {
            (HotplugMode::Native, _) => Expiry::At(whole_milliseconds(now) + NATIVE_EXPIRY),
            (HotplugMode::Acpi, Self::Qemu6_2 | Self::Qemu8_0) => Expiry::Never,
            (HotplugMode::Acpi, Self::Qemu7_2 | Self::Qemu8_1) => match whole_milliseconds(now) {
                Duration::ZERO => Expiry::Never,
                now => Expiry::At(now),
            },
        }
    }
}

/// `pcie_cap_slot_unplug_request_cb` in QEMU's `hw/pci/pcie.c`, since 6.2.
const NATIVE_EXPIRY: Duration = Duration::from_secs(5);

pub(crate) fn whole_milliseconds(time: Duration) -> Duration {
    Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row().1)
    }
}

impl FromStr for Profile {
    type Err = ProfileError;

    fn from_str(text: &str) -> Result<Self, ProfileError> {
        let row = Self::ALL.into_iter().find(|(_, name, _)| *name == text);
        row.map(|(profile, ..)| profile)
            .ok_or_else(|| ProfileError(text.to_owned()))
    }
}
