//! Builds every test program in one go, and starts one.
//!
//! `cargo test` for one package after the other would give each its own set of features, and so
//! compile the shared libraries again and again: on two cores that costs more than the tests. So
//! cargo builds the whole workspace once and says where the programs are, and we start them with
//! what cargo would have given them: the folder of the package, and the paths of our own programs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Context;
use cargo_metadata::{Artifact, Message};

use crate::{process, setup};

/// One test program may take this long, in seconds. The slowest one builds the guest image and runs
/// some 120 scenarios on guests under TCG, which took 10 to 15 minutes on two loaded cores; what
/// takes this long hangs, and CI must end.
const DEADLINE_SECONDS: &str = "2700";

/// Between the polite signal at the deadline and the last one, in seconds.
const KILL_AFTER_SECONDS: &str = "10";

/// What one build gave.
#[derive(Debug, Default)]
pub(crate) struct Programs {
    pub(crate) tests: Vec<TestProgram>,
    /// Our own programs by name, which tests start.
    binaries: BTreeMap<String, PathBuf>,
}

/// One program full of tests.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TestProgram {
    pub(crate) package: String,
    /// The target's name: a crate's own, or that of a file in its `tests` folder.
    pub(crate) name: String,
    path: PathBuf,
    folder: PathBuf,
}

impl Programs {
    /// Compiles all tests and the programs they start.
    pub(crate) fn build() -> anyhow::Result<Self> {
        Self::built(&["--lib", "--bins", "--tests"])
    }

    /// Compiles the tests that break hostd on purpose. The whole workspace stays selected, or
    /// everything would get other features and be compiled again.
    pub(crate) fn build_sabotaged() -> anyhow::Result<Self> {
        Self::built(&["--test", "sabotage", "--features", "testbeds/sabotage"])
    }

    fn built(what: &[&str]) -> anyhow::Result<Self> {
        let mut cargo = process::cargo()?;
        cargo.args(["build", "--workspace"]).args(what);
        cargo.arg("--message-format=json-render-diagnostics");
        let listing = process::output(&mut cargo)?;
        let mut programs = Self::default();
        for message in Message::parse_stream(listing.as_bytes()) {
            if let Message::CompilerArtifact(artifact) = message.context("cargo's listing")? {
                programs.add(&artifact);
            }
        }
        programs.tests.sort();
        Ok(programs)
    }

    fn add(&mut self, artifact: &Artifact) {
        let Some(executable) = &artifact.executable else {
            return;
        };
        let path = executable.clone().into_std_path_buf();
        let name = artifact.target.name.clone();
        let Some(folder) = artifact.manifest_path.parent() else {
            return;
        };
        if artifact.profile.test {
            let package = folder.file_name().unwrap_or_default().to_owned();
            let folder = folder.to_owned().into_std_path_buf();
            self.tests.push(TestProgram {
                package,
                name,
                path,
                folder,
            });
        } else if artifact.target.is_bin() {
            self.binaries.insert(name, path);
        }
    }

    /// The command that runs one test program, its output on a pipe.
    pub(crate) fn command(&self, test: &TestProgram) -> anyhow::Result<Command> {
        let mut words = runner()?.into_iter();
        let first = words.next().context("the runner is empty")?;
        let mut command = Command::new(first);
        command
            .args(words)
            .arg(&test.path)
            .current_dir(&test.folder);
        command
            .env("CARGO_MANIFEST_DIR", &test.folder)
            .env("CARGO_PKG_NAME", &test.package);
        for (name, path) in &self.binaries {
            command.env(format!("CARGO_BIN_EXE_{name}"), path);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        Ok(command)
    }
}

/// What starts a test program.
fn runner() -> anyhow::Result<Vec<String>> {
    let kill_after = format!("--kill-after={KILL_AFTER_SECONDS}");
    // In the foreground, so that an interrupt at the terminal reaches the tests too.
    let deadline = ["timeout", "--foreground", &kill_after, DEADLINE_SECONDS];
    let mut words = setup::root_words()?;
    words.extend(deadline.map(str::to_owned));
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_program_starts_in_its_package_with_a_deadline() {
        let test = TestProgram {
            package: "port".to_owned(),
            name: "kernel".to_owned(),
            path: PathBuf::from("/build/kernel"),
            folder: PathBuf::from("/sources/hostd/port"),
        };

        let command = Programs::default()
            .command(&test)
            .expect("root, or sudo is there");

        assert_eq!(command.get_current_dir(), Some(test.folder.as_path()));
        assert!(process::shown(&command).ends_with("2700 /build/kernel"));
    }
}
