//! World `sim`: hostd, QEMUs and guests in one process, in virtual time.

#![expect(clippy::unwrap_used, reason = "set-up that fails is a failed test")]

mod crashes;
mod determinism;
mod lives;
mod rules;
mod support;
