//! The messages between hostd and the guest agent, their framing and sessions. No I/O.

mod message;

pub use message::{
    AgentMessage, BindError, BindStep, Binding, Goal, HostMessage, NicReport, Phase, StepTiming,
    VersionRange, WantedNic,
};
