//! Every scenario in every world: `qemu::attach_static_v4_v6`, `libvirt::attach_static_v4_v6`, …
//!
//! ```text
//!   cargo test -p testbeds --test scenarios            all
//!   … -- qemu::                                        one world
//!   … -- --list                                        what there is
//! ```
//!
//! One at a time unless `--test-threads` says otherwise: guests are emulated, and a machine that is
//! overloaded shows nothing but timeouts.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use libtest_mimic::{Arguments, Failed, Trial};
use testbeds::bed::Bed;
use testbeds::image::host_program;
use testbeds::scenario::Scenario;
use testbeds::site::{DHCP_SERVER, Foundation};
use testbeds::world::WorldKind;
use tokio::runtime::Runtime;
use tokio::sync::Mutex;

mod scenario {
    pub(crate) mod agent_crashes;
    pub(crate) mod attach;
    pub(crate) mod containers;
    pub(crate) mod crashes;
    pub(crate) mod drift;
    pub(crate) mod guests;
    pub(crate) mod leaks;
    pub(crate) mod limits;
    pub(crate) mod native;
    pub(crate) mod operator;
    pub(crate) mod rates;
    pub(crate) mod usable;
}

/// In this order a world runs them: first what everything else rests on.
fn scenarios() -> Vec<Scenario> {
    use scenario::{
        agent_crashes, attach, containers, crashes, drift, guests, leaks, limits, native, operator,
        rates,
    };
    [
        leaks::scenarios(),
        attach::scenarios(),
        operator::scenarios(),
        containers::scenarios(),
        limits::scenarios(),
        rates::scenarios(),
        drift::scenarios(),
        guests::scenarios(),
        native::scenarios(),
        agent_crashes::scenarios(),
        crashes::scenarios(),
    ]
    .concat()
}

/// What trials share: the foundation, and a bed of each world from the first trial that needs it.
struct Stage {
    runtime: Runtime,
    foundation: Mutex<Option<Arc<Foundation>>>,
    beds: BTreeMap<WorldKind, Mutex<Option<Bed>>>,
}

impl Stage {
    fn set() -> Result<Self> {
        let beds = WorldKind::ALL.map(|kind| (kind, Mutex::default()));
        Ok(Self {
            runtime: Runtime::new()?,
            foundation: Mutex::default(),
            beds: beds.into(),
        })
    }

    async fn foundation(&self) -> Result<Arc<Foundation>> {
        let mut foundation = self.foundation.lock().await;
        if let Some(foundation) = foundation.as_ref() {
            return Ok(Arc::clone(foundation));
        }
        let laid = Foundation::lay().await?;
        writeln!(std::io::stderr(), "guests run on {}", laid.accelerator)?;
        Ok(Arc::clone(foundation.insert(laid)))
    }

    /// Runs a scenario on the bed of its world. A bed on which one failed is not used again.
    async fn run(&self, kind: WorldKind, scenario: &Scenario) -> Result<()> {
        let mut slot = self.beds[&kind].lock().await;
        let bed = match slot.take() {
            Some(bed) => bed,
            None => Bed::make(kind, self.foundation().await?)
                .await
                .with_context(|| format!("making the world {kind}"))?,
        };
        scenario.run_on(&bed).await?;
        *slot = Some(bed);
        Ok(())
    }
}

fn trial(stage: &Arc<Stage>, kind: WorldKind, scenario: Scenario) -> Trial {
    let name = format!("{kind}::{}", scenario.name());
    let server = || host_program(DHCP_SERVER).map(drop);
    match kind.runs_here().and_then(|()| server()) {
        Ok(()) => {
            let stage = Arc::clone(stage);
            Trial::test(name, move || {
                let outcome = stage.runtime.block_on(stage.run(kind, &scenario));
                outcome.map_err(|error| Failed::from(format!("{error:#}")))
            })
        }
        Err(why) => Trial::test(name, || Ok(()))
            .with_kind(format!("skipped: {why}"))
            .with_ignored_flag(true),
    }
}

fn main() -> Result<ExitCode> {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = arguments.test_threads.or(Some(1));
    let stage = Arc::new(Stage::set()?);
    let mut trials = Vec::new();
    for kind in WorldKind::ALL {
        let here = scenarios()
            .into_iter()
            .filter(|scenario| scenario.is_for(kind));
        trials.extend(here.map(|scenario| trial(&stage, kind, scenario)));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    // Dropped here, not leaked by an exit: beds remove their namespaces and processes.
    drop(stage);
    Ok(conclusion.exit_code())
}
