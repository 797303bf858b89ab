//! Everything that can be judged without booting a guest.
//!
//! All steps run even when one fails: a person wants every complaint of one round, not the first.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::console::{Verdict, say};
use crate::setup::{self, Purpose};
use crate::{process, tidy};

const CARGO_DENY: &str = "cargo-deny";

/// For a few megabytes of git; a firewall that drops packets would keep us for minutes.
const FETCH_SECONDS: &str = "60";

/// One judgement, and how it ended.
struct Step {
    name: &'static str,
    run: fn() -> anyhow::Result<Outcome>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Good,
    Bad,
    /// Could not even start; the text says why.
    Broken(String),
    /// Could not be asked here; the text says what to do about it.
    NotRun(&'static str),
}

const STEPS: &[Step] = &[
    Step {
        name: "fmt",
        run: fmt,
    },
    Step {
        name: "tidy",
        run: || tidy::run().map(Outcome::from),
    },
    Step {
        name: "clippy",
        run: clippy,
    },
    Step {
        name: "clippy without features",
        run: clippy_without_features,
    },
    Step {
        name: "doc",
        run: doc,
    },
    Step {
        name: "deny",
        run: deny,
    },
    Step {
        name: "advisories",
        run: advisories,
    },
];

impl From<Verdict> for Outcome {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Good => Self::Good,
            Verdict::Bad => Self::Bad,
        }
    }
}

/// `cargo xtask check`
pub(crate) fn run() -> anyhow::Result<Verdict> {
    setup::ensure(&[Purpose::Build])?;
    let results: Vec<_> = STEPS.iter().map(timed).collect();
    say("");
    for (step, outcome, time) in &results {
        say(summary_line(step.name, outcome, *time));
    }
    Ok(Verdict::good_if(
        results.iter().all(|(_, outcome, _)| !outcome.is_fault()),
    ))
}

impl Outcome {
    fn is_fault(&self) -> bool {
        match self {
            Self::Bad | Self::Broken(_) => true,
            Self::Good | Self::NotRun(_) => false,
        }
    }
}

fn timed(step: &Step) -> (&Step, Outcome, Duration) {
    say(format_args!("── {}", step.name));
    let start = Instant::now();
    let outcome = attempt(step);
    let time = start.elapsed();
    say(summary_line(step.name, &outcome, time));
    (step, outcome, time)
}

fn attempt(step: &Step) -> Outcome {
    (step.run)().unwrap_or_else(|error| Outcome::Broken(format!("{error:#}")))
}

fn summary_line(name: &str, outcome: &Outcome, time: Duration) -> String {
    let (word, note) = match outcome {
        Outcome::Good => ("ok", ""),
        Outcome::Bad => ("FAILED", ""),
        Outcome::Broken(why) => ("FAILED", why.as_str()),
        Outcome::NotRun(why) => ("not run", *why),
    };
    let line = format!("{word:<8} {:>6.1} s  {name:<24} {note}", time.as_secs_f64());
    line.trim_end().to_owned()
}

fn cargo_step(arguments: &[&str]) -> anyhow::Result<Outcome> {
    let mut cargo = process::cargo()?;
    cargo.args(arguments);
    judge(&mut cargo)
}

fn judge(command: &mut Command) -> anyhow::Result<Outcome> {
    Ok(Verdict::good_if(process::succeeds(command)?).into())
}

fn fmt() -> anyhow::Result<Outcome> {
    cargo_step(&["fmt", "--all", "--check"])
}

/// With libvirt and with failpoints; the next step sees the code that stands there without them.
fn clippy() -> anyhow::Result<Outcome> {
    cargo_step(&[
        "clippy",
        "--quiet",
        "--keep-going",
        "--workspace",
        "--all-targets",
        "--all-features",
        "--",
        "-D",
        "warnings",
    ])
}

/// A host without libvirt must build too, and what is shipped has no failpoints. The workspace
/// stays selected as a whole, because a package alone would get other features of its dependencies
/// and compile them all again.
fn clippy_without_features() -> anyhow::Result<Outcome> {
    let selection = [
        "--workspace",
        "--exclude",
        "hypervisor-libvirt",
        "--no-default-features",
    ];
    let arguments = [
        &["clippy", "--quiet", "--keep-going"],
        &selection[..],
        &["--", "-D", "warnings"],
    ]
    .concat();
    cargo_step(&arguments)
}

fn doc() -> anyhow::Result<Outcome> {
    let mut cargo = process::cargo()?;
    cargo
        .args([
            "doc",
            "--quiet",
            "--keep-going",
            "--workspace",
            "--no-deps",
            "--document-private-items",
        ])
        .env(
            "RUSTDOCFLAGS",
            "-D warnings -D rustdoc::broken_intra_doc_links",
        );
    judge(&mut cargo)
}

/// The second opinion of a program that knows more of licences and of the graph than tidy does.
fn deny() -> anyhow::Result<Outcome> {
    if process::find_program(CARGO_DENY).is_none() {
        return Ok(Outcome::NotRun(
            "no cargo-deny; tidy has checked licences, bans and sources",
        ));
    }
    cargo_step(&["deny", "check", "licenses", "bans", "sources"])
}

/// What has become known of our dependencies since they were chosen. It stands in a git repository
/// on GitHub, which a builder that reaches package registries alone, or a laptop on a train, cannot
/// ask; that is no fault of the change, so it is said and not judged.
fn advisories() -> anyhow::Result<Outcome> {
    if process::find_program(CARGO_DENY).is_none() {
        return Ok(Outcome::NotRun(
            "NOBODY asked for advisories: `cargo install --locked cargo-deny` first",
        ));
    }
    let mut fetch = process::command("timeout")?;
    fetch.args([FETCH_SECONDS, CARGO_DENY, "fetch", "db"]);
    if !process::succeeds(&mut fetch)? {
        return Ok(Outcome::NotRun(
            "NOBODY asked for advisories: their database is out of reach",
        ));
    }
    cargo_step(&["deny", "check", "advisories"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_cannot_start_counts_as_failed() {
        let step = Step {
            name: "broken",
            run: || anyhow::bail!("no such program"),
        };

        assert!(attempt(&step).is_fault());
    }

    #[test]
    fn a_step_that_was_not_run_says_what_to_do() {
        let line = summary_line("deny", &Outcome::NotRun("install it"), Duration::ZERO);

        assert_eq!(
            line,
            "not run     0.0 s  deny                     install it"
        );
    }
}
