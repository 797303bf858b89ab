//! What the simulated hardware of one VM is told while it runs, and what it answers: lines of JSON
//! between the sandbox and the VM's process.

use std::path::Path;
use std::time::Duration;

use misbehaviour::{ClockOrder, PaceRule, Rule};
use serde::{Deserialize, Serialize};

use crate::netns::lines;
use crate::netns::trouble::{Doing, Trouble};

/// Longest line, in bytes: a status lists all rules.
pub(super) const LINE_MAX: usize = 1024 * 1024;
/// It does nothing that takes long before it answers.
const DEADLINE: Duration = Duration::from_secs(5);

/// An order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    /// Tells how it is.
    Status,
    /// Takes in a rule.
    AddRule(Rule),
    /// Takes out a rule; none of that name is fine.
    RemoveRule(String),
    /// Takes out all rules.
    ClearRules,
    /// Sets how fast a transition goes.
    SetPace(PaceRule),
    /// Has every transition go as fast as if nothing had been said of it.
    ClearPaces,
    /// Changes the clock.
    Clock(ClockOrder),
    /// Does the transition that has waited longest to be told.
    Step,
    /// Resets the machine, as by `system_reset`.
    Reset,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// It is done.
    Done,
    /// How it is.
    Status(Status),
    /// It is not done, for this reason.
    Failed(String),
}

/// How the hardware of a VM is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// What time it is for it, since it was switched on, in milliseconds.
    pub clock_ms: u64,
    /// How many times as fast as the real one its clock goes.
    pub speed: f64,
    /// The rules that it follows, with how often each has taken effect.
    pub rules: Vec<RuleStatus>,
    /// How fast transitions go in it.
    pub paces: Vec<PaceRule>,
    /// Transitions that have begun, the longest waiting first.
    pub under_way: Vec<TransitionStatus>,
    /// The PCI paths of its NICs.
    pub nics: Vec<String>,
    /// Whether its guest has booted.
    pub guest: GuestState,
}

/// Whether a guest has booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuestState {
    /// It has.
    Up,
    /// It has yet to, or never will.
    Down,
}

/// A rule and what it has done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RuleStatus {
    /// The rule.
    pub rule: Rule,
    /// How often it has taken effect.
    pub done: u64,
}

/// A transition that has begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransitionStatus {
    /// What it is.
    pub transition: misbehaviour::Transition,
    /// Of which device, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What it waits for.
    pub waits_for: String,
}

/// What a VM's hardware had against an order.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(String);

/// Gives an order to the hardware that takes them at `socket`.
///
/// # Errors
/// When it refuses or does not answer.
pub(crate) async fn give(socket: &Path, order: &Order) -> Result<Option<Status>, Trouble> {
    let answer = lines::ask(socket, order, LINE_MAX, DEADLINE).await?;
    match answer {
        Answer::Done => Ok(None),
        Answer::Status(status) => Ok(Some(status)),
        Answer::Failed(reason) => Err(Refused(reason)).doing("have it followed"),
    }
}
