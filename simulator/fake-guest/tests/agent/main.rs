//! The real agent's loop in a simulated guest, in virtual time.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod bindings;
mod support;
