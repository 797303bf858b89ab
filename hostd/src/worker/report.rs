//! What the reports of a guest put on the board: its steps and their times, and how it fares.
//!
//! ```text
//!   report ──► steps, each once ──► board
//!         └──► how the NIC fares ──► board, unless the guest has just changed its mind:
//!                                    then when the pause is over, if that is still news
//! ```

use std::sync::Arc;
use std::time::Duration;

use agent_protocol::Phase;
use nic_lifecycle::{NicRecord, NicState, Step};
use tokio::time::Instant;

use super::progress::Progress;
use super::{VmWorker, flow_of};
use crate::agent_link::{Outlook, SeenReport};
use crate::board::{News, TimedStep};
use crate::failpoint::{self, Side};

/// A guest that changes its mind faster than this fills nobody's history of events.
const GUEST_NEWS_PAUSE: Duration = Duration::from_secs(1);

impl VmWorker {
    /// Puts on the board what the newest report of a NIC tells that is not there yet.
    pub(super) fn note_report(&mut self, record: &NicRecord, outlook: &Outlook) {
        let current = |seen: &&Arc<SeenReport>| seen.report.generation == record.generation;
        let Some(seen) = outlook.report.as_ref().filter(current) else {
            return;
        };
        let Some(progress) = self.nics.get_mut(&record.id) else {
            return;
        };
        if let Phase::Bound { target, .. } = seen.report.phase {
            progress.bound_in = Some(target);
        }
        let done = |step, duration| {
            let board = &self.tools.board;
            board.step_done(&record.id, Some(&self.vm), step, duration);
        };
        let host_step_done = |(step, duration): (Step, Duration)| {
            failpoint::hit(flow_of(record.state), step.name(), Side::After);
            done(TimedStep::Host(step), duration);
        };
        progress.arrival(seen).into_iter().for_each(&host_step_done);
        for timing in seen.report.steps.iter().skip(progress.noted_guest_steps) {
            let duration = Duration::from_micros(timing.duration_us);
            done(TimedStep::Guest(timing.step), duration);
        }
        progress.noted_guest_steps = progress.noted_guest_steps.max(seen.report.steps.len());
        progress.ending(seen).into_iter().for_each(host_step_done);
        if matches!(record.state, NicState::InUse | NicState::Attaching) {
            let (board, phase) = (&self.tools.board, &seen.report.phase);
            let tell = || board.guest_reported(record, &self.vm, phase);
            progress.news.take_in(seen, tell);
        }
    }
}

/// What a report is the first to tell, with the time that it took by hostd's own clock.
impl Progress {
    fn arrival(&mut self, seen: &SeenReport) -> Option<(Step, Duration)> {
        let (plugged, arrived) = self.plugged_at.zip(seen.link_seen_at)?;
        if std::mem::replace(&mut self.noted_arrival, true) {
            return None;
        }
        Some((Step::Arrive, arrived.saturating_duration_since(plugged)))
    }

    fn ending(&mut self, seen: &SeenReport) -> Option<(Step, Duration)> {
        let (step, from) = match &seen.report.phase {
            Phase::Bound { .. } => (Step::Bind, seen.link_seen_at?),
            Phase::Released | Phase::Absent => (Step::Release, self.released_from?),
            Phase::Awaited | Phase::Binding | Phase::Returned | Phase::Failed { .. } => {
                return None;
            }
        };
        if std::mem::replace(&mut self.noted_end, true) {
            return None;
        }
        Some((step, seen.received_at.saturating_duration_since(from)))
    }
}

/// How a NIC fares in its guest, as far as people have been told.
#[derive(Debug, Default)]
pub(super) struct GuestNews {
    /// The report that people know of.
    told: Option<Arc<SeenReport>>,
    /// When they may be told of another.
    quiet_until: Option<Instant>,
    withheld: Withheld,
}

/// Whether people have to be told more once they have been left alone for a while.
#[derive(Debug, Default, PartialEq, Eq)]
enum Withheld {
    #[default]
    Nothing,
    Something,
}

impl GuestNews {
    /// Tells of a report unless it is known, or it is too soon after the last news.
    fn take_in(&mut self, seen: &Arc<SeenReport>, tell: impl FnOnce() -> News) {
        if self
            .told
            .as_ref()
            .is_some_and(|told| Arc::ptr_eq(told, seen))
        {
            self.withheld = Withheld::Nothing;
            return;
        }
        let now = Instant::now();
        if self.quiet_until.is_some_and(|until| now < until) {
            self.withheld = Withheld::Something;
            return;
        }
        self.quiet_until = (tell() == News::Yes).then(|| now + GUEST_NEWS_PAUSE);
        self.withheld = Withheld::Nothing;
        self.told = Some(seen.clone());
    }

    /// When there is something to tell that was withheld.
    pub(super) fn due(&self) -> Option<Instant> {
        let waits = self.withheld == Withheld::Something;
        self.quiet_until.filter(|_| waits)
    }
}
