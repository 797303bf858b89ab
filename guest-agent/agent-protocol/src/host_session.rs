//! The host's end of a session with one agent: bytes and time in, bytes and events out.
//!
//! The other end is hostile until shown otherwise and may be an agent that died and came back, so
//! nothing is believed that does not bear the nonce of the running session, and everything that is
//! kept is bounded by what the host itself declared.
//!
//! ```text
//!             start(nonce)
//!   Closed ──────────────► Greeting ── Hello every 200 ms, all but our Welcome discarded
//!     ▲                       │ Welcome with our nonce and a version of ours
//!     │ lost, malformed,      ▼
//!     └── flooded ──────── Established ── Declare, then Want/Forget as they change;
//!          incompatible,                  Ping every 2 s, three unanswered = lost,
//!          restarted                      answered by NoSession = restarted
//! ```
//!
//! A closed session stays closed until [`HostSession::start`] brings a new nonce: how soon is the
//! caller's choice, and a guest that floods should wait. What was declared outlives sessions, and
//! so does what was learned of a pid that is a target: a guest that was rebooted in between must
//! not take another process for it.
//! Time is a [`Duration`] since an origin of the caller's choice that never moves.

mod established;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use nic_model::{BootId, NicId};
use serde::Serialize;

use crate::framing::{Frame, FrameDecoder, MAX_FRAME, SessionNonce, encode_frame};
use crate::message::{AgentMessage, HostMessage, NicReport, VersionRange, WantedNic};
use crate::rate_cap::{ReceiveLimits, TokenBucket, Verdict};
use established::Established;

/// How long the host waits between two Hellos.
pub const HELLO_INTERVAL: Duration = Duration::from_millis(200);
/// How long the host waits between two Pings, unless [`HostSession::rest_for`] says otherwise.
pub const PING_INTERVAL: Duration = Duration::from_secs(2);
/// Unanswered Pings that mean the agent is gone.
pub const MISSED_PONGS: u64 = 3;
/// Longest encoding of one NIC: four of them always fit a frame.
pub const MAX_WANTED_NIC: usize = MAX_FRAME / 4;
/// Most NICs one agent is told of: far more than any machine has slots.
pub const MAX_NICS: usize = 1024;

/// Phases a NIC passes on its way, all kept until polled; beyond them the oldest report gives way.
const REPORTS_KEPT_PER_NIC: usize = 4;

/// What the session tells its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEvent {
    /// The agent answered; everything declared is on its way to it.
    Opened {
        /// Version of this session.
        version: u16,
        /// The agent's own version, for people. Chosen by the guest.
        agent: String,
        /// The guest kernel's `boot_id`. Chosen by the guest.
        boot_id: BootId,
    },
    /// How a declared NIC stands, for its newest generation.
    Report(NicReport),
    /// The session is over; nothing is sent or believed until the next start.
    Closed(CloseReason),
}

/// Why a session ended. Messages are fragments that fit "session closed: …".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// The agent knows nothing of the session: it has been restarted since.
    #[error("the agent has been restarted")]
    Restarted,
    /// Pings went unanswered.
    #[error("{missed} pings in a row went unanswered")]
    Lost {
        /// How many.
        missed: u64,
    },
    /// A message of either side has not arrived, although later ones have.
    #[error("messages were lost on the way")]
    MessagesLost,
    /// Bytes that are no frame, within an established session.
    #[error("the agent sent bytes that are no frame")]
    BrokenFraming,
    /// A frame of this session whose payload is no message.
    #[error("the agent sent a frame that is no message: {problem}")]
    MalformedMessage {
        /// The parser's words, for people; capped at 200 bytes.
        problem: String,
    },
    /// More than the limits allow.
    #[error("the agent exceeded its limit of {limit}")]
    Flooded {
        /// Which limit.
        limit: FloodLimit,
    },
    /// No version in common, or a Welcome to a version that was not offered.
    #[error("the agent speaks versions {} to {}, not {} to {}",
        theirs.oldest, theirs.newest, ours.oldest, ours.newest)]
    Incompatible {
        /// What the host speaks.
        ours: VersionRange,
        /// What the agent says it speaks.
        theirs: VersionRange,
    },
}

/// Which allowance a guest exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FloodLimit {
    /// Frames.
    #[error("frames per second")]
    Frames,
    /// Bytes.
    #[error("bytes per second")]
    Bytes,
}

/// Why a NIC cannot be declared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeclareError {
    /// Its addresses and routes are too many.
    #[error("NIC {nic} takes {len} bytes to declare, at most {MAX_WANTED_NIC} are possible")]
    TooLong {
        /// Which.
        nic: NicId,
        /// Length of its encoding in bytes.
        len: usize,
    },
    /// The set is full.
    #[error("NIC {nic} would be one more than the {MAX_NICS} one agent can be told of")]
    TooMany {
        /// Which.
        nic: NicId,
    },
}

/// What was discarded, since the session object was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostCounters {
    /// Bytes that were part of no frame.
    pub garbage_bytes: u64,
    /// Bytes not even looked at: over the limit outside a session.
    pub dropped_bytes: u64,
    /// Frames with another nonce, of an earlier life of either side.
    pub foreign_frames: u64,
    /// Reports of NICs that were not declared.
    pub undeclared_reports: u64,
    /// Reports of generations that are not the declared one.
    pub outdated_reports: u64,
    /// Pongs nobody waits for, and greetings within a session.
    pub unexpected_messages: u64,
}

/// The host's end of the sessions over one channel.
#[derive(Debug)]
pub struct HostSession {
    versions: VersionRange,
    state: State,
    decoder: FrameDecoder,
    frames: TokenBucket,
    bytes: TokenBucket,
    rest: Duration,
    wanted: BTreeMap<NicId, WantedNic>,
    events: VecDeque<SessionEvent>,
    counters: HostCounters,
}

#[derive(Debug)]
enum State {
    Closed,
    Greeting {
        nonce: SessionNonce,
        next_hello: Duration,
        hello: Due,
    },
    Established(Established),
}

/// Whether a message of which one is enough waits to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Now,
    Later,
}

impl HostSession {
    /// No session yet: [`Self::start`] begins one.
    #[must_use]
    pub fn new(versions: VersionRange, limits: ReceiveLimits) -> Self {
        Self {
            versions,
            state: State::Closed,
            decoder: FrameDecoder::default(),
            frames: TokenBucket::full(limits.frames_per_second, limits.frames_burst),
            bytes: TokenBucket::full(limits.bytes_per_second, limits.bytes_burst),
            rest: PING_INTERVAL,
            wanted: BTreeMap::new(),
            events: VecDeque::new(),
            counters: HostCounters::default(),
        }
    }

    /// Lets an agent that has answered, and that nothing is asked of, be for so long between two
    /// Pings. Where there are many, each of them cannot be asked every other second.
    pub fn rest_for(&mut self, rest: Duration) {
        self.rest = rest.max(PING_INTERVAL);
    }

    /// Begins a session; one that runs is forgotten without an event. `nonce` is random and fresh.
    pub fn start(&mut self, nonce: SessionNonce, now: Duration) {
        self.state = State::Greeting {
            nonce,
            next_hello: now + HELLO_INTERVAL,
            hello: Due::Now,
        };
    }

    /// Adds a NIC or replaces its entry; the agent hears of it now or when a session opens.
    ///
    /// # Errors
    /// When the entry does not fit. Nothing has changed then.
    pub fn want(&mut self, mut nic: WantedNic) -> Result<(), DeclareError> {
        let len = encode(&nic).len();
        let id = nic.nic.clone();
        if len > MAX_WANTED_NIC {
            return Err(DeclareError::TooLong { nic: id, len });
        }
        if self.wanted.len() >= MAX_NICS && !self.wanted.contains_key(&id) {
            return Err(DeclareError::TooMany { nic: id });
        }
        let same = |known: &&WantedNic| known.generation == nic.generation;
        let known = self.wanted.get(&id).filter(same);
        nic.known_target = nic.known_target.or(known.and_then(|nic| nic.known_target));
        if let State::Established(session) = &self.state {
            nic.note_asked_in(session.boot_id);
        }
        self.wanted.insert(id.clone(), nic);
        self.mark_changed(id);
        Ok(())
    }

    /// Removes a NIC; its reports are ignored from now on.
    pub fn forget(&mut self, nic: &NicId) {
        if self.wanted.remove(nic).is_some() {
            self.events.retain(|event| !reports(event, nic));
            self.mark_changed(nic.clone());
        }
    }

    /// Takes what the channel delivered, in pieces of any size.
    pub fn handle_bytes(&mut self, bytes: &[u8], now: Duration) {
        if self.bytes.take(bytes.len(), now) == Verdict::Exceeded {
            self.counters.dropped_bytes += bytes.len() as u64;
            return self.flooded(FloodLimit::Bytes);
        }
        let mut input = bytes;
        loop {
            let frame = self.decoder.next_frame(&mut input);
            self.account_garbage();
            let Some(frame) = frame else { return };
            if self.frames.take(1, now) == Verdict::Exceeded {
                self.counters.dropped_bytes += input.len() as u64;
                return self.flooded(FloodLimit::Frames);
            }
            self.handle_frame(&frame, now);
        }
    }

    /// Does what is due at `now`; harmless when nothing is.
    pub fn handle_timeout(&mut self, now: Duration) {
        match &mut self.state {
            State::Closed => {}
            State::Greeting {
                next_hello, hello, ..
            } => {
                if now >= *next_hello {
                    *next_hello = now + HELLO_INTERVAL;
                    *hello = Due::Now;
                }
            }
            State::Established(session) => {
                if let Some(reason) = session.ping_if_due(now, self.rest) {
                    self.close(reason);
                }
            }
        }
    }

    /// The next frame to send, if any. Call it once the channel has room: until then newer states
    /// replace older ones.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        let (nonce, message) = self.next_message()?;
        Some(frame_of(nonce, &message))
    }

    /// The next thing the owner should know.
    pub fn poll_event(&mut self) -> Option<SessionEvent> {
        let next = self.events.pop_front();
        if next.is_none() {
            // Reports come together, and rarely: the room for them is not kept for the next time.
            self.events = VecDeque::new();
        }
        next
    }

    /// When [`Self::handle_timeout`] has something to do; `None` while closed.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        match &self.state {
            State::Closed => None,
            State::Greeting { next_hello, .. } => Some(*next_hello),
            State::Established(session) => Some(session.next_ping(self.rest)),
        }
    }

    /// Whether an agent has answered and is still there, as far as known.
    #[must_use]
    pub fn is_established(&self) -> bool {
        matches!(self.state, State::Established(_))
    }

    /// What was discarded so far.
    #[must_use]
    pub fn counters(&self) -> HostCounters {
        self.counters
    }

    fn mark_changed(&mut self, nic: NicId) {
        if let State::Established(session) = &mut self.state {
            session.mark_changed(nic);
        }
    }

    /// Bytes of an earlier life precede the Welcome; after it they mean that a message was lost.
    fn account_garbage(&mut self) {
        let discarded = self.decoder.discarded();
        let fresh = discarded > self.counters.garbage_bytes;
        self.counters.garbage_bytes = discarded;
        if fresh && self.is_established() {
            self.close(CloseReason::BrokenFraming);
        }
    }

    fn handle_frame(&mut self, frame: &Frame, now: Duration) {
        let running = match &self.state {
            State::Closed => None,
            State::Greeting { nonce, .. } => Some(*nonce),
            State::Established(session) => Some(session.nonce),
        };
        if running != Some(frame.nonce) {
            self.counters.foreign_frames += 1;
            return;
        }
        match serde_json::from_slice(&frame.payload) {
            Ok(message) if self.is_established() => self.handle_message(message),
            Ok(message) => self.handle_greeting(message, frame.nonce, now),
            Err(error) => self.close(CloseReason::MalformedMessage {
                problem: capped(&error.to_string()),
            }),
        }
    }

    fn handle_greeting(&mut self, message: AgentMessage, nonce: SessionNonce, now: Duration) {
        match message {
            AgentMessage::Welcome {
                version,
                agent,
                boot_id,
            } if self.versions.contains(version) => {
                for nic in self.wanted.values_mut() {
                    nic.note_asked_in(boot_id);
                }
                let session = Established::new(nonce, boot_id, &self.wanted, now);
                self.state = State::Established(session);
                self.events.push_back(SessionEvent::Opened {
                    version,
                    agent: capped(&agent),
                    boot_id,
                });
            }
            AgentMessage::Welcome { version, .. } => self.close_incompatible(VersionRange {
                oldest: version,
                newest: version,
            }),
            AgentMessage::Incompatible { versions } => self.close_incompatible(versions),
            AgentMessage::Report { .. } | AgentMessage::Pong { .. } | AgentMessage::NoSession => {
                self.counters.unexpected_messages += 1;
            }
        }
    }

    fn handle_message(&mut self, message: AgentMessage) {
        match message {
            AgentMessage::Report { report } => {
                if let State::Established(session) = &mut self.state {
                    session.reports_heard += 1;
                }
                self.handle_report(*report);
            }
            AgentMessage::Pong {
                sequence,
                heard,
                reported,
            } => self.handle_pong(sequence, heard, reported),
            AgentMessage::NoSession => self.close(CloseReason::Restarted),
            // A Hello that crossed its Welcome is answered again.
            AgentMessage::Welcome { .. } | AgentMessage::Incompatible { .. } => {
                self.counters.unexpected_messages += 1;
            }
        }
    }

    fn handle_report(&mut self, report: NicReport) {
        match self.wanted.get_mut(&report.nic) {
            None => self.counters.undeclared_reports += 1,
            Some(wanted) if wanted.generation != report.generation => {
                self.counters.outdated_reports += 1;
            }
            Some(wanted) => {
                wanted.note_reported(&report.phase);
                self.queue_report(report);
            }
        }
    }

    fn queue_report(&mut self, report: NicReport) {
        let of_this_nic = |event: &SessionEvent| reports(event, &report.nic);
        if self
            .events
            .iter()
            .filter(|event| of_this_nic(event))
            .count()
            >= REPORTS_KEPT_PER_NIC
            && let Some(oldest) = self.events.iter().position(of_this_nic)
        {
            self.events.remove(oldest);
        }
        self.events.push_back(SessionEvent::Report(report));
    }

    fn handle_pong(&mut self, sequence: u64, heard: u64, reported: u64) {
        let State::Established(session) = &mut self.state else {
            return;
        };
        if !(session.last_pong + 1..=session.pings_sent).contains(&sequence) {
            self.counters.unexpected_messages += 1;
            return;
        }
        session.last_pong = sequence;
        if session.misses_messages(heard, reported) {
            self.close(CloseReason::MessagesLost);
        }
    }

    fn next_message(&mut self) -> Option<(SessionNonce, HostMessage)> {
        match &mut self.state {
            State::Greeting { nonce, hello, .. } if *hello == Due::Now => {
                *hello = Due::Later;
                let versions = self.versions;
                Some((*nonce, HostMessage::Hello { versions }))
            }
            State::Established(session) => {
                let message = session.next_message(&self.wanted)?;
                Some((session.nonce, message))
            }
            State::Closed | State::Greeting { .. } => None,
        }
    }

    fn flooded(&mut self, limit: FloodLimit) {
        if self.is_established() {
            self.close(CloseReason::Flooded { limit });
        }
    }

    fn close_incompatible(&mut self, theirs: VersionRange) {
        let ours = self.versions;
        self.close(CloseReason::Incompatible { ours, theirs });
    }

    fn close(&mut self, reason: CloseReason) {
        self.state = State::Closed;
        self.events.push_back(SessionEvent::Closed(reason));
    }
}

fn reports(event: &SessionEvent, nic: &NicId) -> bool {
    matches!(event, SessionEvent::Report(report) if report.nic == *nic)
}

fn frame_of(nonce: SessionNonce, message: &HostMessage) -> Vec<u8> {
    encode_frame(nonce, &encode(message)).expect("each NIC was measured when it was declared")
}

fn encode(message: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(message).expect("messages have text keys and no failing serializers")
}

/// A guest's words, short enough to be logged.
fn capped(text: &str) -> String {
    const LONGEST: usize = 200;
    text.chars()
        .filter(|character| !character.is_control())
        .scan(0, |len, character| {
            *len += character.len_utf8();
            (*len <= LONGEST).then_some(character)
        })
        .collect()
}

#[cfg(test)]
#[path = "host_session_tests.rs"]
mod tests;
