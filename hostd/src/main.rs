//! `hostd`: hot-plugs NICs into the VMs of this host under limits, and remembers what it promised.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use hostd::config::Config;
use hostd::daemon::Daemon;
use tracing_subscriber::EnvFilter;

/// Hot-plugs NICs into the VMs of this host, and into containers inside them.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/nicferry/hostd.toml")]
    config: PathBuf,
    /// Only check the configuration file.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_logging();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// To standard error, as the service manager wants it; `RUST_LOG` chooses what.
fn start_logging() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let config = Config::load(&arguments.config)?;
    if arguments.check {
        tracing::info!(file = %arguments.config.display(), "the configuration is in order");
        return Ok(());
    }
    raise_descriptor_limit();
    let runtime = tokio::runtime::Runtime::new().context("failed to start the runtime")?;
    runtime.block_on(serve(&config))
}

/// Each VM holds two descriptors and each client one; the soft limit of 1024 that many a shell
/// passes on is for programs that use `select`.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = rustix::process::Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open descriptors stays as it is");
    }
}

/// Serves until a signal comes, or a part of hostd is no more. There is nothing to save: every
/// promise is in the journal.
async fn serve(config: &Config) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let daemon = Daemon::start(config).await?;
    tokio::select! {
        biased;
        ended = daemon.failed() => return Err(ended).context("hostd is not whole any more"),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        served = hostd::http::serve(config, daemon.service.clone()) => {
            served.context("failed to serve the API")?;
        }
    }
    daemon.stop();
    Ok(())
}
