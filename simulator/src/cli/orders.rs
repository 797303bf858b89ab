//! Orders to a cloud that runs.

use std::fs::{self, File};
use std::path::PathBuf;

use anyhow::Context;
use misbehaviour::{ClockOrder, Span};
use nic_model::VmId;
use simulator::netns::{ClockRequest, Page};

use super::{Which, console, finite};

/// Ends a cloud.
#[derive(Debug, clap::Args)]
pub(crate) struct Down {
    #[command(flatten)]
    which: Which,
}

/// Makes a cloud as it was at first.
#[derive(Debug, clap::Args)]
pub(crate) struct Reset {
    #[command(flatten)]
    which: Which,
}

/// Shows a cloud.
#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    #[command(flatten)]
    which: Which,
}

/// Writes a snapshot.
#[derive(Debug, clap::Args)]
pub(crate) struct Snapshot {
    #[command(flatten)]
    which: Which,
    /// Where to
    file: PathBuf,
}

/// Changes clocks.
#[derive(Debug, clap::Args)]
pub(crate) struct Clock {
    #[command(flatten)]
    which: Which,
    /// Of this VM alone
    #[arg(long)]
    vm: Option<VmId>,
    #[command(subcommand)]
    order: ClockCommand,
}

#[derive(Debug, Clone, Copy, clap::Subcommand)]
enum ClockCommand {
    /// It stands still
    Freeze,
    /// It goes as fast as the real one
    Run,
    /// It goes so many times as fast as the real one
    Speed {
        /// How many times, 0 to 1000
        #[arg(value_parser = finite)]
        factor: f64,
    },
    /// It jumps ahead
    Step {
        /// By how much, such as 5s
        by: Span,
    },
}

/// Does a transition that waits to be told.
#[derive(Debug, clap::Args)]
pub(crate) struct Step {
    #[command(flatten)]
    which: Which,
    /// Of which VM
    vm: VmId,
}

/// Switches a VM.
#[derive(Debug, clap::Args)]
pub(crate) struct Vm {
    #[command(flatten)]
    which: Which,
    /// What becomes of it
    #[arg(value_enum)]
    order: VmOrder,
    /// Which VM
    vm: VmId,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum VmOrder {
    /// A VM that is off is switched on
    Start,
    /// It loses its power
    Kill,
    /// Its guest boots anew
    Reset,
}

impl Down {
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        Ok(self.which.control()?.down().await?)
    }
}

impl Reset {
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        Ok(self.which.control()?.post("/v1/reset", &()).await?)
    }
}

impl Show {
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        let page: Page = self.which.control()?.get("/").await?;
        console::say(serde_json::to_string_pretty(&page)?);
        Ok(())
    }
}

impl Snapshot {
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        let control = self.which.control()?;
        let file = self.file.display();
        let cannot = || format!("cannot write {file}");
        let existed = self.file.exists();
        // First, since every hostd is killed for a snapshot; one that is there stays until another
        // is to be had.
        let mut options = File::options();
        let opened = options.write(true).create(true).truncate(false);
        drop(opened.open(&self.file).with_context(cannot)?);
        let taken = control.order("/v1/snapshot").await;
        if taken.is_err() && !existed {
            // That there is none is told by what failed.
            fs::remove_file(&self.file).unwrap_or_default();
        }
        let snapshot: simulator::netns::Snapshot = taken?;
        fs::write(&self.file, serde_json::to_vec(&snapshot)?).with_context(cannot)?;
        console::say(format_args!(
            "kept in {file}; again with: simulator restore {file}"
        ));
        Ok(())
    }
}

impl Clock {
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        let request = ClockRequest {
            vm: self.vm.clone(),
            order: match self.order {
                ClockCommand::Freeze => ClockOrder::Freeze,
                ClockCommand::Run => ClockOrder::Run,
                ClockCommand::Speed { factor } => ClockOrder::Speed(factor),
                ClockCommand::Step { by } => ClockOrder::Step(by),
            },
        };
        Ok(self.which.control()?.post("/v1/clock", &request).await?)
    }
}

impl Step {
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        let path = format!("/v1/vms/{}/step", self.vm);
        Ok(self.which.control()?.post(&path, &()).await?)
    }
}

impl Vm {
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        let order = match self.order {
            VmOrder::Start => "start",
            VmOrder::Kill => "kill",
            VmOrder::Reset => "reset",
        };
        let path = format!("/v1/vms/{}/{order}", self.vm);
        Ok(self.which.control()?.post(&path, &()).await?)
    }
}
