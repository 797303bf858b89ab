//! The command line of the guest agent.

use std::io::IsTerminal;

use anyhow::Context;
use clap::Parser;
use guest_agent::{ChannelKind, IdentifyBy, Settings};
use nic_model::NetnsName;
use tracing_subscriber::EnvFilter;

/// Moves each hot-plugged NIC into its container, as the host declares it.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The way to the host: `virtio-serial` (port org.nicferry.agent.0) or `unix:PATH` (listens).
    #[arg(long, default_value = "virtio-serial")]
    channel: ChannelKind,
    /// How links are recognised: by the PCI path of their device, or by MAC address where the guest
    /// is a network namespace and its links have no device.
    #[arg(long, value_enum, default_value = "path")]
    identify_by: IdentifyBy,
    /// Name of the namespace in which links wait, under /run/netns. Agents that share that
    /// directory need one each.
    #[arg(long, default_value = "nicferry-holding")]
    holding_netns: NetnsName,
    /// What to log to standard error, in the syntax of tracing-subscriber's EnvFilter.
    #[arg(long, env = "NICFERRY_LOG", default_value = "info")]
    log: String,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(&arguments.log).context("--log")?)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let settings = Settings {
        identify_by: arguments.identify_by,
        holding: arguments.holding_netns,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to make a runtime")?;
    runtime.block_on(guest_agent::run(&arguments.channel, settings))?;
    Ok(())
}
