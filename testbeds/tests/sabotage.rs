//! Whether the net catches: hostd is broken on purpose in each way there is, and the same seeds
//! that find nothing wrong with the whole one have to find something.
//!
//! ```text
//!   hostd, whole ── seeds ──► nothing
//!   hostd that leaks ports, forgets tokens, … ── the same seeds ──► caught, and by what
//! ```
//!
//! Nothing here is made for one way to be wrong: a way that is not caught is a hole in the net.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hostd::sabotage::{Sabotage, set};
use libtest_mimic::{Arguments, Failed, Trial};
use simulator::soak::{Report, Run};

/// The seeds. So few, because each is a whole life of a host.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=32;

/// Seeds that have to find something each time: one of them alone does so by luck.
const ENOUGH: usize = 2;

/// What caught what.
type Catches = Arc<Mutex<BTreeMap<String, String>>>;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let catches = Catches::default();
    let mut trials = vec![Trial::test("whole_hostd_is_not_caught", whole)];
    for sabotage in Sabotage::ALL {
        let catches = catches.clone();
        let name = format!("caught::{}", snake(sabotage));
        trials.push(Trial::test(name, move || broken(sabotage, &catches)));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    for (sabotage, catch) in lock(&catches).iter() {
        // A reader who has gone away is no reason to fail.
        writeln!(std::io::stdout(), "{sabotage:<28} {catch}").unwrap_or_default();
    }
    conclusion.exit_code()
}

fn whole() -> Result<(), Failed> {
    match breaches(None, 1)?.first() {
        None => Ok(()),
        Some(report) => Err(report.to_string().into()),
    }
}

fn broken(sabotage: Sabotage, catches: &Catches) -> Result<(), Failed> {
    let reports = breaches(Some(sabotage), ENOUGH)?;
    let seeds: Vec<u64> = reports.iter().map(|report| report.seed).collect();
    if reports.len() < ENOUGH {
        return Err(format!("of seeds {SEEDS:?}, {seeds:?} alone catch {sabotage:?}").into());
    }
    let breach = reports[0].breach.as_ref().ok_or("a breach")?;
    let sentence = breach.sentences.first().cloned().unwrap_or_default();
    let catch = format!("seeds {seeds:?}, by {}: {sentence}", breach.caught);
    lock(catches).insert(format!("{sabotage:?}"), catch);
    Ok(())
}

/// What the first seeds find that find anything, so many of them at most. A world runs on the
/// thread that asks for it, and so does what is wrong in it.
fn breaches(sabotage: Option<Sabotage>, most: usize) -> Result<Vec<Report>, Failed> {
    let mut found = Vec::new();
    for seed in SEEDS {
        set(sabotage);
        let report = Run::of_seed(seed).go();
        set(None);
        let report = report.map_err(|error| format!("seed {seed}: {error}"))?;
        if report.breach.is_some() {
            found.push(report);
        }
        if found.len() == most {
            break;
        }
    }
    Ok(found)
}

/// `SkipUndo` as `skip_undo`.
fn snake(sabotage: Sabotage) -> String {
    let mut name = String::new();
    for letter in format!("{sabotage:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.extend(letter.to_lowercase());
    }
    name
}

fn lock(catches: &Catches) -> MutexGuard<'_, BTreeMap<String, String>> {
    catches.lock().unwrap_or_else(PoisonError::into_inner)
}
