//! The HTTP API over a real socket, the service behind it in memory and no worker at work: so
//! nothing happens to a NIC but what a test makes happen.

#![expect(clippy::unwrap_used, reason = "set-up that fails is a failed test")]

mod bad_bodies;
mod bad_input;
mod document;
mod events;
mod hostile;
mod nics;
mod observing;
#[path = "../site/mod.rs"]
mod site;
mod support;
