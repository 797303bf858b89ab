//! Scenarios: written once, run in every world that can.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::future::LocalBoxFuture;

use crate::bed::Bed;
use crate::leak;
use crate::report::report;
use crate::world::WorldKind;

/// How often a world is looked at while a scenario is under way.
const WATCH_INTERVAL: Duration = Duration::from_millis(3);

/// What a scenario does; an error is a failure.
type Body = Arc<dyn for<'a> Fn(&'a Bed) -> LocalBoxFuture<'a, Result<()>> + Send + Sync>;

/// One behaviour, shown on a bed at rest and leaving it at rest.
#[derive(Clone)]
pub struct Scenario {
    name: String,
    inexpressible: BTreeMap<WorldKind, &'static str>,
    body: Body,
}

/// Scenarios from functions `async fn(&Bed) -> Result<()>`, named after them.
#[macro_export]
macro_rules! scenarios {
    ($($function:ident),* $(,)?) => {
        vec![$($crate::scenario::Scenario::new(
            stringify!($function),
            |bed| Box::pin($function(bed)),
        )),*]
    };
}

impl Scenario {
    /// For every world.
    pub fn new(
        name: impl Into<String>,
        body: impl for<'a> Fn(&'a Bed) -> LocalBoxFuture<'a, Result<()>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            inexpressible: BTreeMap::new(),
            body: Arc::new(body),
        }
    }

    /// Not for a world that cannot express it, for a reason that people are told.
    #[must_use]
    pub fn not_in(mut self, world: WorldKind, reason: &'static str) -> Self {
        self.inexpressible.insert(world, reason);
        self
    }

    /// Its name, as the test run prints it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Why this world cannot express it; nothing where it can.
    #[must_use]
    pub fn why_not_in(&self, world: WorldKind) -> Option<&'static str> {
        self.inexpressible.get(&world).copied()
    }

    /// Runs it and looks for leaks. A failure bears the report of the bed, which is then not at
    /// rest and must not be used again.
    ///
    /// # Errors
    /// What went wrong.
    pub async fn run_on(&self, bed: &Bed) -> Result<()> {
        let outcome = tokio::select! {
            biased;
            played = (self.body)(bed) => played,
            broken = watch(bed) => Err(broken),
        };
        let outcome = match outcome {
            Ok(()) => no_leaks(bed).await,
            failed => failed,
        };
        match outcome {
            Ok(()) => Ok(()),
            Err(error) => bail!("{error:#}\n{}", report(bed).await),
        }
    }
}

/// Looks again and again at a bed that can be looked at in passing, until something is wrong.
async fn watch(bed: &Bed) -> anyhow::Error {
    while let Some(world) = bed.world().simulated() {
        let found = world.breaches();
        if !found.is_empty() {
            return anyhow::anyhow!("while it was under way:\n  {}", found.join("\n  "));
        }
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
    std::future::pending().await
}

/// Scenarios that a world cannot express, all for one reason.
#[must_use]
pub fn not_in(scenarios: Vec<Scenario>, world: WorldKind, reason: &'static str) -> Vec<Scenario> {
    let without = |scenario: Scenario| scenario.not_in(world, reason);
    scenarios.into_iter().map(without).collect()
}

/// Checks that a scenario has left no NIC behind, and no trace of one.
///
/// # Errors
/// What has been left.
pub async fn no_leaks(bed: &Bed) -> Result<()> {
    let nics = bed.client().nics().await?.nics;
    let left: Vec<String> = nics.iter().map(|nic| nic.id.to_string()).collect();
    if !left.is_empty() {
        bail!("the scenario left NICs behind: {}", left.join(", "));
    }
    let findings = leak::at_rest(bed).await.context("looking for leaks")?;
    if !findings.is_empty() {
        bail!("leaks:\n  {}", findings.join("\n  "));
    }
    Ok(())
}
