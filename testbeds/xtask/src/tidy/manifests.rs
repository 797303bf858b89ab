//! What every package's `Cargo.toml` and every `.clippy.toml` must say.
//!
//! One place for versions and lints, the root manifest: two versions of one library, or one crate
//! with softer lints, would be a decision nobody took.

use std::collections::BTreeSet;

use toml::{Table, Value};

use super::dependencies::PURE;
use super::tree::Tree;
use super::violation::{Rule, Violation};
use crate::workspace::{Member, Workspace};

const CLIPPY_FILE: &str = ".clippy.toml";

/// What the clippy file of every pure crate bans, on top of the shared part: the ways by which a
/// fact could come in or an action go out. The files list more, down to the single function, and
/// list the same.
const PURE_BANS: [(&str, &[&str]); 2] = [
    (
        "disallowed-methods",
        &[
            "std::env::var",
            "std::fs::read",
            "std::fs::write",
            "std::net::ToSocketAddrs::to_socket_addrs",
            "std::process::exit",
            "std::thread::sleep",
            "std::thread::spawn",
            "std::time::Instant::now",
            "std::time::SystemTime::now",
        ],
    ),
    (
        "disallowed-types",
        &[
            "std::collections::HashMap",
            "std::collections::HashSet",
            "std::fs::File",
            "std::net::TcpListener",
            "std::net::TcpStream",
            "std::net::UdpSocket",
            "std::os::unix::net::UnixDatagram",
            "std::os::unix::net::UnixListener",
            "std::os::unix::net::UnixStream",
            "std::process::Command",
        ],
    ),
];

/// All rules about manifests and clippy files.
pub(crate) fn check(tree: &Tree, workspace: &Workspace) -> Vec<Violation> {
    let members = workspace
        .members
        .iter()
        .flat_map(|member| of_member(tree, workspace, member));
    members.chain(shared_clippy_settings(tree)).collect()
}

fn of_member(tree: &Tree, workspace: &Workspace, member: &Member) -> Vec<Violation> {
    let manifest = table(tree, &member.manifest());
    let mut violations = versions(member, &manifest);
    violations.extend(folder_name(member));
    violations.extend(lints(member, &manifest));
    if PURE.contains(&member.name.as_str()) {
        violations.extend(pure_bans(tree, workspace, member));
    }
    violations
}

/// Cargo has parsed every manifest before us, so one that is no TOML cannot come this far.
fn table(tree: &Tree, path: &str) -> Table {
    tree.text(path)
        .and_then(|text| text.parse().ok())
        .unwrap_or_default()
}

fn folder_name(member: &Member) -> Option<Violation> {
    (member.name != member.last_folder()).then(|| {
        let advice = format!(
            "call the package `{}`, like its folder",
            member.last_folder()
        );
        Violation::new(&member.manifest(), 1, Rule::FolderName, advice)
    })
}

fn lints(member: &Member, manifest: &Table) -> Option<Violation> {
    let inherited = manifest.get("lints").is_some_and(inherits);
    (!inherited).then(|| {
        let advice = "add `[lints]` with `workspace = true`";
        Violation::new(&member.manifest(), 1, Rule::Lints, advice)
    })
}

fn inherits(value: &Value) -> bool {
    value.get("workspace").and_then(Value::as_bool) == Some(true)
}

fn versions(member: &Member, manifest: &Table) -> Vec<Violation> {
    let package = manifest
        .get("package")
        .and_then(|package| package.get("version"));
    let own = package
        .filter(|version| !inherits(version))
        .map(|_| "version".to_owned());
    let own_dependencies = dependency_tables(manifest)
        .into_iter()
        .flat_map(|dependencies| {
            dependencies
                .iter()
                .filter(|(_, value)| !inherits(value))
                .map(|(name, _)| name.clone())
        });
    let names = own.into_iter().chain(own_dependencies);
    names
        .map(|name| {
            let advice = format!("`{name}.workspace = true`, and the version in the root manifest");
            Violation::new(&member.manifest(), 1, Rule::Versions, advice)
        })
        .collect()
}

/// The dependencies of all kinds, those of single platforms included.
fn dependency_tables(manifest: &Table) -> Vec<&Table> {
    let platforms = manifest.get("target").and_then(Value::as_table);
    let platforms = platforms
        .into_iter()
        .flat_map(Table::values)
        .filter_map(Value::as_table);
    let kinds = ["dependencies", "dev-dependencies", "build-dependencies"];
    std::iter::once(manifest)
        .chain(platforms)
        .flat_map(|table| kinds.iter().filter_map(|kind| table.get(*kind)?.as_table()))
        .collect()
}

/// Clippy takes the nearest file and merges nothing, so every other one repeats the root's.
fn shared_clippy_settings(tree: &Tree) -> Vec<Violation> {
    let shared = table(tree, CLIPPY_FILE);
    let below_root = format!("/{CLIPPY_FILE}");
    let files = tree
        .texts()
        .map(|(path, _)| path)
        .filter(|path| path.ends_with(&below_root));
    files
        .flat_map(|path| {
            let own = table(tree, path);
            let differing = shared
                .iter()
                .filter(|(key, value)| own.get(*key) != Some(value));
            let lines = differing.map(|(key, value)| format!("`{key} = {value}`"));
            lines.collect::<Vec<_>>().into_iter().map(move |line| {
                let advice = format!("repeat {line} of the root file: clippy does not merge");
                Violation::new(path, 1, Rule::ClippyFile, advice)
            })
        })
        .collect()
}

fn pure_bans(tree: &Tree, workspace: &Workspace, member: &Member) -> Vec<Violation> {
    let pure = workspace
        .members
        .iter()
        .filter(|other| PURE.contains(&other.name.as_str()));
    let files: Vec<Table> = pure.map(|other| table(tree, &clippy_file(other))).collect();
    let path = clippy_file(member);
    let own = table(tree, &path);
    let missing = PURE_BANS.iter().flat_map(|(key, required)| {
        let of_all = files.iter().flat_map(|file| banned_paths(file, key));
        let mut needed: BTreeSet<String> = of_all.collect();
        needed.extend(required.iter().map(|ban| (*ban).to_owned()));
        let banned: BTreeSet<String> = banned_paths(&own, key).into_iter().collect();
        &needed - &banned
    });
    missing
        .map(|ban| {
            let advice = format!("a pure crate bans `{ban}`");
            Violation::new(&path, 1, Rule::ClippyFile, advice)
        })
        .collect()
}

fn clippy_file(member: &Member) -> String {
    format!("{}/{CLIPPY_FILE}", member.folder)
}

fn banned_paths(own: &Table, key: &str) -> Vec<String> {
    let entries = own
        .get(key)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let paths = entries
        .iter()
        .filter_map(|entry| entry.get("path").unwrap_or(entry).as_str());
    paths.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[package]\nname = \"port\"\nversion.workspace = true\n\
                        [dependencies]\nserde.workspace = true\n\
                        toml = { workspace = true, optional = true }\n\
                        [lints]\nworkspace = true\n";

    fn member(name: &str, folder: &str) -> Member {
        Member {
            name: name.to_owned(),
            folder: folder.to_owned(),
            uses: BTreeSet::new(),
        }
    }

    fn found_in(members: Vec<Member>, files: &[(&str, &str)]) -> Vec<(Rule, String)> {
        let workspace = Workspace {
            members,
            ..Workspace::default()
        };
        let violations = check(&Tree::of(files), &workspace).into_iter();
        violations.map(|found| (found.rule, found.advice)).collect()
    }

    fn found(name: &str, folder: &str, files: &[(&str, &str)]) -> Vec<(Rule, String)> {
        found_in(vec![member(name, folder)], files)
    }

    /// A clippy file with all that is required but `left_out`, in either form, and `more`.
    fn bans(left_out: &str, more: &str) -> String {
        let lines = PURE_BANS.iter().map(|(key, required)| {
            let required = required.iter().filter(|ban| **ban != left_out);
            let entries = required.enumerate().map(|(index, ban)| match index % 2 {
                0 => format!("\"{ban}\""),
                _ => format!("{{ path = \"{ban}\", reason = \"why\" }}"),
            });
            let entries: Vec<String> = entries.collect();
            format!("{key} = [{}, \"{more}\"]\n", entries.join(", "))
        });
        lines.collect()
    }

    #[test]
    fn a_manifest_that_inherits_everything_is_fine() {
        assert_eq!(
            found("port", "hostd/port", &[("hostd/port/Cargo.toml", GOOD)]),
            []
        );
    }

    #[test]
    fn a_package_called_unlike_its_folder_is_found() {
        let found = found("ports", "hostd/port", &[("hostd/port/Cargo.toml", GOOD)]);

        assert_eq!(found[0].0, Rule::FolderName);
    }

    #[test]
    fn a_package_with_its_own_lints_is_found() {
        let manifest = GOOD.replace(
            "[lints]\nworkspace = true",
            "[lints.rust]\nunsafe_code = \"warn\"",
        );

        assert_eq!(
            found(
                "port",
                "hostd/port",
                &[("hostd/port/Cargo.toml", &manifest)]
            )[0]
            .0,
            Rule::Lints
        );
    }

    #[test]
    fn a_version_outside_the_root_is_found_wherever_it_hides() {
        let manifest = format!(
            "{}[dev-dependencies]\na = \"1\"\n[build-dependencies]\nb = {{ path = \"../b\" }}\n\
             [target.'cfg(unix)'.dependencies]\nc = {{ version = \"1\" }}\n",
            GOOD.replace("version.workspace = true", "version = \"2.0.0\"")
        );

        let found = found(
            "port",
            "hostd/port",
            &[("hostd/port/Cargo.toml", &manifest)],
        );

        let names: Vec<_> = found
            .iter()
            .map(|(_, advice)| advice.split('.').next())
            .collect();
        assert_eq!(
            names,
            [Some("`version"), Some("`a"), Some("`b"), Some("`c")]
        );
    }

    #[test]
    fn a_clippy_file_that_forgets_or_changes_the_shared_part_is_found() {
        let files = [
            ("hostd/port/Cargo.toml", GOOD),
            (
                ".clippy.toml",
                "too-many-lines-threshold = 70\nallow-dbg-in-tests = false\n",
            ),
            (
                "hostd/port/.clippy.toml",
                "too-many-lines-threshold = 900\n",
            ),
        ];

        let found = found("port", "hostd/port", &files);

        assert_eq!(found.len(), 2);
        assert!(found.iter().all(|(rule, _)| *rule == Rule::ClippyFile));
    }

    #[test]
    fn a_pure_crate_without_a_clippy_file_lacks_all_bans() {
        let manifest = GOOD.replace("port", "nic-model");
        let path = "guest-agent/nic-model";

        let found = found(
            "nic-model",
            path,
            &[("guest-agent/nic-model/Cargo.toml", &manifest)],
        );

        let required: usize = PURE_BANS.iter().map(|(_, required)| required.len()).sum();
        assert_eq!(found.len(), required, "{found:?}");
    }

    #[test]
    fn a_pure_crate_that_may_open_a_socket_is_found() {
        let manifest = GOOD.replace("port", "nic-model");
        let clippy = bans("std::net::TcpStream", "other");
        let files = [
            ("guest-agent/nic-model/Cargo.toml", manifest.as_str()),
            ("guest-agent/nic-model/.clippy.toml", &clippy),
        ];

        assert_eq!(
            found("nic-model", "guest-agent/nic-model", &files),
            [(
                Rule::ClippyFile,
                "a pure crate bans `std::net::TcpStream`".to_owned()
            )]
        );
    }

    #[test]
    fn a_pure_crate_may_ban_more_and_in_either_form() {
        let manifest = GOOD.replace("port", "nic-model");
        let clippy = bans("", "std::fs::copy");
        let files = [
            ("guest-agent/nic-model/Cargo.toml", manifest.as_str()),
            ("guest-agent/nic-model/.clippy.toml", &clippy),
        ];

        assert_eq!(found("nic-model", "guest-agent/nic-model", &files), []);
    }

    #[test]
    fn what_one_pure_crate_bans_all_of_them_ban() {
        let (more, fewer) = (bans("", "std::fs::copy"), bans("", "std::fs::rename"));
        let files = [
            ("a/nic-model/Cargo.toml", GOOD),
            ("a/nic-model/.clippy.toml", &more),
            ("a/nic-binding/Cargo.toml", GOOD),
            ("a/nic-binding/.clippy.toml", &fewer),
        ];
        let members = ["nic-model", "nic-binding"].map(|name| member(name, &format!("a/{name}")));

        let found = found_in(members.to_vec(), &files);

        let advice: Vec<&str> = found.iter().map(|(_, advice)| advice.as_str()).collect();
        let [rename, copy] =
            ["rename", "copy"].map(|it| format!("a pure crate bans `std::fs::{it}`"));
        assert_eq!(advice, [&rename, &rename, &copy, &copy]);
    }
}
