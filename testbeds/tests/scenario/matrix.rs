//! Every fault that hostd is built against, and where it is shown to withstand it: in scenarios,
//! in tests of one part, or not yet.
//!
//! `--list-faults` prints it; a trial checks that what it names exists.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use testbeds::scenario::Scenario;

/// One fault and where it is met.
pub(super) struct Fault {
    id: &'static str,
    what: &'static str,
    met: &'static [Met],
}

pub(super) enum Met {
    /// By scenarios whose names begin like this.
    Scenario(&'static str),
    /// By a test: its file, from the top of the tree, and its name.
    Test(&'static str, &'static str),
    /// Not yet, for this reason.
    NotYet(&'static str),
}

pub(super) const fn fault(id: &'static str, what: &'static str, met: &'static [Met]) -> Fault {
    Fault { id, what, met }
}

/// By letter what goes wrong with what, by number each way to bring it about.
fn faults() -> impl Iterator<Item = &'static Fault> {
    super::matrix_causes::FAULTS
        .iter()
        .chain(super::matrix_injections::FAULTS)
}

/// Fails where the table names what is not there.
pub(crate) fn check(scenarios: &[Scenario]) -> Result<()> {
    for Fault { id, met, .. } in faults() {
        ensure!(!met.is_empty(), "{id}: nothing is said of it");
        for way in *met {
            match way {
                Met::Scenario(name) => {
                    let mut names = scenarios.iter().map(Scenario::name);
                    ensure!(
                        names.any(|known| known.starts_with(name)),
                        "{id}: there is no scenario {name}"
                    );
                }
                Met::Test(file, name) => {
                    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
                    let text = std::fs::read_to_string(&path);
                    let text = text.with_context(|| format!("{id}: reading {file}"))?;
                    let is_there = text.contains(&format!("fn {name}("));
                    ensure!(is_there, "{id}: there is no test {name} in {file}");
                }
                Met::NotYet(_) => {}
            }
        }
    }
    Ok(())
}

/// One line for each fault.
pub(crate) fn listed() -> String {
    let mut text = String::new();
    for Fault { id, what, met } in faults() {
        let ways = met.iter().map(|way| match way {
            Met::Scenario(name) => (*name).to_owned(),
            Met::Test(file, name) => format!("{name} ({file})"),
            Met::NotYet(reason) => format!("not yet: {reason}"),
        });
        let ways: Vec<String> = ways.collect();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{id:<4}{what}: {}", ways.join(", "));
    }
    text
}
