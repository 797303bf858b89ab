//! The rules of this repository that no compiler and no lint knows.
//!
//! ```text
//!   git ls-files ──► Tree ──┬─► RustSource per .rs file ─► layout, code ─┐
//!                           └─► every file ─► text, documents ───────────┼─► excuses ─► report
//!   cargo metadata ─► Workspace ─► dependencies, manifests, policy ──────┘
//! ```
//!
//! A convention that nobody checks is a wish; so each is a [`Rule`], a pure function
//! from text or metadata to [`Violation`]s, and a test that shows it firing. The few rules that a
//! good reason may break are excused beside the line, see [`excuse`].

mod bans;
mod code;
mod dependencies;
mod documents;
mod excuse;
mod layout;
mod licences;
mod manifests;
mod source;
mod text;
mod tree;
mod violation;

use std::collections::BTreeSet;

use self::source::RustSource;
use self::tree::Tree;
use self::violation::{Rule, Violation};
use crate::console::{Verdict, say};
use crate::workspace::Workspace;

/// `cargo xtask tidy`
pub(crate) fn run() -> anyhow::Result<Verdict> {
    let tree = Tree::load()?;
    let (workspace, (sources, mut violations)) = std::thread::scope(|scope| {
        // cargo takes a fifth of a second to answer; parsing needs no answer of it.
        let workspace = scope.spawn(Workspace::load);
        let sources = source::parse_all(&tree);
        (workspace.join(), sources)
    });
    let workspace = workspace.map_err(|_| anyhow::anyhow!("the thread that asks cargo died"))??;
    let budget = layout::Budget::measure(&sources);

    violations.extend(budget.violations());
    violations.extend(of_sources(&sources));
    violations.extend(of_workspace(&tree, &workspace));
    violations.extend(text::check(&tree, &sources));
    violations.extend(documents::check(&tree, &workspace, &crate::command_names()));
    let violations = excuse::apply(violations, &tree, &sources);

    report(&violations);
    say(format_args!(
        "tidy: {} files, {budget}, {} violations",
        tree.len(),
        violations.len()
    ));
    Ok(Verdict::good_if(violations.is_empty()))
}

fn of_sources(sources: &[RustSource]) -> Vec<Violation> {
    sources
        .iter()
        .flat_map(|source| [layout::check(source), code::check(source)].concat())
        .collect()
}

fn of_workspace(tree: &Tree, workspace: &Workspace) -> Vec<Violation> {
    [
        dependencies::check(tree, workspace),
        manifests::check(tree, workspace),
        licences::check(tree, workspace),
        bans::check(tree, workspace),
    ]
    .concat()
}

fn report(violations: &[Violation]) {
    // One line may break a rule twice in the same words; once is enough to read.
    let unique: BTreeSet<&Violation> = violations.iter().collect();
    for violation in unique {
        say(violation);
    }
    let liftable = violations.iter().map(|violation| violation.rule);
    let liftable: BTreeSet<_> = liftable.filter(|rule| rule.is_excusable()).collect();
    for rule in liftable.into_iter().map(Rule::name) {
        say(format_args!(
            "a comment `tidy: {rule} because …` above a line lifts `{rule}` there"
        ));
    }
}
