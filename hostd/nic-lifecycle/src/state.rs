//! The states of a NIC and the only ways between them: an ENI's own states, as the cloud's API
//! shows them.
//!
//! ```text
//!              AttachAdmitted            Bound
//!   Available ───────────────► Attaching ─────► InUse
//!      │  ▲                     │     ▲           │ DetachAdmitted, MoveAdmitted, Lost
//!      │  │  Detached           │     │ Relocated │
//!      │  └───────────────── Detaching ◄──────────┘
//!      │                        ▲ AttachFailed, DetachAdmitted
//!      ▼ DeleteAdmitted         │
//!   Deleting ──► (no record)    └── from Attaching
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a NIC stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NicState {
    /// Has a record, an address and a MAC, and is nowhere.
    Available,
    /// On its way into its target, or waiting for something that blocks it.
    Attaching,
    /// In its target, read back.
    InUse,
    /// On its way out: asked for, or because attaching failed, or because the device is lost.
    Detaching,
    /// Its record is being removed.
    Deleting,
}

/// What can happen to a NIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NicEvent {
    /// A request to attach was admitted.
    AttachAdmitted,
    /// The agent has read the link back in its target.
    Bound,
    /// Attaching cannot succeed; what was done is to be undone.
    AttachFailed,
    /// A request to detach was admitted.
    DetachAdmitted,
    /// A request to move was admitted.
    MoveAdmitted,
    /// The device is gone although nobody asked us.
    Lost,
    /// Nothing is left in the VM, and on the host nothing that passes frames.
    Detached,
    /// Nothing is left at the old place, and a new one is waiting.
    Relocated,
    /// A request to delete was admitted.
    DeleteAdmitted,
}

/// An event that means nothing in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{event:?} does not happen to a NIC that is {current}")]
pub struct InvalidTransition {
    /// The state it met.
    pub current: NicState,
    /// The event.
    pub event: NicEvent,
}

impl NicState {
    /// Every state, for tables and metrics.
    pub const ALL: [Self; 5] = [
        Self::Available,
        Self::Attaching,
        Self::InUse,
        Self::Detaching,
        Self::Deleting,
    ];

    /// Its word in the API and in the journal.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::Attaching => "attaching",
            Self::InUse => "in_use",
            Self::Detaching => "detaching",
            Self::Deleting => "deleting",
        }
    }

    /// The state after `event`.
    ///
    /// # Errors
    /// When the event means nothing here.
    pub fn on(self, event: NicEvent) -> Result<Self, InvalidTransition> {
        use NicEvent as E;
        match (self, event) {
            (Self::Available, E::AttachAdmitted) => Ok(Self::Attaching),
            (Self::Available, E::DeleteAdmitted) => Ok(Self::Deleting),
            (Self::Attaching, E::Bound) => Ok(Self::InUse),
            (Self::Attaching, E::AttachFailed | E::DetachAdmitted) => Ok(Self::Detaching),
            (Self::InUse, E::DetachAdmitted | E::MoveAdmitted | E::Lost) => Ok(Self::Detaching),
            (Self::Detaching, E::Detached) => Ok(Self::Available),
            (Self::Detaching, E::Relocated) => Ok(Self::Attaching),
            (current, event) => Err(InvalidTransition { current, event }),
        }
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn is_settled(self) -> bool {
        matches!(self, Self::Available | Self::InUse)
    }
}

impl fmt::Display for NicState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [NicEvent; 9] = [
        NicEvent::AttachAdmitted,
        NicEvent::Bound,
        NicEvent::AttachFailed,
        NicEvent::DetachAdmitted,
        NicEvent::MoveAdmitted,
        NicEvent::Lost,
        NicEvent::Detached,
        NicEvent::Relocated,
        NicEvent::DeleteAdmitted,
    ];

    #[test]
    fn the_whole_matrix_is_as_drawn() {
        let mut matrix = String::new();
        for state in NicState::ALL {
            for event in EVENTS {
                if let Ok(next) = state.on(event) {
                    matrix.push_str(&format!("{state:?} + {event:?} => {next:?}\n"));
                }
            }
        }

        assert_eq!(
            matrix,
            "Available + AttachAdmitted => Attaching\n\
             Available + DeleteAdmitted => Deleting\n\
             Attaching + Bound => InUse\n\
             Attaching + AttachFailed => Detaching\n\
             Attaching + DetachAdmitted => Detaching\n\
             InUse + DetachAdmitted => Detaching\n\
             InUse + MoveAdmitted => Detaching\n\
             InUse + Lost => Detaching\n\
             Detaching + Detached => Available\n\
             Detaching + Relocated => Attaching\n"
        );
    }
}
