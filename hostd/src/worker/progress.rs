//! What a worker remembers of one NIC between two rounds because it cannot be seen.

use std::time::Duration;

use nic_lifecycle::{NicRecord, PortSeen, UnplugSeen};
use nic_model::{HotplugMode, TargetIdentity};
use port::Port;
use tokio::time::Instant;

use super::report::GuestNews;

/// After the first request, how soon a guest is asked again to let go. ACPI: QEMU takes a repeat
/// after a millisecond and Linux needs under 200 ms, so a second is patient. Native: a second
/// press of the attention button within five seconds would cancel the first (Linux
/// `pciehp_ctrl.c`), so never before six.
const fn first_resend(mode: HotplugMode) -> Duration {
    match mode {
        HotplugMode::Acpi => Duration::from_secs(1),
        HotplugMode::Native => Duration::from_secs(6),
    }
}

/// Longest pause between two requests to let go.
const RESEND_MAX: Duration = Duration::from_secs(30);
/// Pause after a failed action, first and at most.
const HOLD_BACK: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// What cannot be seen of one NIC.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) generation: u64,
    pub(super) port: PortSeen,
    /// A tap that has not been handed to the hypervisor yet. On the heap, as few NICs have one.
    pub(super) unplugged_port: Option<Box<Port>>,
    /// The generation that the agent's link was told of.
    pub(super) told: Option<u64>,
    pub(super) patience_until: Instant,
    /// On the heap, as few NICs are on their way out.
    asked: Option<Box<Asked>>,
    held_until: Option<Instant>,
    failures: u32,
    /// What went wrong last, for people.
    pub(super) trouble: Option<String>,
    /// When the device was asked for.
    pub(super) plugged_at: Option<Instant>,
    /// When the link was told to be released.
    pub(super) released_from: Option<Instant>,
    /// What the target was when the agent reported the NIC as bound in it.
    pub(super) bound_in: Option<TargetIdentity>,
    /// Guest steps already put on the board.
    pub(super) noted_guest_steps: usize,
    pub(super) noted_arrival: bool,
    pub(super) noted_end: bool,
    pub(super) news: GuestNews,
}

/// When the guest is asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NextRequest {
    Due,
    AsBefore,
}

#[derive(Debug)]
struct Asked {
    first_at: Instant,
    again_at: Instant,
    pause: Duration,
    times: u32,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            generation: 0,
            port: PortSeen::Absent,
            unplugged_port: None,
            told: None,
            patience_until: Instant::now(),
            asked: None,
            held_until: None,
            failures: 0,
            trouble: None,
            plugged_at: None,
            released_from: None,
            bound_in: None,
            noted_guest_steps: 0,
            noted_arrival: false,
            noted_end: false,
            news: GuestNews::default(),
        }
    }
}

impl Progress {
    /// A new generation: everything but the port and its descriptors is forgotten.
    pub(super) fn begin(&mut self, record: &NicRecord, port: PortSeen, patience: Duration) {
        *self = Self {
            generation: record.generation,
            port,
            unplugged_port: self.unplugged_port.take(),
            told: self.told,
            patience_until: Instant::now() + patience,
            ..Self::default()
        };
    }

    pub(super) fn unplug_seen(&self, now: Instant) -> UnplugSeen {
        match &self.asked {
            None => UnplugSeen::NotAsked,
            Some(asked) if now >= asked.again_at => UnplugSeen::AskAgain,
            Some(_) => UnplugSeen::Asked,
        }
    }

    /// The guest has been asked to let go, now.
    pub(super) fn note_asked(&mut self, mode: HotplugMode) {
        let now = Instant::now();
        let before = self.asked.as_deref();
        let pause = before.map_or(first_resend(mode), |asked| {
            (asked.pause * 2).min(RESEND_MAX)
        });
        self.asked = Some(Box::new(Asked {
            first_at: before.map_or(now, |asked| asked.first_at),
            again_at: now + pause,
            pause,
            times: before.map_or(1, |asked| asked.times.saturating_add(1)),
        }));
    }

    /// The device is said to be gone: the next request is due now, if there was one. In the native
    /// way an event of an earlier device of that name would make it take the first one back.
    pub(super) fn make_request_due(&mut self, mode: Option<HotplugMode>) -> NextRequest {
        match (&mut self.asked, mode) {
            (Some(asked), Some(HotplugMode::Acpi)) => {
                asked.again_at = Instant::now();
                NextRequest::Due
            }
            (Some(_) | None, _) => NextRequest::AsBefore,
        }
    }

    /// The guest has let go: since when it had been asked, told once.
    pub(super) fn take_asked(&mut self) -> Option<Instant> {
        self.asked.take().map(|asked| asked.first_at)
    }

    /// Whether the guest has only just been asked: nothing stands in the way yet.
    pub(super) fn asked_once(&self) -> bool {
        self.asked.as_ref().is_some_and(|asked| asked.times == 1)
    }

    /// An action failed: the next try is not before a pause that grows.
    pub(super) fn hold_back(&mut self, why: String) {
        let pause = (HOLD_BACK.0 * 2_u32.saturating_pow(self.failures)).min(HOLD_BACK.1);
        self.failures = self.failures.saturating_add(1);
        self.held_until = Some(Instant::now() + pause);
        self.trouble = Some(why);
    }

    /// An action succeeded.
    pub(super) fn let_go_on(&mut self) {
        self.failures = 0;
        self.held_until = None;
        self.trouble = None;
    }

    pub(super) fn is_held_back(&self, now: Instant) -> bool {
        self.held_until.is_some_and(|until| now < until)
    }

    fn asked_again_at(&self) -> Option<Instant> {
        self.asked.as_ref().map(|asked| asked.again_at)
    }

    /// When the next try is made.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.held_until.or(self.asked_again_at())
    }

    /// Nothing is waited for: nobody has to wake when patience would have been spent.
    pub(super) fn wait_no_more(&mut self, since: Instant) {
        self.patience_until = since;
    }

    /// When this NIC has to be looked at again, unless something happens before: the first that is
    /// due after a round that began at `after`.
    pub(super) fn next_wake(&self, after: Instant) -> Option<Instant> {
        [
            self.held_until,
            self.asked_again_at(),
            Some(self.patience_until),
            self.news.due(),
        ]
        .into_iter()
        .flatten()
        .filter(|at| *at > after)
        .min()
    }
}
