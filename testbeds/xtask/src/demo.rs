//! The demonstration: what nicferry is for, on two real VMs, for whoever types one command.

use crate::console::Verdict;
use crate::harness;
use crate::setup::Purpose;

/// Where to show it.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The hypervisor: QEMU over QMP, or a libvirtd of the demonstration's own
    #[arg(long, default_value = "qemu", value_parser = ["qemu", "libvirt"])]
    world: String,
}

/// `cargo xtask demo`
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Verdict> {
    let world = arguments.world.as_str();
    let purposes: &[Purpose] = match world {
        "libvirt" => &[Purpose::Run, Purpose::Libvirt],
        _ => &[Purpose::Run],
    };
    harness::hand_over("demo", purposes, &["--world".to_owned(), world.to_owned()])
}
