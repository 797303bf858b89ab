//! Counts tests from what libtest (and libtest-mimic, which prints the same) says.
//!
//! Counted are the result lines of whole programs, `test result: ok. 3 passed; 0 failed; …`: they
//! are stable and complete. Single lines, `test qemu::attach ... ignored`, only tell which worlds
//! ran.

use std::collections::BTreeSet;

/// The count of one run, over all its programs.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
    /// Worlds (first part of a test's name) of which something ran to its end.
    ran: BTreeSet<String>,
    /// Tests that did not run, by full name.
    not_run: BTreeSet<String>,
    broken: Vec<String>,
}

impl Tally {
    /// Takes one line of output.
    pub(crate) fn line(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            self.passed += number_before(result, " passed");
            self.failed += number_before(result, " failed");
            self.skipped += number_before(result, " ignored");
        } else if let Some((name, outcome)) = single_test(line) {
            self.single(name, outcome);
        }
    }

    fn single(&mut self, name: &str, outcome: &str) {
        let is_unit_test = name.contains("::tests::");
        if is_unit_test {
            // A module of the harness may be called like the world it implements.
        } else if outcome.starts_with("ignored") {
            self.not_run.insert(name.to_owned());
        } else if let Some((world, _)) = name.split_once("::") {
            self.ran.insert(world.to_owned());
        }
    }

    /// Records what no result line shows, as one failure.
    pub(crate) fn broken(&mut self, complaint: String) {
        self.failed += 1;
        self.broken.push(complaint);
    }

    /// A run in which nothing ran proves nothing.
    pub(crate) fn expect_something(&mut self) {
        if self.passed + self.failed == 0 {
            self.broken("no test ran".to_owned());
        }
    }

    /// Every scenario of these worlds must have run, and at least one.
    pub(crate) fn expect_worlds(&mut self, worlds: &[&str]) {
        for world in worlds {
            let prefix = format!("{world}::");
            let skipped = self
                .not_run
                .iter()
                .filter(|name| name.starts_with(&prefix))
                .count();
            if skipped > 0 {
                self.broken(format!(
                    "{skipped} scenarios of world `{world}` were skipped in CI"
                ));
            } else if !self.ran.contains(*world) {
                self.broken(format!("no scenario ran in world `{world}` in CI"));
            }
        }
    }

    pub(crate) fn failed(&self) -> u64 {
        self.failed
    }

    pub(crate) fn is_good(&self) -> bool {
        self.failed == 0
    }

    pub(crate) fn complaints(&self) -> &[String] {
        &self.broken
    }

    /// The last line of the run; other programs read it.
    pub(crate) fn closing_line(&self) -> String {
        format!(
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// The number in `… 12 passed; …`; zero where there is none.
fn number_before(text: &str, label: &str) -> u64 {
    let before = text
        .split(label)
        .next()
        .filter(|before| before.len() < text.len());
    let word = before.and_then(|before| before.rsplit(' ').next());
    word.and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// Name and outcome of `test NAME ... OUTCOME`. libtest-mimic writes a trial's kind before its
/// name, `test [qemu] NAME`; libtest writes ` - should panic` after it.
fn single_test(line: &str) -> Option<(&str, &str)> {
    let (name, outcome) = line.strip_prefix("test ")?.split_once(" ... ")?;
    let without_kind = name.rsplit("] ").next().unwrap_or(name);
    // Names are aligned behind the longest kind.
    let name = without_kind.split_whitespace().next()?;
    Some((name, outcome))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(lines: &[&str]) -> Tally {
        let mut tally = Tally::default();
        lines.iter().for_each(|line| tally.line(line));
        tally
    }

    const OK: &str = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; \
                      finished in 0.01s";
    const BAD: &str = "test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; \
                       0 filtered out; finished in 1.50s";

    #[test]
    fn the_closing_line_sums_all_programs() {
        let tally = tally(&["running 4 tests", OK, "", "running 12 tests", BAD]);

        assert_eq!(tally.closing_line(), "13 passed, 2 failed, 1 skipped");
        assert!(!tally.is_good());
    }

    #[test]
    fn a_test_that_prints_a_number_is_not_counted() {
        let tally = tally(&["7 passed; 9 failed", "running late", OK]);

        assert_eq!(tally.closing_line(), "3 passed, 0 failed, 1 skipped");
    }

    #[test]
    fn a_run_of_nothing_is_a_failure() {
        let mut tally = tally(&[
            "running 0 tests",
            "test result: ok. 0 passed; 0 failed; 0 ignored",
        ]);

        tally.expect_something();

        assert!(!tally.is_good());
        assert_eq!(tally.complaints(), ["no test ran"]);
    }

    #[test]
    fn a_run_where_all_was_skipped_is_a_failure() {
        let mut tally = tally(&["test result: ok. 0 passed; 0 failed; 5 ignored"]);

        tally.expect_something();

        assert_eq!(tally.closing_line(), "0 passed, 1 failed, 5 skipped");
    }

    #[test]
    fn a_world_that_was_skipped_is_named() {
        let mut tally = tally(&[
            "test           qemu::attach_static    ... ok",
            "test [libvirt] libvirt::attach_static ... ignored, no libvirtd",
            "test           libvirt::detach        ... ok",
        ]);

        tally.expect_worlds(&["qemu", "libvirt"]);

        assert_eq!(
            tally.complaints(),
            ["1 scenarios of world `libvirt` were skipped in CI"]
        );
    }

    #[test]
    fn a_world_without_any_scenario_is_named() {
        let mut tally = tally(&["test qemu::attach_static ... ok"]);

        tally.expect_worlds(&["qemu", "libvirt"]);

        assert_eq!(
            tally.complaints(),
            ["no scenario ran in world `libvirt` in CI"]
        );
    }

    #[test]
    fn a_unit_test_of_the_harness_is_no_scenario() {
        let mut tally = tally(&["test qemu::tests::command_line_is_stable ... ok"]);

        tally.expect_worlds(&["qemu"]);

        assert_eq!(
            tally.complaints(),
            ["no scenario ran in world `qemu` in CI"]
        );
    }

    #[test]
    fn a_failed_scenario_still_shows_that_its_world_ran() {
        let mut tally = tally(&["test qemu::attach_static ... FAILED"]);

        tally.expect_worlds(&["qemu"]);

        assert!(tally.complaints().is_empty());
    }
}
