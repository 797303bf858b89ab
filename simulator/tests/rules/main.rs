//! Every rule that a fleet takes in is followed there, and every other is refused with the reason.

#[cfg(test)]
mod cells;
#[cfg(test)]
mod fleet;
