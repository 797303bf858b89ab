//! Orders to a simulated world, given at their times: nobody else could give any while virtual time
//! passes.
//!
//! ```text
//!   script ── rules ──► Rulebook
//!          ── paces ──► guests, now and in every life to come
//!          ── cues  ──► Director: waits for the next one's time, gives it to the VMs it is for
//! ```

use fake_guest::kernel::KernelSettings;
use misbehaviour::{ClockOrder, Cue, CueOrder, RulebookError, Script};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::stage::Stage;
use super::vm::SimVm;

/// Gives orders for as long as it is held.
#[derive(Debug)]
pub struct Director {
    /// The VMs that are directed, and how their kernels were before.
    before: Vec<(SimVm, KernelSettings)>,
    _cues: JoinSet<()>,
}

impl Director {
    /// Has VMs follow a script from now on; times are counted from now.
    ///
    /// # Errors
    /// The first rule that cannot be followed.
    pub fn begin(
        script: &Script,
        stage: &Stage,
        vms: impl IntoIterator<Item = SimVm>,
    ) -> Result<Self, RulebookError> {
        for rule in &script.rules {
            stage.rules().add(rule.clone())?;
        }
        let orders = script.cues();
        let is_directed = !(orders.is_empty() && script.paces.is_empty());
        let vms: Vec<SimVm> = vms.into_iter().filter(|_| is_directed).collect();
        let before = vms.iter().map(|vm| (vm.clone(), vm.kernel())).collect();
        for pace in &script.paces {
            let meant = |vm: &&SimVm| pace.vm.as_ref().is_none_or(|id| *id == **vm.id());
            for vm in vms.iter().filter(meant) {
                vm.set_pace(pace.transition, pace.pace);
            }
        }
        let mut cues = JoinSet::new();
        if !orders.is_empty() {
            cues.spawn(give(orders, vms, stage.clone()));
        }
        Ok(Self {
            before,
            _cues: cues,
        })
    }

    /// Everything goes as it did before, and what has waited waits no longer. Rules stay.
    pub fn end(self) {
        for (vm, kernel) in self.before {
            vm.set_kernel(kernel);
            vm.follow(CueOrder::Clock(ClockOrder::Run));
            vm.hurry();
        }
    }
}

async fn give(orders: Vec<Cue>, vms: Vec<SimVm>, stage: Stage) {
    let began = Instant::now();
    for cue in orders {
        sleep_until(began + cue.at.0).await;
        let order = format!("{:?}", cue.order);
        stage.note("director", "order", order.as_bytes());
        for vm in vms.iter().filter(|vm| cue.is_for(vm.id())) {
            vm.follow(cue.order);
        }
    }
}
