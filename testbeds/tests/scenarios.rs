//! Every scenario in every world: `qemu::attach_static_v4_v6`, `libvirt::attach_static_v4_v6`, …
//!
//! ```text
//!   cargo test -p testbeds --test scenarios            all
//!   … -- qemu::                                        one world
//!   … -- --list                                        what there is
//!   … -- --list-inexpressible                          what a world has no words for, and why
//!   … -- --list-faults                                 where each fault is met
//! ```
//!
//! A world and all that is in it belong to one thread; trials hand their scenario to it:
//!
//! ```text
//!   trial ── scenario ──► thread of its world: a bed, kept until a scenario fails on it
//!     ◄──── outcome ─────
//! ```
//!
//! One at a time unless `--test-threads` says otherwise: guests are emulated, and a machine that is
//! overloaded shows nothing but timeouts.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::Write;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use libtest_mimic::{Arguments, Failed, Trial};
use testbeds::bed::Bed;
use testbeds::scenario::Scenario;
use testbeds::site::Foundation;
use testbeds::world::{SEED_VARIABLE, WorldKind};
use tokio::runtime::Runtime;

mod scenario {
    pub(crate) mod agent_crashes;
    pub(crate) mod attach;
    pub(crate) mod containers;
    pub(crate) mod crashes;
    pub(crate) mod drift;
    pub(crate) mod fault;
    pub(crate) mod faults_agent;
    pub(crate) mod faults_guest;
    pub(crate) mod faults_host;
    pub(crate) mod faults_qmp;
    pub(crate) mod guests;
    pub(crate) mod leaks;
    pub(crate) mod limits;
    pub(crate) mod matrix;
    mod matrix_causes;
    mod matrix_injections;
    pub(crate) mod names;
    pub(crate) mod native;
    pub(crate) mod operator;
    pub(crate) mod paces;
    pub(crate) mod ports;
    pub(crate) mod rates;
    pub(crate) mod usable;
}

/// In this order a world runs them: first what everything else rests on.
fn scenarios() -> Vec<Scenario> {
    use scenario::{
        agent_crashes, attach, containers, crashes, drift, faults_agent, faults_guest, faults_host,
        faults_qmp, guests, leaks, limits, names, native, operator, paces, ports, rates,
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
        faults_qmp::scenarios(),
        faults_guest::scenarios(),
        faults_agent::scenarios(),
        faults_host::scenarios(),
        names::scenarios(),
        ports::scenarios(),
        paces::scenarios(),
    ]
    .concat()
}

/// What trials share: the foundation, and the thread of each world from the first trial on that
/// needs it.
#[derive(Default)]
struct Stage {
    foundation: OnceLock<Arc<Foundation>>,
    worlds: Mutex<BTreeMap<WorldKind, WorldThread>>,
}

/// A scenario, and where its outcome is awaited.
type Task = (Scenario, mpsc::Sender<Result<(), String>>);

/// Plays scenarios of one world until nobody has any more.
struct WorldThread {
    tasks: Option<mpsc::Sender<Task>>,
    thread: Option<JoinHandle<()>>,
}

impl WorldThread {
    fn start(kind: WorldKind, foundation: Arc<Foundation>) -> Result<Self> {
        let (tasks, waiting) = mpsc::channel();
        let play = move || play(kind, &foundation, &waiting);
        let thread = std::thread::Builder::new().name(kind.to_string());
        Ok(Self {
            tasks: Some(tasks),
            thread: Some(thread.spawn(play)?),
        })
    }
}

impl Drop for WorldThread {
    /// Beds remove their namespaces and processes when they are dropped, which the process has to
    /// wait for.
    fn drop(&mut self) {
        drop(self.tasks.take());
        if let Some(thread) = self.thread.take() {
            // What it panicked of has failed its trial.
            drop(thread.join());
        }
    }
}

fn play(kind: WorldKind, foundation: &Arc<Foundation>, tasks: &mpsc::Receiver<Task>) {
    let mut kept = None;
    while let Ok((scenario, outcome)) = tasks.recv() {
        let played = match kind {
            WorldKind::Sim => play_anew(foundation, &scenario),
            WorldKind::Netns | WorldKind::Qemu | WorldKind::Libvirt => {
                play_on(&mut kept, kind, foundation, &scenario)
            }
        };
        // Whoever has gone away does not want to know.
        drop(outcome.send(played.map_err(|error| format!("{error:#}"))));
    }
}

/// In virtual time a world costs nothing, and one that begins with its scenario is the same again
/// with the same seed.
fn play_anew(foundation: &Arc<Foundation>, scenario: &Scenario) -> Result<()> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build()?;
    let played = runtime.block_on(async {
        let bed = Bed::make(WorldKind::Sim, Arc::clone(foundation)).await?;
        scenario.run_on(&bed).await
    });
    played.with_context(|| {
        let seed = testbeds::world::seed().unwrap_or_default();
        let name = scenario.name();
        format!(
            "again: {SEED_VARIABLE}={seed} cargo test -p testbeds --test scenarios -- \
             --exact sim::{name}"
        )
    })
}

/// A bed of real guests is kept until a scenario fails on it.
fn play_on(
    kept: &mut Option<(Bed, Runtime)>,
    kind: WorldKind,
    foundation: &Arc<Foundation>,
    scenario: &Scenario,
) -> Result<()> {
    let (bed, runtime) = match kept.take() {
        Some(kept) => kept,
        None => {
            let runtime = Runtime::new()?;
            let bed = runtime.block_on(Bed::make(kind, Arc::clone(foundation)));
            (
                bed.with_context(|| format!("making the world {kind}"))?,
                runtime,
            )
        }
    };
    runtime.block_on(scenario.run_on(&bed))?;
    *kept = Some((bed, runtime));
    Ok(())
}

impl Stage {
    /// Runs a scenario on the bed of its world.
    fn run(&self, kind: WorldKind, scenario: &Scenario) -> Result<(), String> {
        let foundation = self.foundation().map_err(|error| format!("{error:#}"))?;
        let (tell, told) = mpsc::channel();
        let tasks = self.tasks(kind, foundation);
        let tasks = tasks.map_err(|error| format!("{error:#}"))?;
        // A thread that is gone is noticed below.
        drop(tasks.send((scenario.clone(), tell)));
        told.recv().unwrap_or_else(|_| {
            self.worlds().remove(&kind);
            Err("the scenario has panicked".to_owned())
        })
    }

    fn worlds(&self) -> MutexGuard<'_, BTreeMap<WorldKind, WorldThread>> {
        self.worlds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tasks(&self, kind: WorldKind, foundation: Arc<Foundation>) -> Result<mpsc::Sender<Task>> {
        let mut worlds = self.worlds();
        let world = match worlds.entry(kind) {
            Entry::Occupied(running) => running.into_mut(),
            Entry::Vacant(vacant) => vacant.insert(WorldThread::start(kind, foundation)?),
        };
        let tasks = world.tasks.clone();
        tasks.context("the stage is being cleared")
    }

    fn foundation(&self) -> Result<Arc<Foundation>> {
        if let Some(foundation) = self.foundation.get() {
            return Ok(Arc::clone(foundation));
        }
        let laid = Foundation::lay()?;
        Ok(Arc::clone(self.foundation.get_or_init(|| laid)))
    }
}

fn trial(stage: &Arc<Stage>, kind: WorldKind, scenario: Scenario) -> Trial {
    let name = format!("{kind}::{}", scenario.name());
    match kind.runs_here() {
        Ok(()) => {
            let stage = Arc::clone(stage);
            Trial::test(name, move || {
                stage.run(kind, &scenario).map_err(Failed::from)
            })
        }
        Err(why) => Trial::test(name, || Ok(()))
            .with_kind(format!("skipped: {why}"))
            .with_ignored_flag(true),
    }
}

/// Fails where a world is said to have no words for a scenario, and nobody learns why.
fn inexpressible_scenarios_say_why() -> Result<(), Failed> {
    for scenario in scenarios() {
        for kind in WorldKind::ALL {
            let why = scenario.why_not_in(kind);
            if why.is_some_and(|why| why.split(' ').count() < 3) {
                let name = scenario.name();
                return Err(format!("{name} is not in {kind} and does not say why").into());
            }
        }
        if WorldKind::ALL
            .iter()
            .all(|kind| scenario.why_not_in(*kind).is_some())
        {
            return Err(format!("{} runs in no world", scenario.name()).into());
        }
    }
    Ok(())
}

fn list_inexpressible() -> Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    for kind in WorldKind::ALL {
        for scenario in scenarios() {
            if let Some(why) = scenario.why_not_in(kind) {
                writeln!(out, "{kind}::{}: {why}", scenario.name())?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn main() -> Result<ExitCode> {
    if std::env::args().any(|argument| argument == "--list-inexpressible") {
        return list_inexpressible();
    }
    if std::env::args().any(|argument| argument == "--list-faults") {
        write!(std::io::stdout().lock(), "{}", scenario::matrix::listed())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = arguments.test_threads.or(Some(1));
    let stage = Arc::new(Stage::default());
    let name = "inexpressible_scenarios_say_why";
    let mut trials = vec![Trial::test(name, inexpressible_scenarios_say_why)];
    trials.push(Trial::test("every_fault_is_met_where_it_is_said", || {
        let met = scenario::matrix::check(&scenarios());
        met.map_err(|error| Failed::from(format!("{error:#}")))
    }));
    for kind in WorldKind::ALL {
        let here = scenarios()
            .into_iter()
            .filter(|scenario| scenario.why_not_in(kind).is_none());
        trials.extend(here.map(|scenario| trial(&stage, kind, scenario)));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    // Dropped here, not leaked by an exit: beds remove their namespaces and processes.
    drop(stage);
    Ok(conclusion.exit_code())
}
