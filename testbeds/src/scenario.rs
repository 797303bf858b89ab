//! Scenarios: written once, run in every world that can.

use anyhow::{Context, Result, bail};
use futures::future::BoxFuture;

use crate::bed::Bed;
use crate::leak;
use crate::report::report;

/// One behaviour, shown on a bed at rest and leaving it at rest.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Its name, as the test run prints it.
    pub name: &'static str,
    /// What it does; an error is a failure.
    pub run: for<'a> fn(&'a Bed) -> BoxFuture<'a, Result<()>>,
}

/// Scenarios from functions `async fn(&Bed) -> Result<()>`, named after them.
#[macro_export]
macro_rules! scenarios {
    ($($function:ident),* $(,)?) => {
        vec![$($crate::scenario::Scenario {
            name: stringify!($function),
            run: |bed| Box::pin($function(bed)),
        }),*]
    };
}

impl Scenario {
    /// Runs it and looks for leaks. A failure bears the report of the bed, which is then not at
    /// rest and must not be used again.
    ///
    /// # Errors
    /// What went wrong.
    pub async fn run_on(&self, bed: &Bed) -> Result<()> {
        let outcome = match (self.run)(bed).await {
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
    let findings = leak::findings(bed).await.context("looking for leaks")?;
    if !findings.is_empty() {
        bail!("leaks:\n  {}", findings.join("\n  "));
    }
    Ok(())
}
