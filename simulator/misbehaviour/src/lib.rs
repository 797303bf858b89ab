//! What goes wrong in a simulated cloud, how fast things go there, and what time it is.
//!
//! Real hypervisors and guests misbehave in ways that cannot be had on demand. Here each of them
//! can be: whatever is simulated asks the [`Rulebook`] at every operation, and does the [`Effect`]
//! that comes back.
//!
//! ```text
//!   file, HTTP ──► Script ──► Rulebook ◄── Occasion: "qmp.device_add" in VM vm1 for NIC nic-…
//!      │             │            └──────► Effect:   delay 2s
//!      │             ├──────► Paces   ◄── transition: unplug in VM vm1
//!      │             │            └──────► Pace:     after 3 polls
//!      │             └──────► cues: at 5 s the clock of VM vm1 stands still
//!      └─ checked against a table of what can go wrong in which World
//! ```
//!
//! All chance is drawn from one seed, in the order of the occasions: the same questions get the
//! same answers. Nothing here reads a clock; the time comes in.

mod chance;
mod clock;
mod effect;
mod operation;
mod pace;
mod rows;
mod rule;
mod rulebook;
mod script;
mod span;
mod table;

pub use chance::Chance;
pub use clock::{Clock, ClockOrder, Speed, SpeedError};
pub use effect::{BOOT_LOOP, Effect, EffectKind, Side};
pub use operation::{Operation, OperationError};
pub use pace::{Pace, PaceError, PaceRule, Paces, Transition};
pub use rule::{Rule, RuleError, RuleName, When};
pub use rulebook::{MAX_RULES, Occasion, Rulebook, RulebookError};
pub use script::{ClockRule, Cue, CueOrder, Script, ScriptError, StepRule};
pub use span::{Span, SpanError};
pub use table::{World, members_of, possible_in};
