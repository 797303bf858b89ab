//! What can be done to an operation instead of simply doing it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::span::Span;

/// What happens to an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Effect {
    /// It is done, or told, so much later.
    Delay(Span),
    /// It is not done, and is answered with this error: for QMP its class and text, elsewhere the
    /// text alone.
    Error {
        /// As QEMU names it; `GenericError` unless said otherwise.
        #[serde(default = "generic_error")]
        class: String,
        /// For people.
        text: String,
    },
    /// It is done and nobody is told: no answer, no event, no message.
    Lose,
    /// It is told twice.
    Duplicate,
    /// It is told after what comes next.
    Reorder,
    /// Some of its bytes are others.
    Corrupt,
    /// The connection it came over ends.
    Cut(Side),
    /// Nothing more happens on its connection, and nothing ends it.
    Stall,
    /// Who is asked says no.
    Refuse,
    /// Who is asked does not react.
    Ignore,
    /// The device is taken out by the guest so much later, unasked.
    Eject(Span),
    /// Who does it dies: a process as by `kill -9`, a guest's kernel by a panic, after which
    /// nothing runs in the guest until somebody resets or ends the VM.
    Crash(Side),
    /// The guest is reset: by a command to QEMU when that is done, and by itself when it is about a
    /// device. One that resets itself while it boots is on for [`BOOT_LOOP`] before it does.
    Reset,
    /// The disk is full.
    DiskFull,
    /// The disk says that it could not be synced: what it holds is not known any more.
    FsyncError,
}

/// How long a guest is on that resets itself while it boots: about what a kernel takes to find out
/// that it cannot go on (`panic=1`). Without it such a guest would boot for ever in no time.
pub const BOOT_LOOP: Duration = Duration::from_secs(1);

/// On which side of an operation something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// It has not been done.
    Before,
    /// It has been done, and nobody has been told.
    After,
}

/// An effect without its details, but for the side, which decides what happens at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EffectKind {
    /// [`Effect::Delay`].
    Delay,
    /// [`Effect::Error`].
    Error,
    /// [`Effect::Lose`].
    Lose,
    /// [`Effect::Duplicate`].
    Duplicate,
    /// [`Effect::Reorder`].
    Reorder,
    /// [`Effect::Corrupt`].
    Corrupt,
    /// [`Effect::Cut`].
    Cut(Side),
    /// [`Effect::Stall`].
    Stall,
    /// [`Effect::Refuse`].
    Refuse,
    /// [`Effect::Ignore`].
    Ignore,
    /// [`Effect::Eject`].
    Eject,
    /// [`Effect::Crash`].
    Crash(Side),
    /// [`Effect::Reset`].
    Reset,
    /// [`Effect::DiskFull`].
    DiskFull,
    /// [`Effect::FsyncError`].
    FsyncError,
}

impl Effect {
    /// Which it is.
    #[must_use]
    pub const fn kind(&self) -> EffectKind {
        match self {
            Self::Delay(_) => EffectKind::Delay,
            Self::Error { .. } => EffectKind::Error,
            Self::Lose => EffectKind::Lose,
            Self::Duplicate => EffectKind::Duplicate,
            Self::Reorder => EffectKind::Reorder,
            Self::Corrupt => EffectKind::Corrupt,
            Self::Cut(side) => EffectKind::Cut(*side),
            Self::Stall => EffectKind::Stall,
            Self::Refuse => EffectKind::Refuse,
            Self::Ignore => EffectKind::Ignore,
            Self::Eject(_) => EffectKind::Eject,
            Self::Crash(side) => EffectKind::Crash(*side),
            Self::Reset => EffectKind::Reset,
            Self::DiskFull => EffectKind::DiskFull,
            Self::FsyncError => EffectKind::FsyncError,
        }
    }
}

impl EffectKind {
    /// As the command line spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Delay => "delay",
            Self::Error => "error",
            Self::Lose => "lose",
            Self::Duplicate => "duplicate",
            Self::Reorder => "reorder",
            Self::Corrupt => "corrupt",
            Self::Cut(Side::Before) => "cut=before",
            Self::Cut(Side::After) => "cut=after",
            Self::Stall => "stall",
            Self::Refuse => "refuse",
            Self::Ignore => "ignore",
            Self::Eject => "eject",
            Self::Crash(Side::Before) => "crash=before",
            Self::Crash(Side::After) => "crash=after",
            Self::Reset => "reset",
            Self::DiskFull => "disk-full",
            Self::FsyncError => "fsync-error",
        }
    }
}

fn generic_error() -> String {
    "GenericError".to_owned()
}
