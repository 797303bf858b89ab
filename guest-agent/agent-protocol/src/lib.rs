//! The messages between hostd and the guest agent, their framing and sessions. No I/O.
//!
//! Both ends live here, so that what one says the other understands: [`HostSession`] for hostd,
//! [`AgentSession`] for the agent, over the same [`FrameDecoder`]. Either is driven alike: feed it
//! bytes, ask it for frames to send, for events, and for the time at which it wants to be woken.

mod agent_session;
mod framing;
mod host_session;
mod known_target;
mod message;
mod rate_cap;

pub use agent_session::{AgentCloseReason, AgentEvent, AgentIdentity, AgentSession};
pub use framing::{Frame, FrameDecoder, FrameTooLong, MAX_FRAME, SessionNonce, encode_frame};
pub use host_session::{
    CloseReason, DeclareError, FloodLimit, HELLO_INTERVAL, HostCounters, HostSession, MAX_NICS,
    MAX_WANTED_NIC, MISSED_PONGS, PING_INTERVAL, SessionEvent,
};
pub use message::{
    AgentMessage, BindError, BindStep, Binding, Goal, HostMessage, KnownTarget, NicReport, Phase,
    StepTiming, VersionRange, WantedNic,
};
pub use rate_cap::ReceiveLimits;
