//! Who may depend on whom.
//!
//! ```text
//!   testbeds ──► simulator ──► hostd ──► guest-agent        never the other way
//! ```
//!
//! The rule holds for dev-dependencies and build-dependencies too: a test that needs something
//! further left is a scenario, and scenarios live in `testbeds`. Two more rules follow the edges of
//! what is linked in (normal dependencies, all the way down): the pure crates reach no runtime, no
//! socket, no clock and no randomness; and what the simulator is made of never reaches the logic it
//! judges. Only the program itself puts the real hostd on the stage, as what is judged.

use std::collections::{BTreeMap, VecDeque};

use super::tree::Tree;
use super::violation::{Rule, Violation};
use crate::workspace::{Member, Workspace};

/// The top directories; each may use itself and what stands further right.
const ORDER: [&str; 4] = ["testbeds", "simulator", "hostd", "guest-agent"];

/// Decisions only: time and randomness come in as arguments, actions go out as values.
pub(crate) const PURE: [&str; 6] = [
    "nic-model",
    "agent-protocol",
    "nic-binding",
    "nic-lifecycle",
    "misbehaviour",
    "vswitch",
];

/// What a pure crate may not reach, and what that package would bring in.
const IMPURE: &[(&str, &str)] = &[
    ("async-io", "a runtime"),
    ("async-std", "a runtime"),
    ("chrono", "a clock"),
    ("fastrand", "randomness"),
    ("getrandom", "randomness"),
    ("jiff", "a clock"),
    ("libc", "system calls"),
    ("mio", "a runtime"),
    ("netlink-sys", "sockets"),
    ("nix", "system calls"),
    ("rand", "randomness"),
    ("rustix", "system calls"),
    ("smol", "a runtime"),
    ("socket2", "sockets"),
    ("time", "a clock"),
    ("tokio", "a runtime"),
];

/// An oracle that shares the logic it judges agrees with every one of its faults.
const JUDGED: [&str; 2] = ["nic-lifecycle", "hostd"];

/// The package that runs hostd's own code in its simulated world. It takes hostd as a whole, and
/// none of its decisions by themselves.
const STAGE: &str = "simulator";

/// All three rules.
pub(crate) fn check(tree: &Tree, workspace: &Workspace) -> Vec<Violation> {
    let members = workspace.members.iter();
    members
        .flat_map(|member| {
            [
                direction(tree, workspace, member),
                purity(workspace, member),
                oracle(workspace, member),
            ]
            .concat()
        })
        .collect()
}

fn rank(directory: &str) -> Option<usize> {
    ORDER.iter().position(|known| *known == directory)
}

fn direction(tree: &Tree, workspace: &Workspace, member: &Member) -> Vec<Violation> {
    let Some(own) = rank(member.directory()) else {
        let advice = format!("move it below one of {}", ORDER.join(", "));
        return vec![Violation::new(
            &member.manifest(),
            1,
            Rule::Direction,
            advice,
        )];
    };
    let used = workspace
        .members
        .iter()
        .filter(|other| member.uses.contains(&other.name));
    used.filter(|other| rank(other.directory()).is_some_and(|other| other < own))
        .map(|other| {
            let advice = format!(
                "{} may not use {}: it lies further left",
                member.name, other.folder
            );
            let line = line_naming(tree, &member.manifest(), &other.name);
            Violation::new(&member.manifest(), line, Rule::Direction, advice)
        })
        .collect()
}

/// Where a manifest names a dependency.
fn line_naming(tree: &Tree, manifest: &str, dependency: &str) -> usize {
    let text = tree.text(manifest).unwrap_or_default();
    let found = text.lines().position(|line| {
        let rest = line.strip_prefix(dependency);
        rest.is_some_and(|rest| rest.starts_with(['.', ' ', '=']))
    });
    found.map_or(1, |index| index + 1)
}

fn purity(workspace: &Workspace, member: &Member) -> Vec<Violation> {
    if !PURE.contains(&member.name.as_str()) {
        return Vec::new();
    }
    let is_impure = |name: &str| IMPURE.iter().any(|(impure, _)| *impure == name);
    let reached = reach(workspace, &member.name, |name| {
        PURE.contains(&name) || is_impure(name)
    });
    let impure = IMPURE
        .iter()
        .filter_map(|(name, brings)| Some((reached.get(*name)?, brings)));
    impure
        .map(|(chain, brings)| {
            let advice = format!("a pure crate reaches {brings}: {chain}");
            Violation::new(&member.manifest(), 1, Rule::Purity, advice)
        })
        .collect()
}

fn oracle(workspace: &Workspace, member: &Member) -> Vec<Violation> {
    if member.directory() != "simulator" {
        return Vec::new();
    }
    judged_by(workspace, member)
        .map(|chain| {
            let advice = format!("the simulator must not share what it judges: {chain}");
            Violation::new(&member.manifest(), 1, Rule::Oracle, advice)
        })
        .collect()
}

fn judged_by<'a>(
    workspace: &'a Workspace,
    member: &'a Member,
) -> Box<dyn Iterator<Item = String> + 'a> {
    if member.name == STAGE {
        let decisions = member.uses.iter().filter(|name| *name == JUDGED[0]);
        return Box::new(decisions.map(|name| format!("{STAGE} → {name}")));
    }
    let mut reached = reach(workspace, &member.name, |name| JUDGED.contains(&name));
    let chains = JUDGED.iter().filter_map(move |name| reached.remove(*name));
    Box::new(chains)
}

/// Every package a member links in, by name, with a shortest chain that leads to it. The walk ends
/// at packages that are a finding themselves: what lies behind them is their fault.
fn reach(
    workspace: &Workspace,
    member: &str,
    ends_at: impl Fn(&str) -> bool,
) -> BTreeMap<String, String> {
    let mut chains = BTreeMap::new();
    let start = workspace.key(member).map(|key| (key, member.to_owned()));
    let mut queue: VecDeque<(&str, String)> = start.into_iter().collect();
    while let Some((key, chain)) = queue.pop_front() {
        for next in workspace.normal_edges.get(key).into_iter().flatten() {
            let name = next.split(' ').next().unwrap_or(next);
            if !chains.contains_key(name) {
                let chain = format!("{chain} → {name}");
                chains.insert(name.to_owned(), chain.clone());
                if !ends_at(name) {
                    queue.push_back((next, chain));
                }
            }
        }
    }
    chains
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(folder: &str, uses: &[&str]) -> Member {
        Member {
            name: folder.rsplit('/').next().unwrap_or(folder).to_owned(),
            folder: folder.to_owned(),
            uses: uses.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    fn workspace(members: Vec<Member>, edges: &[(&str, &[&str])]) -> Workspace {
        let key = |name: &str| format!("{name} 1.0.0");
        let edges = edges
            .iter()
            .map(|(from, to)| (key(from), to.iter().map(|to| key(to)).collect()));
        Workspace {
            members,
            normal_edges: edges.collect(),
            licences: Vec::new(),
        }
    }

    fn found(tree: &Tree, workspace: &Workspace) -> Vec<(Rule, usize, String)> {
        let violations = check(tree, workspace).into_iter();
        violations
            .map(|found| (found.rule, found.line, found.advice))
            .collect()
    }

    #[test]
    fn an_edge_to_the_left_is_found_where_the_manifest_names_it() {
        let manifest = "[dependencies]\nport-x.workspace = true\nport.workspace = true\n";
        let tree = Tree::of(&[("guest-agent/Cargo.toml", manifest)]);
        let members = vec![member("guest-agent", &["port"]), member("hostd/port", &[])];

        let found = found(&tree, &workspace(members, &[]));

        assert_eq!(found.len(), 1);
        assert_eq!((found[0].0, found[0].1), (Rule::Direction, 3));
    }

    #[test]
    fn an_edge_to_the_right_or_to_a_neighbour_is_fine() {
        let members = vec![
            member("testbeds", &["hostd", "guest-agent"]),
            member("hostd", &["port", "guest-agent"]),
            member("hostd/port", &[]),
            member("guest-agent", &[]),
        ];

        assert_eq!(found(&Tree::default(), &workspace(members, &[])), []);
    }

    #[test]
    fn a_package_outside_the_four_directories_is_found() {
        let members = vec![member("tools/helper", &[])];

        assert_eq!(
            found(&Tree::default(), &workspace(members, &[]))[0].0,
            Rule::Direction
        );
    }

    #[test]
    fn a_pure_crate_that_reaches_a_runtime_is_found_with_the_chain() {
        let edges: &[(&str, &[&str])] = &[("nic-model", &["helper"]), ("helper", &["tokio"])];
        let members = vec![member("guest-agent/nic-model", &[])];

        let found = found(&Tree::default(), &workspace(members, edges));

        assert_eq!(found[0].0, Rule::Purity);
        assert!(
            found[0].2.ends_with("nic-model → helper → tokio"),
            "{}",
            found[0].2
        );
    }

    #[test]
    fn what_lies_behind_a_finding_is_not_reported_again() {
        let edges: &[(&str, &[&str])] = &[
            ("nic-binding", &["nic-model"]),
            ("nic-model", &["tokio"]),
            ("tokio", &["mio"]),
        ];
        let members = vec![
            member("guest-agent/nic-binding", &[]),
            member("guest-agent/nic-model", &[]),
        ];

        let found = found(&Tree::default(), &workspace(members, edges));

        assert_eq!(found.len(), 1, "{found:?}");
    }

    #[test]
    fn another_crate_may_use_a_runtime() {
        let members = vec![member("guest-agent", &[])];
        let edges: &[(&str, &[&str])] = &[("guest-agent", &["tokio"])];

        assert_eq!(found(&Tree::default(), &workspace(members, edges)), []);
    }

    #[test]
    fn a_simulator_that_shares_the_judged_logic_is_found() {
        let edges: &[(&str, &[&str])] = &[("fake-qemu", &["nic-lifecycle"])];
        let members = vec![member("simulator/fake-qemu", &["nic-lifecycle"])];

        assert_eq!(
            found(&Tree::default(), &workspace(members, edges))[0].0,
            Rule::Oracle
        );
    }

    #[test]
    fn the_stage_takes_hostd_as_a_whole() {
        let edges: &[(&str, &[&str])] = &[("simulator", &["hostd"]), ("hostd", &["nic-lifecycle"])];
        let whole = workspace(vec![member("simulator", &["hostd"])], edges);
        let in_part = workspace(
            vec![member("simulator", &["hostd", "nic-lifecycle"])],
            edges,
        );

        assert_eq!(found(&Tree::default(), &whole), []);
        assert_eq!(found(&Tree::default(), &in_part)[0].0, Rule::Oracle);
    }

    #[test]
    fn packages_that_use_each_other_in_a_circle_end_the_walk() {
        let members = vec![member("hostd/nic-lifecycle", &[])];
        let edges: &[(&str, &[&str])] = &[("nic-lifecycle", &["a"]), ("a", &["nic-lifecycle"])];

        assert_eq!(found(&Tree::default(), &workspace(members, edges)), []);
    }
}
