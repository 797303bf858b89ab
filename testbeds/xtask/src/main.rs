//! The project's own commands: demo, test, bench, check, tidy.

fn main() {}
