//! `fake-qemu`: a QEMU that speaks QMP on unix sockets and runs no guest.

mod cli;

use std::process::ExitCode;

use clap::Parser;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    cli::run(cli::Arguments::parse()).await
}
