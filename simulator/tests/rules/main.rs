//! Every rule that a fleet takes in is followed there, and every other is refused with the reason.

#![expect(clippy::unwrap_used, reason = "set-up that fails is a failed test")]

#[cfg(test)]
mod cells;
#[cfg(test)]
mod fleet;
