//! What can be done to an operation instead of simply doing it.

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
    /// The process that does it dies as by `kill -9`.
    Crash(Side),
    /// The guest is reset.
    Reset,
    /// The disk is full.
    DiskFull,
    /// The disk says that it could not be synced: what it holds is not known any more.
    FsyncError,
}

/// On which side of an operation something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// It has not been done.
    Before,
    /// It has been done, and nobody has been told.
    After,
}

/// An effect without its details.
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
    Cut,
    /// [`Effect::Stall`].
    Stall,
    /// [`Effect::Refuse`].
    Refuse,
    /// [`Effect::Ignore`].
    Ignore,
    /// [`Effect::Eject`].
    Eject,
    /// [`Effect::Crash`].
    Crash,
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
            Self::Cut(_) => EffectKind::Cut,
            Self::Stall => EffectKind::Stall,
            Self::Refuse => EffectKind::Refuse,
            Self::Ignore => EffectKind::Ignore,
            Self::Eject(_) => EffectKind::Eject,
            Self::Crash(_) => EffectKind::Crash,
            Self::Reset => EffectKind::Reset,
            Self::DiskFull => EffectKind::DiskFull,
            Self::FsyncError => EffectKind::FsyncError,
        }
    }
}

impl EffectKind {
    /// As rules spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Delay => "delay",
            Self::Error => "error",
            Self::Lose => "lose",
            Self::Duplicate => "duplicate",
            Self::Reorder => "reorder",
            Self::Corrupt => "corrupt",
            Self::Cut => "cut",
            Self::Stall => "stall",
            Self::Refuse => "refuse",
            Self::Ignore => "ignore",
            Self::Eject => "eject",
            Self::Crash => "crash",
            Self::Reset => "reset",
            Self::DiskFull => "disk-full",
            Self::FsyncError => "fsync-error",
        }
    }
}

fn generic_error() -> String {
    "GenericError".to_owned()
}
