//! A session that an agent has opened: what it is still to be told, and whether it is still there.
//!
//! ```text
//!   declared ──► Ping every 2 s, fifteen times ──► at rest: Ping as seldom as its owner wants
//!       ▲                                             │ no answer: again every 2 s, then lost
//!       └────────────── a NIC changes ◄───────────────┘
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use nic_model::{BootId, NicId};

use super::{CloseReason, Due, MISSED_PONGS, PING_INTERVAL, encode};
use crate::framing::{MAX_FRAME, SessionNonce};
use crate::message::{HostMessage, WantedNic};

/// Pings after the last declaration that follow one another without rest: a bind and its retries
/// take seconds, and whoever waits for them is to learn soon that nobody is there any more.
const ATTENTIVE_PINGS: u32 = 15;

#[derive(Debug)]
pub(super) struct Established {
    pub(super) nonce: SessionNonce,
    pub(super) boot_id: BootId,
    /// NICs of the first declaration that were not sent yet; `None` once all were.
    pub(super) undeclared: Option<VecDeque<NicId>>,
    /// NICs that changed since.
    pub(super) changed: BTreeSet<NicId>,
    pinged_at: Duration,
    ping: Due,
    pub(super) pings_sent: u64,
    pub(super) last_pong: u64,
    /// Messages about NICs that were sent, in all and before the last Ping.
    told: u64,
    told_before_ping: u64,
    pub(super) reports_heard: u64,
    /// How many Pings are still to follow one another without rest.
    attentive: u32,
}

impl Established {
    pub(super) fn new(
        nonce: SessionNonce,
        boot_id: BootId,
        wanted: &BTreeMap<NicId, WantedNic>,
        now: Duration,
    ) -> Self {
        Self {
            nonce,
            boot_id,
            undeclared: Some(wanted.keys().cloned().collect()),
            changed: BTreeSet::new(),
            pinged_at: now,
            ping: Due::Later,
            pings_sent: 0,
            last_pong: 0,
            told: 0,
            told_before_ping: 0,
            reports_heard: 0,
            attentive: ATTENTIVE_PINGS,
        }
    }

    /// A NIC was declared, or forgotten: the agent hears of it, and is asked more often for a while
    /// whether it is there.
    pub(super) fn mark_changed(&mut self, nic: NicId) {
        self.changed.insert(nic);
        self.attentive = ATTENTIVE_PINGS;
    }

    pub(super) fn next_ping(&self, rest: Duration) -> Duration {
        let answered = self.pings_sent == self.last_pong;
        let pause = match self.attentive {
            0 if answered => rest,
            _ => PING_INTERVAL,
        };
        self.pinged_at + pause
    }

    pub(super) fn ping_if_due(&mut self, now: Duration, rest: Duration) -> Option<CloseReason> {
        if now < self.next_ping(rest) {
            return None;
        }
        let missed = self.pings_sent - self.last_pong;
        if missed >= MISSED_PONGS {
            return Some(CloseReason::Lost { missed });
        }
        self.pings_sent += 1;
        self.ping = Due::Now;
        self.pinged_at = now;
        self.attentive = self.attentive.saturating_sub(1);
        None
    }

    /// Whether a side has not heard all that the other had said before the last Ping, or its
    /// answer. A pipe keeps the order, so what is missing then has been lost, and only a session
    /// that begins anew tells it again.
    pub(super) fn misses_messages(&self, heard: u64, reported: u64) -> bool {
        let is_latest = self.last_pong == self.pings_sent;
        (is_latest && heard < self.told_before_ping) || self.reports_heard < reported
    }

    pub(super) fn next_message(
        &mut self,
        wanted: &BTreeMap<NicId, WantedNic>,
    ) -> Option<HostMessage> {
        let message = self.draw_message(wanted)?;
        self.told += u64::from(message.is_counted());
        if matches!(message, HostMessage::Ping { .. }) {
            self.told_before_ping = self.told;
        }
        Some(message)
    }

    fn draw_message(&mut self, wanted: &BTreeMap<NicId, WantedNic>) -> Option<HostMessage> {
        if let Some(undeclared) = &mut self.undeclared {
            let nics = next_part(undeclared, wanted);
            let remaining = u32::try_from(undeclared.len()).expect("at most MAX_NICS");
            if remaining == 0 {
                self.undeclared = None;
            }
            return Some(HostMessage::Declare { nics, remaining });
        }
        if let Some(nic) = self.changed.pop_first() {
            return Some(match wanted.get(&nic) {
                Some(entry) => HostMessage::Want {
                    nic: Box::new(entry.clone()),
                },
                None => HostMessage::Forget { nic },
            });
        }
        (self.ping == Due::Now).then(|| {
            self.ping = Due::Later;
            HostMessage::Ping {
                sequence: self.pings_sent,
            }
        })
    }
}

/// As many NICs as fit one frame. Those forgotten meanwhile are left out.
fn next_part(
    undeclared: &mut VecDeque<NicId>,
    wanted: &BTreeMap<NicId, WantedNic>,
) -> Vec<WantedNic> {
    const ENVELOPE: usize = 64;
    let mut part = Vec::new();
    let mut len = ENVELOPE;
    while let Some(id) = undeclared.front() {
        if let Some(nic) = wanted.get(id) {
            len += encode(nic).len() + 1;
            if len > MAX_FRAME {
                break;
            }
            part.push(nic.clone());
        }
        undeclared.pop_front();
    }
    part
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: Duration = Duration::from_secs(60);

    fn established() -> Established {
        let boot_id = "00000000-0000-4000-8000-000000000001".parse().unwrap();
        Established::new(SessionNonce(7), boot_id, &BTreeMap::new(), Duration::ZERO)
    }

    /// The next Ping, answered at once; gives the pause before it.
    fn answered_ping(session: &mut Established) -> Duration {
        let (before, now) = (session.pinged_at, session.next_ping(REST));
        assert_eq!(session.ping_if_due(now, REST), None);
        session.last_pong = session.pings_sent;
        now - before
    }

    #[test]
    fn an_agent_that_nothing_is_asked_of_is_left_at_rest() {
        let mut session = established();
        let often = vec![PING_INTERVAL; 15];

        let mut pauses = |count: usize| -> Vec<Duration> {
            let pings = std::iter::repeat_with(|| answered_ping(&mut session));
            pings.take(count).collect()
        };
        assert_eq!((pauses(15), pauses(2)), (often.clone(), vec![REST; 2]));
        session.mark_changed("nic-aaaaaaaaaa".parse().unwrap());
        let again: Vec<_> = (0..16).map(|_| answered_ping(&mut session)).collect();

        assert_eq!((&again[..15], again[15]), (&often[..], REST));
    }

    #[test]
    fn an_agent_that_dies_at_rest_is_lost_soon_after_the_next_ping() {
        let mut session = established();
        for _ in 0..16 {
            answered_ping(&mut session);
        }
        let asked_at = session.next_ping(REST);

        let mut now = asked_at;
        while session.ping_if_due(now, REST).is_none() {
            now = session.next_ping(REST);
        }

        assert_eq!(now, asked_at + 3 * PING_INTERVAL);
    }
}
