//! Scenarios as code, each run in every world that can.
