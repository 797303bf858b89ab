//! What becomes known of a pid that is a NIC's target.
//!
//! ```text
//!   (nothing) ── the first session hears of it ──► AskedIn ── reported as bound ──► BoundIn
//! ```
//!
//! A pid is used again, after a reboot of the guest at the latest. So the host remembers what the
//! pid was and says so with every further declaration, and the agent compares.

use nic_model::{BootId, Target};

use crate::message::{Goal, KnownTarget, Phase, WantedNic};

impl WantedNic {
    /// The agent hears of this wish in a session with this boot of the guest.
    pub(crate) fn note_asked_in(&mut self, boot_id: BootId) {
        if self.wants_pid() && self.known_target.is_none() {
            self.known_target = Some(KnownTarget::AskedIn { boot_id });
        }
    }

    /// The agent reports how this wish stands.
    pub(crate) fn note_reported(&mut self, phase: &Phase) {
        if let Phase::Bound { target, .. } = phase
            && self.wants_pid()
        {
            let target = *target;
            self.known_target = Some(KnownTarget::BoundIn { target });
        }
    }

    fn wants_pid(&self) -> bool {
        match &self.goal {
            Goal::Bound { binding } => matches!(binding.target, Target::Pid { .. }),
            Goal::Released => false,
        }
    }
}
