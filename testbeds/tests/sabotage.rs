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
    match first_breach(None)? {
        None => Ok(()),
        Some(report) => Err(report.to_string().into()),
    }
}

fn broken(sabotage: Sabotage, catches: &Catches) -> Result<(), Failed> {
    let Some(report) = first_breach(Some(sabotage))? else {
        return Err(format!("{sabotage:?} is not caught by seeds {SEEDS:?}").into());
    };
    let breach = report.breach.ok_or("a breach")?;
    let sentence = breach.sentences.first().cloned().unwrap_or_default();
    let catch = format!("seed {}, by {}: {sentence}", report.seed, breach.caught);
    lock(catches).insert(format!("{sabotage:?}"), catch);
    Ok(())
}

/// What the first seed finds that finds anything. A world runs on the thread that asks for it, and
/// so does what is wrong in it.
fn first_breach(sabotage: Option<Sabotage>) -> Result<Option<Report>, Failed> {
    for seed in SEEDS {
        set(sabotage);
        let report = Run::of_seed(seed).go();
        set(None);
        let report = report.map_err(|error| format!("seed {seed}: {error}"))?;
        if report.breach.is_some() {
            return Ok(Some(report));
        }
    }
    Ok(None)
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
