//! Every package we link or build with has a licence that `.deny.toml` allows.
//!
//! cargo-deny asks the same and more, but it is a program of its own that a fresh machine lacks;
//! the one question whose answer binds everybody who ships nicferry is asked here every time. Both
//! read the same file, so there is one list.

use spdx::{Expression, Licensee, ParseMode};
use toml::{Table, Value};

use super::tree::Tree;
use super::violation::{Rule, Violation};
use crate::workspace::{LicensedPackage, Workspace};

pub(crate) const POLICY_FILE: &str = ".deny.toml";
pub(crate) const LOCK_FILE: &str = "Cargo.lock";

/// What may be used: by everybody, and by single packages.
#[derive(Debug, Default)]
struct Policy {
    allowed: Vec<String>,
    exceptions: Vec<(String, Vec<String>)>,
}

/// The rule for the whole workspace.
pub(crate) fn check(tree: &Tree, workspace: &Workspace) -> Vec<Violation> {
    let policy = match Policy::read(tree) {
        Ok(policy) => policy,
        Err(violation) => return vec![violation],
    };
    let packages = workspace.licences.iter().filter_map(|package| {
        let fault = policy.fault(package)?;
        let line = line_of(tree, &package.name, &package.version);
        Some(Violation::new(LOCK_FILE, line, Rule::Licence, fault))
    });
    packages.collect()
}

/// Where the lock file pins this package.
pub(crate) fn line_of(tree: &Tree, name: &str, version: &str) -> usize {
    let lock = tree.text(LOCK_FILE).unwrap_or_default();
    let entry = format!("name = \"{name}\"\nversion = \"{version}\"\n");
    lock.find(&entry)
        .map_or(1, |offset| lock[..offset].lines().count() + 1)
}

impl Policy {
    fn read(tree: &Tree) -> Result<Self, Violation> {
        let unreadable = |advice: String| Violation::new(POLICY_FILE, 1, Rule::Licence, advice);
        let text = tree.text(POLICY_FILE).unwrap_or_default();
        let table: Table = text
            .parse()
            .map_err(|error| unreadable(format!("{error}")))?;
        let licences = table.get("licenses");
        let licences =
            licences.ok_or_else(|| unreadable("list the allowed licences".to_owned()))?;
        let exceptions = licences.get("exceptions").and_then(Value::as_array);
        let exceptions = exceptions.map(Vec::as_slice).unwrap_or_default().iter();
        Ok(Self {
            allowed: names(licences),
            exceptions: exceptions
                .filter_map(|entry| Some((entry.get("crate")?.as_str()?.to_owned(), names(entry))))
                .collect(),
        })
    }

    /// What is wrong with the licence of this package, if anything.
    fn fault(&self, package: &LicensedPackage) -> Option<String> {
        let LicensedPackage {
            name,
            version,
            licence,
        } = package;
        let Some(licence) = licence else {
            return Some(format!("{name} {version} names no licence: do without it"));
        };
        let Ok(expression) = Expression::parse_mode(licence, ParseMode::LAX) else {
            return Some(format!(
                "{name} {version}: `{licence}` is no SPDX expression"
            ));
        };
        let own = self
            .exceptions
            .iter()
            .filter(|(exception, _)| exception == name);
        let granted = self
            .allowed
            .iter()
            .chain(own.flat_map(|(_, licences)| licences));
        let granted: Vec<Licensee> = granted
            .filter_map(|name| Licensee::parse_mode(name, ParseMode::LAX).ok())
            .collect();
        let allowed =
            expression.evaluate(|needed| granted.iter().any(|granted| granted.satisfies(needed)));
        (!allowed).then(|| format!("{name} {version} is under {licence}: not in {POLICY_FILE}"))
    }
}

/// The `allow` list of a table.
fn names(table: &Value) -> Vec<String> {
    let names = table
        .get("allow")
        .and_then(Value::as_array)
        .map(Vec::as_slice);
    let names = names.unwrap_or_default().iter();
    names.filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "[licenses]\nallow = [\"MIT\", \"Apache-2.0\", \"Unicode-3.0\"]\n\
                          exceptions = [{ allow = [\"LGPL-2.1\"], crate = \"virt\" }]\n";
    const LOCK: &str = "version = 4\n\n[[package]]\nname = \"virt\"\nversion = \"0.4.3\"\n";

    fn found(name: &str, licence: Option<&str>) -> Vec<Violation> {
        let package = LicensedPackage {
            name: name.to_owned(),
            version: "0.4.3".to_owned(),
            licence: licence.map(str::to_owned),
        };
        let workspace = Workspace {
            licences: vec![package],
            ..Workspace::default()
        };
        check(
            &Tree::of(&[(POLICY_FILE, POLICY), (LOCK_FILE, LOCK)]),
            &workspace,
        )
    }

    #[test]
    fn one_allowed_licence_of_a_choice_is_enough() {
        assert_eq!(found("a", Some("MIT OR GPL-3.0-only")), []);
        assert_eq!(found("a", Some("GPL-3.0-only/MIT")), []);
        assert_eq!(found("a", Some("(MIT OR Apache-2.0) AND Unicode-3.0")), []);
    }

    #[test]
    fn each_licence_of_a_conjunction_must_be_allowed() {
        assert_eq!(
            found("a", Some("MIT AND GPL-3.0-only"))[0].rule,
            Rule::Licence
        );
    }

    #[test]
    fn an_exception_is_for_the_named_package_alone() {
        assert_eq!(found("virt", Some("LGPL-2.1")), []);
        assert_eq!(found("other", Some("LGPL-2.1")).len(), 1);
    }

    #[test]
    fn no_licence_and_a_licence_nobody_can_read_are_found() {
        assert_eq!(found("a", None).len(), 1);
        assert_eq!(found("a", Some("ask the author")).len(), 1);
    }

    #[test]
    fn the_package_is_shown_where_the_lock_file_pins_it() {
        assert_eq!(found("virt", Some("GPL-2.0-only"))[0].line, 4);
    }

    #[test]
    fn a_missing_policy_is_found() {
        assert_eq!(
            check(&Tree::default(), &Workspace::default())[0].path,
            POLICY_FILE
        );
    }
}
