//! The real agent's loop in a simulated guest, in virtual time: the same scenarios as on network
//! namespaces, and those that take a kernel one can tell to misbehave.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

#[path = "../../../../guest-agent/tests/agent/bed.rs"]
mod bed;
#[path = "../../../../guest-agent/tests/agent/bodies/mod.rs"]
mod bodies;
mod chaos;
mod containers;
mod fake;
mod faults;
mod hotplug;
mod paces;

use fake::Fake;

bodies::scenarios!(Fake, tokio::test(start_paused = true));
