//! Pure decisions: what was seen and what was asked give the next action. No clock, no I/O.
