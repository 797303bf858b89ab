//! Reasons to break a rule, written where it is broken.
//!
//! `tidy: RULE because REASON` in a comment on the line, or in the comments and attributes right
//! above it, lifts that rule for that line. Only rules of taste can be lifted; and an excuse that
//! excuses nothing is itself a violation, so that none outlives its line.

use super::source::RustSource;
use super::tree::Tree;
use super::violation::{Rule, Violation};

struct Excuse<'a> {
    path: &'a str,
    line: usize,
    rule: Rule,
}

/// Takes away what is excused, and adds the excuses that nothing needs.
pub(crate) fn apply(
    violations: Vec<Violation>,
    tree: &Tree,
    sources: &[RustSource],
) -> Vec<Violation> {
    let excuses = find(tree, sources);
    let mut used = vec![false; excuses.len()];
    let mut kept: Vec<Violation> = Vec::new();
    for violation in violations {
        match excuses
            .iter()
            .position(|excuse| excuse.covers(&violation, tree))
        {
            Some(index) => used[index] = true,
            None => kept.push(violation),
        }
    }
    let unused = excuses
        .iter()
        .zip(used)
        .filter(|(_, used)| !used)
        .map(|(excuse, _)| {
            let advice = format!(
                "nothing here breaks `{}`: delete the excuse",
                excuse.rule.name()
            );
            Violation::new(excuse.path, excuse.line, Rule::Excuse, advice)
        });
    kept.extend(unused);
    kept
}

fn find<'a>(tree: &'a Tree, sources: &'a [RustSource]) -> Vec<Excuse<'a>> {
    let comments = sources.iter().map(|source| {
        (
            source.path.as_str(),
            source
                .comments
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>(),
        )
    });
    let others = tree.texts().filter(|(path, _)| !path.ends_with(".rs"));
    let others = others.map(|(path, text)| (path, text.lines().collect()));
    let lines = comments.chain(others).flat_map(|(path, lines)| {
        lines
            .into_iter()
            .enumerate()
            .map(move |(index, line)| (path, index + 1, line))
    });
    lines
        .filter_map(|(path, line, text)| {
            Some(Excuse {
                path,
                line,
                rule: parse(text)?,
            })
        })
        .collect()
}

fn parse(line: &str) -> Option<Rule> {
    let (_, excuse) = line.split_once("tidy: ")?;
    let (name, reason) = excuse.split_once(" because ")?;
    let rule = Rule::excusable(name)?;
    reason
        .trim_start()
        .starts_with(char::is_alphanumeric)
        .then_some(rule)
}

impl Excuse<'_> {
    /// It stands on the violation's line, or only comments and attributes lie between.
    fn covers(&self, violation: &Violation, tree: &Tree) -> bool {
        if self.rule != violation.rule || self.path != violation.path || self.line > violation.line
        {
            return false;
        }
        let lines = tree.text(self.path).unwrap_or_default().lines();
        let between = lines.skip(self.line - 1).take(violation.line - self.line);
        between
            .map(str::trim_start)
            .all(|line| line.starts_with("//") || line.starts_with('#') || line.starts_with("<!--"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(text: &str, line: usize, rule: Rule) -> Vec<Rule> {
        let tree = Tree::of(&[("hostd/src/x.rs", text)]);
        let (sources, _) = super::super::source::parse_all(&tree);
        let violation = Violation::new("hostd/src/x.rs", line, rule, "do better");
        let rest = apply(vec![violation], &tree, &sources).into_iter();
        rest.map(|violation| violation.rule).collect()
    }

    #[test]
    fn a_reason_above_the_line_lifts_the_rule() {
        let text =
            "// tidy: bool because the kernel's flag is one\n#[inline]\npub fn a(b: bool) {}\n";

        assert_eq!(applied(text, 3, Rule::Bool), []);
    }

    #[test]
    fn a_reason_on_the_line_lifts_the_rule() {
        let text = "fn a() { sleep(T) } // tidy: sleep because time is virtual here\n";

        assert_eq!(applied(text, 1, Rule::Sleep), []);
    }

    #[test]
    fn a_reason_further_away_lifts_nothing_and_is_found() {
        let text = "// tidy: bool because it is far away\nfn other() {}\npub fn a(b: bool) {}\n";

        assert_eq!(applied(text, 3, Rule::Bool), [Rule::Bool, Rule::Excuse]);
    }

    #[test]
    fn a_reason_for_another_rule_lifts_nothing() {
        let text = "// tidy: sleep because of something else\npub fn a(b: bool) {}\n";

        assert_eq!(applied(text, 2, Rule::Bool), [Rule::Bool, Rule::Excuse]);
    }

    #[test]
    fn an_excuse_needs_a_reason_and_a_rule_that_can_be_lifted() {
        assert_eq!(
            applied("// tidy: bool because \nfn a() {}\n", 2, Rule::Bool),
            [Rule::Bool]
        );
        let text = "// tidy: function-length because it is hard\nfn a() {}\n";
        assert_eq!(
            applied(text, 2, Rule::FunctionLength),
            [Rule::FunctionLength]
        );
    }
}
