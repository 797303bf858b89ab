//! No package that `.deny.toml` bans, none from elsewhere than the registries it names, and no
//! version left open.
//!
//! Like the licences: cargo-deny asks this too, from the same file, but a fresh machine lacks it.
//! What only cargo-deny can answer, because it takes a database, are advisories.

use toml::{Table, Value};

use super::licences::{LOCK_FILE, POLICY_FILE, line_of};
use super::tree::Tree;
use super::violation::{Rule, Violation};
use crate::workspace::Workspace;

const ROOT_MANIFEST: &str = "Cargo.toml";

/// All three rules.
pub(crate) fn check(tree: &Tree, workspace: &Workspace) -> Vec<Violation> {
    let policy = table(tree, POLICY_FILE);
    [
        banned(tree, workspace, &policy),
        foreign(tree, &policy),
        wildcards(tree),
    ]
    .concat()
}

/// One that is no TOML is reported where the licences are read.
fn table(tree: &Tree, path: &str) -> Table {
    tree.text(path)
        .and_then(|text| text.parse().ok())
        .unwrap_or_default()
}

/// The list at `section.key`; a policy without it would forbid nothing, unseen.
fn list<'a>(policy: &'a Table, section: &str, key: &str) -> Result<&'a [Value], Violation> {
    let found = policy.get(section).and_then(|section| section.get(key));
    let found = found.and_then(Value::as_array).map(Vec::as_slice);
    found.ok_or_else(|| {
        let advice = format!("list `{section}.{key}`");
        Violation::new(POLICY_FILE, 1, Rule::Ban, advice)
    })
}

fn banned(tree: &Tree, workspace: &Workspace, policy: &Table) -> Vec<Violation> {
    let entries = match list(policy, "bans", "deny") {
        Ok(entries) => entries,
        Err(violation) => return vec![violation],
    };
    entries
        .iter()
        .flat_map(|entry| {
            let text = |key| entry.get(key).and_then(Value::as_str);
            let (Some(name), Some(reason)) = (text("crate"), text("reason")) else {
                let advice = format!("write {entry} with `crate` and `reason`");
                return vec![Violation::new(POLICY_FILE, 1, Rule::Ban, advice)];
            };
            let packages = workspace.licences.iter();
            packages
                .filter(|package| package.name == name)
                .map(|package| {
                    let line = line_of(tree, name, &package.version);
                    Violation::new(LOCK_FILE, line, Rule::Ban, format!("{name} {reason}"))
                })
                .collect()
        })
        .collect()
}

/// Packages of a registry or a git repository that is not listed. Members have no source.
fn foreign(tree: &Tree, policy: &Table) -> Vec<Violation> {
    let registries = match list(policy, "sources", "allow-registry") {
        Ok(registries) => registries,
        Err(violation) => return vec![violation],
    };
    let registries: Vec<&str> = registries.iter().filter_map(Value::as_str).collect();
    let lock = table(tree, LOCK_FILE);
    let packages = lock.get("package").and_then(Value::as_array);
    let packages = packages.map(Vec::as_slice).unwrap_or_default().iter();
    packages
        .filter_map(|package| {
            let text = |key| package.get(key).and_then(Value::as_str);
            let (name, version, source) = (text("name")?, text("version")?, text("source")?);
            let registry = source.strip_prefix("registry+");
            let is_known = registry.is_some_and(|registry| registries.contains(&registry));
            (!is_known).then(|| {
                let advice = format!("{name} comes from {source}: not in {POLICY_FILE}");
                Violation::new(LOCK_FILE, line_of(tree, name, version), Rule::Ban, advice)
            })
        })
        .collect()
}

/// Versions stand in the root manifest alone, see [`super::manifests`].
fn wildcards(tree: &Tree) -> Vec<Violation> {
    let manifest = table(tree, ROOT_MANIFEST);
    let dependencies = manifest
        .get("workspace")
        .and_then(|workspace| workspace.get("dependencies"))
        .and_then(Value::as_table);
    let open = dependencies.into_iter().flatten().filter(|(_, value)| {
        let version = value.get("version").unwrap_or(value);
        version
            .as_str()
            .is_some_and(|version| version.contains('*'))
    });
    open.map(|(name, _)| {
        let advice = format!("name the version of {name} that we build with");
        Violation::new(ROOT_MANIFEST, 1, Rule::Ban, advice)
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::LicensedPackage;

    const POLICY: &str = "[bans]\ndeny = [{ crate = \"qapi\", reason = \"aborts\" }]\n\
                          [sources]\nallow-registry = [\"https://github.com/us/index\"]\n";

    fn found(name: &str, source: &str) -> Vec<(String, usize, String)> {
        let lock = format!(
            "version = 4\n\n[[package]]\nname = \"{name}\"\nversion = \"1.0.0\"\n\
             source = \"{source}\"\n\n[[package]]\nname = \"hostd\"\nversion = \"0.1.0\"\n"
        );
        let package = LicensedPackage {
            name: name.to_owned(),
            version: "1.0.0".to_owned(),
            licence: None,
        };
        let workspace = Workspace {
            licences: vec![package],
            ..Workspace::default()
        };
        let tree = Tree::of(&[(POLICY_FILE, POLICY), (LOCK_FILE, &lock)]);
        let violations = check(&tree, &workspace).into_iter();
        violations
            .map(|found| (found.path, found.line, found.advice))
            .collect()
    }

    #[test]
    fn a_banned_package_is_found_where_the_lock_file_pins_it() {
        let ours = "registry+https://github.com/us/index";

        assert_eq!(
            found("qapi", ours),
            [(LOCK_FILE.to_owned(), 4, "qapi aborts".to_owned())]
        );
        assert_eq!(found("qapi-spec", ours), []);
    }

    #[test]
    fn a_package_from_another_registry_or_from_git_is_found() {
        for source in [
            "registry+https://github.com/them/index",
            "git+https://github.com/us/index",
        ] {
            assert_eq!(found("a", source).len(), 1, "{source}");
        }
    }

    #[test]
    fn a_version_left_open_is_found() {
        let manifest = "[workspace.dependencies]\na = \"*\"\nb = { version = \"1.*\" }\n\
                        c = \"1.2\"\nd = { path = \"d\" }\n";
        let tree = Tree::of(&[(POLICY_FILE, POLICY), (ROOT_MANIFEST, manifest)]);

        assert_eq!(check(&tree, &Workspace::default()).len(), 2);
    }

    #[test]
    fn a_policy_that_forbids_nothing_is_found() {
        let found = check(&Tree::default(), &Workspace::default());

        let advice: Vec<&str> = found.iter().map(|found| found.advice.as_str()).collect();
        assert_eq!(
            advice,
            ["list `bans.deny`", "list `sources.allow-registry`"]
        );
    }

    #[test]
    fn a_ban_in_a_form_that_is_not_read_is_found() {
        let policy = POLICY.replace("crate =", "name =");

        let found = check(&Tree::of(&[(POLICY_FILE, &policy)]), &Workspace::default());

        assert_eq!(found.len(), 1, "{found:?}");
    }
}
