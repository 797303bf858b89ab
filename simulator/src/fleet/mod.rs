//! A fleet: thousands of VMs, operators that never rest, guests that refuse, everything that can go
//! wrong; and in the end nothing that is wrong.
//!
//! ```text
//!   FleetPlan ──► four shards, each a thread with a world of its own, two at a time
//!                   set up ──► operate under faults, look now and then ──► faults stop, drain
//!                   ──► judge all ──► delete all ──► what is left has leaked
//!             ──► Report: counts, violations, leaks, one hash of all traces
//! ```
//!
//! Hosts have nothing to do with each other, so the shards run side by side and what comes of them
//! does not depend on which is faster. How many there are does not depend on the machine, so that a
//! seed means the same on every one.

mod faults;
mod operator;
mod report;
mod shard;
mod turns;

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use misbehaviour::{Script, ScriptError, World};
use nic_model::VmId;

pub use faults::usual_faults;
pub use report::Report;

use crate::sim::MakeError;
use report::Shards;
use shard::{Shard, ShardPlan};
use turns::Lane;

/// Shards of a fleet that has hosts for as many.
const SHARDS: usize = 4;
/// Shards that work at the same time.
const LANES: usize = 2;

/// What a fleet is to be.
#[derive(Debug, Clone, PartialEq)]
pub struct FleetPlan {
    /// How many VMs there are at least: there are two hosts or more, with the same number each.
    pub vms: usize,
    /// How many operations are carried out.
    pub operations: u64,
    /// What all chance is drawn from.
    pub seed: u64,
    /// How many VMs a host has.
    pub vms_per_host: usize,
    /// What goes wrong while it operates, how fast things go meanwhile, and what is done to clocks:
    /// times are counted from when it begins to operate.
    pub script: Arc<Script>,
}

impl FleetPlan {
    /// Hosts of all shards together, and the VMs of each.
    pub(crate) fn hosts(&self) -> (usize, usize) {
        let hosts = self.vms.div_ceil(self.vms_per_host).max(LANES);
        (hosts, self.vms_per_host.min(self.vms.div_ceil(hosts)))
    }

    /// Whether all of a script would do something in this fleet.
    ///
    /// # Errors
    /// The first that would not.
    pub fn check(&self, script: &Script) -> Result<(), ScriptError> {
        let (hosts, vms) = self.hosts();
        script.check_in(World::Fleet, |vm| is_in(vm, hosts, vms))
    }
}

/// Whether there is a VM of that name, `vm0-0` to the last.
fn is_in(vm: &VmId, hosts: usize, vms_per_host: usize) -> bool {
    let numbers = vm.as_str().strip_prefix("vm");
    let (host, number) = match numbers.and_then(|numbers| numbers.split_once('-')) {
        Some(numbers) => numbers,
        None => return false,
    };
    // Others read as the same number, such as 01, are names of nobody.
    let below = |text: &str, end| {
        let number = text.parse::<usize>();
        number.is_ok_and(|number| number < end && number.to_string() == text)
    };
    below(host, hosts) && below(number, vms_per_host)
}

/// Why a fleet came to no end.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// A world could not be made.
    #[error("failed to make a world")]
    Make(#[from] MakeError),
    /// A thread could not be started.
    #[error("failed to start a thread")]
    Thread(#[source] std::io::Error),
    /// The simulator has a bug: the panic itself is reported where it happened.
    #[error("shard {0} panicked")]
    Panicked(usize),
}

/// Runs a fleet to its end.
///
/// # Errors
/// When it could not be made; whatever goes wrong in it is in the report.
pub fn run(plan: &FleetPlan) -> Result<Report, FleetError> {
    let began = Instant::now();
    let mut shards = Vec::new();
    let lanes: [Lane; LANES] = Default::default();
    let count = SHARDS.min(plan.hosts().0);
    for number in 0..count {
        let shard = ShardPlan::of(plan, number, count);
        let place = lanes[number % LANES].join(number);
        let thread = thread::Builder::new().name(format!("shard-{number}"));
        let running = thread.spawn(move || Shard::run(&shard, place));
        shards.push(running.map_err(FleetError::Thread)?);
    }
    let mut finished = Vec::new();
    for (number, shard) in shards.into_iter().enumerate() {
        let outcome = shard
            .join()
            .map_err(|_panic| FleetError::Panicked(number))?;
        finished.push(outcome?);
    }
    Ok(Report::of(plan, Shards(finished), began.elapsed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_no_fewer_vms_than_were_asked_for() {
        let made = |vms, vms_per_host| {
            let plan = FleetPlan {
                vms,
                operations: 0,
                seed: 1,
                vms_per_host,
                script: Arc::default(),
            };
            let (hosts, each) = plan.hosts();
            assert!(
                hosts >= LANES && each <= vms_per_host,
                "{hosts} hosts of {each}"
            );
            hosts * each
        };

        assert_eq!((made(1, 250), made(3, 250)), (2, 4));
        assert_eq!((made(10_000, 250), made(60, 15)), (10_000, 60));
        for vms in 1..700 {
            let made = made(vms, 50);
            // Each host has room for one that nobody asked for.
            assert!(
                (vms..vms + vms.div_ceil(50).max(LANES)).contains(&made),
                "{vms}: {made}"
            );
        }
    }

    #[test]
    fn a_vm_is_known_by_its_own_name_alone() {
        let known = |name: &str| is_in(&name.parse().expect("it is a name"), 2, 10);

        for name in ["vm0-0", "vm1-9"] {
            assert!(known(name), "{name}");
        }
        for name in ["vm01-0", "vm1-00", "vm2-0", "vm1-10", "vm1", "host1-0"] {
            assert!(!known(name), "{name}");
        }
    }
}
