//! The demonstration: what nicferry is for, on two real VMs, for whoever types one command.

use crate::console::Verdict;
use crate::harness;

/// Where to show it.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The hypervisor: QEMU over QMP, or a libvirtd of the demonstration's own
    #[arg(long, default_value = "qemu", value_parser = ["qemu", "libvirt"])]
    world: String,
}

/// `cargo xtask demo`
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Verdict> {
    harness::hand_over("demo", &["--world".to_owned(), arguments.world.clone()])
}
