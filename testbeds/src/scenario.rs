//! Scenarios: written once, run in every world that can.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use futures::future::BoxFuture;

use crate::bed::Bed;
use crate::leak;
use crate::report::report;
use crate::world::WorldKind;

/// What a scenario does; an error is a failure.
type Body = Arc<dyn for<'a> Fn(&'a Bed) -> BoxFuture<'a, Result<()>> + Send + Sync>;

/// One behaviour, shown on a bed at rest and leaving it at rest.
#[derive(Clone)]
pub struct Scenario {
    name: String,
    worlds: &'static [WorldKind],
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
        body: impl for<'a> Fn(&'a Bed) -> BoxFuture<'a, Result<()>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            worlds: &WorldKind::ALL,
            body: Arc::new(body),
        }
    }

    /// Only for these worlds: the others do not have what it is about.
    #[must_use]
    pub fn only_in(self, worlds: &'static [WorldKind]) -> Self {
        Self { worlds, ..self }
    }

    /// Its name, as the test run prints it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is about something that this world has.
    #[must_use]
    pub fn is_for(&self, world: WorldKind) -> bool {
        self.worlds.contains(&world)
    }

    /// Runs it and looks for leaks. A failure bears the report of the bed, which is then not at
    /// rest and must not be used again.
    ///
    /// # Errors
    /// What went wrong.
    pub async fn run_on(&self, bed: &Bed) -> Result<()> {
        let outcome = match (self.body)(bed).await {
            Ok(()) => no_leaks(bed).await,
            failed => failed,
        };
        match outcome {
            Ok(()) => Ok(()),
            Err(error) => bail!("{error:#}\n{}", report(bed).await),
        }
    }
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
