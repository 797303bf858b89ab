//! `simulator fleet`: thousands of VMs under faults, and what came of them.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use misbehaviour::Script;
use simulator::fleet::{self, FleetPlan, usual_faults};

use super::console::{complain, say};
use super::panic::before_the_end;
use super::script;

/// Runs a fleet of simulated VMs to its end.
#[derive(Debug, clap::Args)]
pub(crate) struct Fleet {
    /// How many VMs at least: there are two hosts or more, and all have the same number of them
    #[arg(long, default_value = "10000")]
    vms: NonZeroUsize,
    /// How many attaches, detaches and moves
    #[arg(long, default_value = "100000")]
    ops: NonZeroU64,
    /// What all chance is drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many VMs on each host
    #[arg(long, default_value = "250")]
    vms_per_host: NonZeroUsize,
    /// What goes wrong, instead of a little of everything: rules, paces and orders to clocks (TOML)
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// Tell the result as one JSON object
    #[arg(long)]
    json: bool,
}

impl Fleet {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let mut plan = FleetPlan {
            vms: self.vms.get(),
            operations: self.ops.get(),
            seed: self.seed,
            vms_per_host: self.vms_per_host.get(),
            script: Arc::default(),
        };
        plan.script = Arc::new(self.script(&plan)?);
        let again = self.again();
        before_the_end(move || Some(again.clone()));
        let report = fleet::run(&plan)?;
        if self.json {
            say(serde_json::to_string(&report).context("failed to write the report")?);
        } else {
            say(&report);
        }
        if report.is_clean() {
            return Ok(ExitCode::SUCCESS);
        }
        complain(format_args!("again: {}", self.again()));
        Ok(ExitCode::FAILURE)
    }

    /// The command that does the same once more.
    fn again(&self) -> String {
        let Self {
            vms,
            ops,
            seed,
            vms_per_host,
            rules,
            json: _,
        } = self;
        let rules = rules.as_ref();
        let rules = rules.map(|file| format!(" --rules {}", file.display()));
        format!(
            "simulator fleet --vms {vms} --ops {ops} --seed {seed} --vms-per-host {vms_per_host}{}",
            rules.unwrap_or_default()
        )
    }

    fn script(&self, plan: &FleetPlan) -> anyhow::Result<Script> {
        match &self.rules {
            Some(file) => script::read(file, |script| plan.check(script)),
            None => Ok(Script {
                rules: usual_faults().collect(),
                ..Script::default()
            }),
        }
    }
}
