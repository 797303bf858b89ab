//! Giving a NIC back: its device is about to be unplugged.
//!
//! Moving a link to another namespace waits for RCU callbacks (`rcu_barrier` in
//! `__dev_change_net_namespace`, Linux 6.1): two to three ticks, more than all the rest of a
//! release, and for nothing when the device goes a moment later. So a link in a container is
//! disarmed where it is, and moved only when it stays.
//!
//! ```text
//!   in a container ──Disarm──► Disarmed (reported as released) ──unplugged──► absent
//!                                 │ STAY is over, the container died or has
//!                                 │ switched the link on again
//!                                 ▼
//!                             Overstayed ──Release──► in the holding namespace
//! ```

use std::time::Duration;

use agent_protocol::Phase;

use super::{NicBinding, Progress};
use crate::action::Action;
use crate::sight::{Admin, LinkPlace, LinkSeen, Sight, TargetSight};

/// How long a disarmed link may stay in its container. The host unplugs as soon as it reads the
/// report, and a guest lets go within tenths of a second when it is asked by ACPI; longer would
/// only give the container time to switch the link on again. Asked natively it takes six seconds:
/// there the link is moved while everybody waits anyway.
pub const STAY: Duration = Duration::from_secs(1);

impl NicBinding {
    /// Whether the link is disarmed in its container, so that [`Self::disarmed_for`] has to be told
    /// of the time.
    #[must_use]
    pub fn is_disarmed(&self) -> bool {
        self.progress == Progress::Disarmed
    }

    /// Takes how long ago the link was disarmed.
    pub fn disarmed_for(&mut self, waited: Duration) {
        if self.is_disarmed() && waited >= STAY {
            self.progress = Progress::Overstayed;
        }
    }

    /// How far a release has come when this is seen.
    pub(super) fn released_after(&self, sight: &Sight) -> Progress {
        match (&self.progress, &sight.place) {
            (Progress::Disarmed, LinkPlace::Target(link) | LinkPlace::Elsewhere(link)) => {
                let dead = sight.target == TargetSight::Gone;
                if dead || !is_bare(link) {
                    Progress::Overstayed
                } else {
                    Progress::Disarmed
                }
            }
            (Progress::Overstayed, LinkPlace::Target(_) | LinkPlace::Elsewhere(_))
            | (Progress::Disarmed | Progress::Overstayed, LinkPlace::Hidden) => {
                self.progress.clone()
            }
            _ => Progress::Working,
        }
    }

    pub(super) fn next_released(&self, place: &LinkPlace) -> Action {
        match place {
            LinkPlace::Guest(link) if self.is_another(link) => self.rest(),
            LinkPlace::Target(_) | LinkPlace::Elsewhere(_) => match self.progress {
                Progress::Disarmed => self.rest(),
                Progress::Overstayed => self.held_by(Action::Release),
                Progress::Clearing
                | Progress::Working
                | Progress::Bound { .. }
                | Progress::Returned
                | Progress::Failed(_) => Action::Disarm,
            },
            LinkPlace::Guest(_) => self.held_by(Action::Release),
            LinkPlace::Holding(link) if link.admin == Admin::Up => self.held_by(Action::Release),
            LinkPlace::Holding(_) | LinkPlace::Nowhere => self.rest(),
            LinkPlace::Hidden => Action::Wait,
        }
    }

    pub(super) fn phase_of_release(&self, place: Option<&LinkPlace>) -> Phase {
        if let Some(error) = self.holding_refused.clone() {
            return Phase::Failed { error };
        }
        match place {
            Some(LinkPlace::Holding(_)) => Phase::Released,
            Some(LinkPlace::Target(_) | LinkPlace::Elsewhere(_)) if self.is_disarmed() => {
                Phase::Released
            }
            Some(LinkPlace::Guest(link)) if self.is_another(link) => Phase::Absent,
            Some(LinkPlace::Nowhere) => Phase::Absent,
            Some(_) | None => Phase::Awaited,
        }
    }
}

/// Whether nothing can be reached through a link or by it.
fn is_bare(link: &LinkSeen) -> bool {
    link.admin == Admin::Down && link.addresses.is_empty()
}

#[cfg(test)]
#[path = "release_tests.rs"]
mod tests;
