//! The daemon on the host: admits, journals, hot-plugs, reconciles.

fn main() {}
