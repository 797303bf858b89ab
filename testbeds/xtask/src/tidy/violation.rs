//! What a rule has to say, in the form an editor can jump to.

use std::fmt;

/// One breach of a rule. Ordered by place, so that a report reads like the tree.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Violation {
    /// Relative to the root of the workspace.
    pub(crate) path: String,
    /// From 1.
    pub(crate) line: usize,
    pub(crate) rule: Rule,
    /// What to do about it.
    pub(crate) advice: String,
}

impl Violation {
    pub(crate) fn new(path: &str, line: usize, rule: Rule, advice: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            line,
            rule,
            advice: advice.into(),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}: {}: {}",
            self.path,
            self.line,
            self.rule.name(),
            self.advice
        )
    }
}

/// Every rule, in the order of the modules that check them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rule {
    Syntax,
    FileLength,
    FunctionLength,
    ModuleDoc,
    Reason,
    IgnoredTest,
    Unfinished,
    Bool,
    Sleep,
    SelectOrder,
    Unsafe,
    Direction,
    Purity,
    Oracle,
    FolderName,
    Lints,
    ClippyFile,
    Versions,
    Licence,
    Ban,
    Columns,
    MachinePath,
    IssueLink,
    Placeholder,
    StalePath,
    StaleCrate,
    StaleCommand,
    Excuse,
}

/// The rules that a good reason may break, see [`super::excuse`].
const EXCUSABLE: [Rule; 7] = [
    Rule::Bool,
    Rule::Columns,
    Rule::MachinePath,
    Rule::Placeholder,
    Rule::SelectOrder,
    Rule::Sleep,
    Rule::StaleCrate,
];

impl Rule {
    /// The rule of this name, if a reason can lift it.
    pub(crate) fn excusable(name: &str) -> Option<Self> {
        EXCUSABLE.into_iter().find(|rule| rule.name() == name)
    }

    pub(crate) fn is_excusable(self) -> bool {
        EXCUSABLE.contains(&self)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Syntax => "syntax",
            Self::FileLength => "file-length",
            Self::FunctionLength => "function-length",
            Self::ModuleDoc => "module-doc",
            Self::Reason => "reason",
            Self::IgnoredTest => "ignored-test",
            Self::Unfinished => "unfinished",
            Self::Bool => "bool",
            Self::Sleep => "sleep",
            Self::SelectOrder => "select-order",
            Self::Unsafe => "unsafe",
            Self::Direction => "direction",
            Self::Purity => "purity",
            Self::Oracle => "oracle",
            Self::FolderName => "folder-name",
            Self::Lints => "lints",
            Self::ClippyFile => "clippy-file",
            Self::Versions => "versions",
            Self::Licence => "licence",
            Self::Ban => "ban",
            Self::Columns => "columns",
            Self::MachinePath => "machine-path",
            Self::IssueLink => "issue-link",
            Self::Placeholder => "placeholder",
            Self::StalePath => "stale-path",
            Self::StaleCrate => "stale-crate",
            Self::StaleCommand => "stale-command",
            Self::Excuse => "excuse",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_violation_reads_like_a_compilers() {
        let violation = Violation::new("a.rs", 7, Rule::Unfinished, "finish it");

        assert_eq!(violation.to_string(), "a.rs:7: unfinished: finish it");
    }
}
