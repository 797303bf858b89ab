//! The command line of hostd.

fn main() {}
