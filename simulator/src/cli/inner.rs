//! The parts of a cloud, as this program starts itself for them.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use nic_model::VmId;
use simulator::netns::{self, Site};

use super::log;

/// The first process of a cloud.
#[derive(Debug, clap::Args)]
pub(crate) struct Sandbox {
    /// Where the cloud keeps its files
    #[arg(long)]
    directory: PathBuf,
    /// The process it ends with
    #[arg(long)]
    launcher: u32,
}

/// One VM's QEMU and hardware.
#[derive(Debug, clap::Args)]
pub(crate) struct Machine {
    /// Where the cloud keeps its files
    #[arg(long)]
    directory: PathBuf,
    /// For how many milliseconds the cloud has been there
    #[arg(long, default_value_t = 0)]
    cloud_age_ms: u64,
    /// Which VM
    vm: VmId,
}

/// The first process in a VM.
#[derive(Debug, clap::Args)]
pub(crate) struct Guest {
    /// Where the cloud keeps its files
    #[arg(long)]
    directory: PathBuf,
    /// What the kernel of this life of the VM is recognised by
    #[arg(long)]
    boot_id: String,
    /// Which VM
    vm: VmId,
}

/// The process of a container, which only is there.
#[derive(Debug, clap::Args)]
pub(crate) struct Container {
    /// To be seen in lists of processes
    #[arg(value_name = "NAME")]
    _name: String,
}

impl Sandbox {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let _unwritten = log::to_anybody()?;
        netns::run_sandbox(&Site::at(self.directory.clone()), self.launcher)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Machine {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        log::to_file();
        let site = Site::at(self.directory.clone());
        netns::run_machine(&site, &self.vm, Duration::from_millis(self.cloud_age_ms))?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Guest {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        log::to_file();
        netns::run_guest(&Site::at(self.directory.clone()), &self.vm, &self.boot_id)?;
        Ok(ExitCode::SUCCESS)
    }
}
