//! The command line of the simulator.

mod cli;

use std::process::ExitCode;

use clap::Parser;
use mimalloc::MiMalloc;

/// A fleet makes and drops some thousand small objects for each operation: with glibc's allocator
/// (2.36) that is a third of its time.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    cli::run(&cli::Arguments::parse())
}
