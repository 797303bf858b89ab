//! The agent's end of a session: bytes in, declarations out; reports in, bytes out.
//!
//! The agent never opens a session and never gives one up for silence: a host that restarts says
//! Hello with a new nonce, and until then nothing has changed; hence no clock here. Reports wait in
//! one place per NIC, the newest replacing an older one that was not sent yet.
//!
//! ```text
//!            Hello(n), versions in common          Hello(m)
//!   NoHost ───────────────────────────────► Open(n) ──────► Open(m), reports of n dropped
//!     ▲  no versions in common: Incompatible  │
//!     └───────────────────────────────────────┘ broken framing or malformed message: the host
//!                                               is told NoSession at its next message
//! ```

use std::collections::{BTreeMap, VecDeque};

use nic_model::{BootId, NicId};

use crate::framing::{Frame, FrameDecoder, FrameTooLong, SessionNonce, encode_frame};
use crate::host_session::MAX_NICS;
use crate::message::{AgentMessage, HostMessage, NicReport, VersionRange, WantedNic};

/// Control messages kept for sending: greetings of one Hello each and Pongs of one Ping each, of
/// which the host sends five and half a one per second.
const MAX_REPLIES: usize = 64;

/// What the agent says of itself in every Welcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentIdentity {
    /// Versions it speaks.
    pub versions: VersionRange,
    /// Its own version, for people.
    pub agent: String,
    /// The kernel's `boot_id`.
    pub boot_id: BootId,
}

/// What the host told the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentEvent {
    /// A new session: a whole declaration follows.
    Opened {
        /// Version of this session.
        version: u16,
    },
    /// The complete set of NICs.
    Declared(Vec<WantedNic>),
    /// One NIC added or replaced.
    Wanted(Box<WantedNic>),
    /// One NIC removed.
    Forgotten(NicId),
    /// Bytes were lost; the host will begin a new session.
    Closed(AgentCloseReason),
}

/// Why the agent gave a session up. Messages are fragments that fit "session closed: …".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AgentCloseReason {
    /// Bytes that are no frame.
    #[error("the host sent bytes that are no frame")]
    BrokenFraming,
    /// A frame of this session that is no message.
    #[error("the host sent a frame that is no message: {problem}")]
    MalformedMessage {
        /// The parser's words.
        problem: String,
    },
    /// More NICs than any machine has.
    #[error("the host declared more than {MAX_NICS} NICs")]
    TooManyNics,
}

/// The agent's end of the sessions over one channel.
#[derive(Debug)]
pub struct AgentSession {
    identity: AgentIdentity,
    session: Option<Open>,
    decoder: FrameDecoder,
    garbage_seen: u64,
    foreign_frames: u64,
    replies: VecDeque<(SessionNonce, AgentMessage)>,
    events: VecDeque<AgentEvent>,
}

#[derive(Debug)]
struct Open {
    nonce: SessionNonce,
    /// Parts of a declaration that is not complete yet.
    declaration: Vec<WantedNic>,
    /// Newest unsent report of each NIC, in the order in which the NICs first waited.
    reports: BTreeMap<NicId, Vec<u8>>,
    order: VecDeque<NicId>,
    /// Messages about NICs that have come, and reports that have gone out.
    heard: u64,
    reported: u64,
}

impl AgentSession {
    /// No session until the host says Hello.
    #[must_use]
    pub fn new(identity: AgentIdentity) -> Self {
        Self {
            identity,
            session: None,
            decoder: FrameDecoder::default(),
            garbage_seen: 0,
            foreign_frames: 0,
            replies: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Takes what the channel delivered. The events must be polled before the next call: they are
    /// bounded by the size of `bytes` alone.
    pub fn handle_bytes(&mut self, bytes: &[u8]) {
        let mut input = bytes;
        loop {
            let frame = self.decoder.next_frame(&mut input);
            self.account_garbage();
            let Some(frame) = frame else { return };
            self.handle_frame(&frame);
        }
    }

    /// Queues how a NIC stands; without a session it is dropped, since every session begins with a
    /// declaration that is answered in full.
    ///
    /// # Errors
    /// When the report does not fit one frame.
    pub fn report(&mut self, report: NicReport) -> Result<(), FrameTooLong> {
        let Some(open) = &mut self.session else {
            return Ok(());
        };
        let nic = report.nic.clone();
        let message = AgentMessage::Report {
            report: Box::new(report),
        };
        let frame = frame_of(open.nonce, &message)?;
        if open.reports.insert(nic.clone(), frame).is_none() {
            open.order.push_back(nic);
        }
        Ok(())
    }

    /// The next frame to send, if any: replies first, then reports.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        if let Some((nonce, reply)) = self.replies.pop_front() {
            return Some(reply_frame(nonce, &reply));
        }
        let open = self.session.as_mut()?;
        let nic = open.order.pop_front()?;
        open.reported += 1;
        open.reports.remove(&nic)
    }

    /// Whether [`Self::poll_transmit`] has something.
    #[must_use]
    pub fn wants_to_transmit(&self) -> bool {
        let reports = self
            .session
            .as_ref()
            .is_some_and(|open| !open.order.is_empty());
        reports || !self.replies.is_empty()
    }

    /// The next thing the host said.
    pub fn poll_event(&mut self) -> Option<AgentEvent> {
        self.events.pop_front()
    }

    /// Frames of sessions that are over.
    #[must_use]
    pub fn foreign_frames(&self) -> u64 {
        self.foreign_frames
    }

    /// Bytes that were part of no frame.
    #[must_use]
    pub fn garbage_bytes(&self) -> u64 {
        self.decoder.discarded()
    }

    fn account_garbage(&mut self) {
        let discarded = self.decoder.discarded();
        let fresh = discarded > self.garbage_seen;
        self.garbage_seen = discarded;
        if fresh {
            self.close(AgentCloseReason::BrokenFraming);
        }
    }

    fn handle_frame(&mut self, frame: &Frame) {
        let ours = self.session.as_ref().map(|open| open.nonce) == Some(frame.nonce);
        match serde_json::from_slice(&frame.payload) {
            Ok(HostMessage::Hello { versions }) => self.handle_hello(frame.nonce, versions),
            Ok(message) if ours => self.handle_message(message),
            Err(error) if ours => self.close(AgentCloseReason::MalformedMessage {
                problem: error.to_string(),
            }),
            Ok(_) => {
                self.foreign_frames += 1;
                self.reply(frame.nonce, AgentMessage::NoSession);
            }
            Err(_) => self.foreign_frames += 1,
        }
    }

    fn handle_hello(&mut self, nonce: SessionNonce, host: VersionRange) {
        let Some(version) = self.identity.versions.common_newest(host) else {
            self.session = None;
            let versions = self.identity.versions;
            return self.reply(nonce, AgentMessage::Incompatible { versions });
        };
        let welcome = AgentMessage::Welcome {
            version,
            agent: self.identity.agent.clone(),
            boot_id: self.identity.boot_id,
        };
        self.reply(nonce, welcome);
        if self.session.as_ref().map(|open| open.nonce) != Some(nonce) {
            self.session = Some(Open::new(nonce));
            self.events.push_back(AgentEvent::Opened { version });
        }
    }

    fn handle_message(&mut self, message: HostMessage) {
        let Some(open) = &mut self.session else {
            return;
        };
        open.heard += u64::from(message.is_counted());
        match message {
            HostMessage::Declare { nics, remaining } => self.handle_declare(nics, remaining),
            HostMessage::Want { nic } => self.events.push_back(AgentEvent::Wanted(nic)),
            HostMessage::Forget { nic } => self.events.push_back(AgentEvent::Forgotten(nic)),
            HostMessage::Ping { sequence } => {
                let pong = AgentMessage::Pong {
                    sequence,
                    heard: open.heard,
                    reported: open.reported,
                };
                let nonce = open.nonce;
                self.reply(nonce, pong);
            }
            HostMessage::Hello { .. } => {}
        }
    }

    fn handle_declare(&mut self, nics: Vec<WantedNic>, remaining: u32) {
        let Some(open) = &mut self.session else {
            return;
        };
        open.declaration.extend(nics);
        if open.declaration.len() > MAX_NICS {
            return self.close(AgentCloseReason::TooManyNics);
        }
        if remaining == 0 {
            let complete = std::mem::take(&mut open.declaration);
            self.events.push_back(AgentEvent::Declared(complete));
        }
    }

    fn reply(&mut self, nonce: SessionNonce, message: AgentMessage) {
        if self.replies.len() >= MAX_REPLIES {
            self.replies.pop_front();
        }
        self.replies.push_back((nonce, message));
    }

    fn close(&mut self, reason: AgentCloseReason) {
        if self.session.take().is_some() {
            self.events.push_back(AgentEvent::Closed(reason));
        }
    }
}

impl Open {
    fn new(nonce: SessionNonce) -> Self {
        Self {
            nonce,
            declaration: Vec::new(),
            reports: BTreeMap::new(),
            order: VecDeque::new(),
            heard: 0,
            reported: 0,
        }
    }
}

fn reply_frame(nonce: SessionNonce, reply: &AgentMessage) -> Vec<u8> {
    frame_of(nonce, reply).expect("a greeting or a Pong is far shorter than a frame")
}

fn frame_of(nonce: SessionNonce, message: &AgentMessage) -> Result<Vec<u8>, FrameTooLong> {
    let payload =
        serde_json::to_vec(message).expect("messages have text keys and no failing serializers");
    encode_frame(nonce, &payload)
}

#[cfg(test)]
#[path = "agent_session_tests.rs"]
mod tests;
