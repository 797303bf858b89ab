//! What a document names must exist: a map that shows a house long gone is worse than none.
//!
//! Looked at are links, code spans that look like paths of this repository, trees drawn in code
//! blocks, paths in commands, crates, and the commands `cargo xtask …` and `cargo … --package …`.

use std::ops::Range;

use pulldown_cmark::{CodeBlockKind, Event, Parser, Tag};

use super::tree::Tree;
use super::violation::{Rule, Violation};
use crate::workspace::Workspace;

/// Families of names that are ours: a span that begins so names a crate of this repository.
const OUR_CRATE_FAMILIES: [&str; 4] = ["agent-", "fake-", "hypervisor-", "nic-"];

/// Endings that make a span a path, whatever it begins with.
const PATH_ENDINGS: [&str; 3] = [".rs", ".toml", ".md"];

/// What a block of commands to type is marked with.
const SHELLS: [&str; 2] = ["sh", "bash"];

/// What ends a word of a command, besides blanks.
const SHELL_MARKS: &str = "'\"`=;()<>|&";

/// Where builds go: not in git, and there only after a build.
const BUILD_OUTPUT: &str = "target";

struct Documents<'a> {
    tree: &'a Tree,
    workspace: &'a Workspace,
    /// What can follow `cargo xtask`.
    commands: &'a [String],
}

/// What is drawn or written in a code block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    /// Commands, typed at the root of the repository.
    Commands,
    Other,
}

/// One document being read.
struct Page<'a> {
    path: &'a str,
    text: &'a str,
    documents: &'a Documents<'a>,
    violations: Vec<Violation>,
}

/// All rules over all documents.
pub(crate) fn check(tree: &Tree, workspace: &Workspace, commands: &[String]) -> Vec<Violation> {
    let documents = Documents {
        tree,
        workspace,
        commands,
    };
    let pages = tree.texts().filter(|(path, _)| path.ends_with(".md"));
    pages
        .flat_map(|(path, text)| documents.read(path, text))
        .collect()
}

impl Documents<'_> {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "only these few of the events name things"
    )]
    fn read(&self, path: &str, text: &str) -> Vec<Violation> {
        let mut page = Page {
            path,
            text,
            documents: self,
            violations: Vec::new(),
        };
        let mut within = None;
        for (event, range) in Parser::new(text).into_offset_iter() {
            match event {
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.link(&dest_url, range.start);
                }
                Event::Start(Tag::CodeBlock(kind)) => within = Some(Block::of(&kind)),
                Event::End(pulldown_cmark::TagEnd::CodeBlock) => within = None,
                Event::Code(span) => page.span(&span, &range),
                Event::Text(text) => {
                    if let Some(block) = within {
                        page.block(block, &text, range.start);
                    }
                }
                _ => {}
            }
        }
        page.violations
    }

    fn is_member(&self, name: &str) -> bool {
        self.workspace
            .members
            .iter()
            .any(|member| member.name == name)
    }

    fn is_package(&self, name: &str) -> bool {
        self.workspace
            .licences
            .iter()
            .any(|package| package.name == name)
    }
}

impl Block {
    fn of(kind: &CodeBlockKind<'_>) -> Self {
        match kind {
            CodeBlockKind::Fenced(info) if SHELLS.contains(&info.trim()) => Self::Commands,
            CodeBlockKind::Fenced(_) | CodeBlockKind::Indented => Self::Other,
        }
    }
}

impl Page<'_> {
    fn report(&mut self, offset: usize, rule: Rule, advice: String) {
        let line = self.text[..offset].matches('\n').count() + 1;
        self.violations
            .push(Violation::new(self.path, line, rule, advice));
    }

    fn link(&mut self, destination: &str, offset: usize) {
        let path = destination.split('#').next().unwrap_or_default();
        let is_elsewhere = path.contains(':') || path.is_empty();
        if !is_elsewhere && !self.exists(path) {
            self.report(
                offset,
                Rule::StalePath,
                format!("nothing is at the link `{path}`"),
            );
        }
    }

    /// Whether a path exists, seen from the document or from the root.
    fn exists(&self, path: &str) -> bool {
        let folder = self.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let from_here = normal(&format!("{folder}/{path}"));
        let tree = self.documents.tree;
        from_here.is_empty() || tree.contains(&from_here) || tree.contains(&normal(path))
    }

    fn span(&mut self, span: &str, range: &Range<usize>) {
        if is_path(span, self.documents.tree) {
            let found = self.exists(span)
                || (!span.starts_with('.') && self.documents.tree.contains_ending(span));
            if !found {
                self.report(
                    range.start,
                    Rule::StalePath,
                    format!("`{span}` does not exist"),
                );
            }
        } else if self.names_a_crate(span, range) && !self.is_known_crate(span) {
            self.report(
                range.start,
                Rule::StaleCrate,
                format!("there is no crate `{span}`"),
            );
        }
        self.commands(span, range.start);
    }

    /// One of our families, or a word beside the word "crate".
    fn names_a_crate(&self, span: &str, range: &Range<usize>) -> bool {
        let is_name = span
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'-');
        let before = self.text[..range.start].trim_end();
        let after = self.text[range.end..].trim_start();
        is_name
            && (OUR_CRATE_FAMILIES
                .iter()
                .any(|family| span.starts_with(family))
                || before.ends_with("crate")
                || after.starts_with("crate"))
    }

    fn is_known_crate(&self, name: &str) -> bool {
        self.documents.is_member(name) || self.documents.is_package(name)
    }

    fn block(&mut self, block: Block, text: &str, offset: usize) {
        let mut start = offset;
        for line in text.split_inclusive('\n') {
            self.tree_entry(line, start);
            self.commands(line, start);
            if block == Block::Commands {
                self.command_paths(line, start);
            }
            start += line.len();
        }
    }

    /// A line of a drawn tree: `├── nic-model/   the shared nouns`.
    fn tree_entry(&mut self, line: &str, offset: usize) {
        let branches = ['│', '├', '└', '─', ' ', '\u{a0}'];
        let entry = line
            .trim_start_matches(branches)
            .split_whitespace()
            .next()
            .unwrap_or_default();
        let is_entry = is_path_like(entry) && (entry.ends_with('/') || entry.ends_with(".rs"));
        let is_build_output = entry.trim_end_matches('/') == BUILD_OUTPUT;
        if is_entry && !is_build_output && !self.documents.tree.contains_ending(entry) {
            self.report(offset, Rule::StalePath, format!("`{entry}` does not exist"));
        }
    }

    /// Commands are typed at the root, so their paths begin there.
    fn command_paths(&mut self, line: &str, offset: usize) {
        let tree = self.documents.tree;
        for path in own_paths(line, tree) {
            if !tree.contains(&normal(path)) {
                self.report(offset, Rule::StalePath, format!("`{path}` does not exist"));
            }
        }
    }

    fn commands(&mut self, line: &str, offset: usize) {
        let words: Vec<&str> = line.split_whitespace().collect();
        for three in words.windows(3) {
            let known = |command| self.documents.commands.iter().any(|name| name == command);
            if three[..2] == ["cargo", "xtask"] && is_word(three[2]) && !known(three[2]) {
                let advice = format!("there is no `cargo xtask {}`", three[2]);
                self.report(offset, Rule::StaleCommand, advice);
            }
        }
        let is_cargo = words.contains(&"cargo");
        for pair in words.windows(2).filter(|_| is_cargo) {
            let names_package = pair[0] == "-p" || pair[0] == "--package";
            if names_package && is_word(pair[1]) && !self.documents.is_member(pair[1]) {
                self.report(
                    offset,
                    Rule::StaleCrate,
                    format!("there is no crate `{}`", pair[1]),
                );
            }
        }
    }
}

/// The words of a command that begin with a folder of ours. What `--features` is followed by looks
/// like a path, and is a package and its feature.
fn own_paths<'a>(line: &'a str, tree: &Tree) -> Vec<&'a str> {
    let ends = |mark: char| mark.is_whitespace() || SHELL_MARKS.contains(mark);
    let words = line.split(ends).filter(|word| !word.is_empty());
    let mut before = "";
    words
        .filter(|word| !matches!(std::mem::replace(&mut before, word), "--features" | "-F"))
        .map(|word| word.trim_start_matches("./").trim_end_matches(['.', ',']))
        .filter(|word| {
            let top = word.split_once('/').map(|(top, _)| top);
            is_path_like(word) && top.is_some_and(|top| tree.contains(top))
        })
        .collect()
}

/// A plain name, not `…`, `<name>` or `$name`.
fn is_word(word: &str) -> bool {
    word.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

fn is_path_like(span: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-/".contains(&byte);
    !span.is_empty() && !span.starts_with('/') && span.bytes().all(allowed)
}

/// A path of this repository: it begins with a folder of ours, or ends like a file of ours.
fn is_path(span: &str, tree: &Tree) -> bool {
    let first = span.split('/').next().unwrap_or_default();
    if !is_path_like(span) || first == BUILD_OUTPUT {
        return false;
    }
    let begins = span.contains('/') && (first == "." || first == ".." || tree.contains(first));
    let has_folder = span.contains('/') || span.ends_with(".rs");
    begins
        || span.ends_with('/')
        || (has_folder && PATH_ENDINGS.iter().any(|it| span.ends_with(it)))
}

/// The path without `.` and `..`.
fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
    {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::workspace::{LicensedPackage, Member};

    fn found(text: &str) -> Vec<(usize, Rule)> {
        let tree = Tree::of(&[("README.md", text), ("hostd/journal/src/lib.rs", "")]);
        let member = Member {
            name: "journal".to_owned(),
            folder: "hostd/journal".to_owned(),
            uses: BTreeSet::new(),
        };
        let tokio = LicensedPackage {
            name: "tokio".to_owned(),
            version: "1.0.0".to_owned(),
            licence: None,
        };
        let workspace = Workspace {
            members: vec![member],
            licences: vec![tokio],
            ..Workspace::default()
        };
        let violations = check(&tree, &workspace, &["check".to_owned()]).into_iter();
        violations.map(|found| (found.line, found.rule)).collect()
    }

    #[test]
    fn a_link_to_nothing_is_found() {
        assert_eq!(
            found("see\n[it](docs/gone.md#part)"),
            [(2, Rule::StalePath)]
        );
        assert_eq!(
            found("[it](hostd/journal/) [web](https://example.com/x) [here](#top)"),
            []
        );
    }

    #[test]
    fn a_path_to_nothing_is_found() {
        for path in [
            "hostd/gone",
            "hostd/journal/src/gone.rs",
            "gone/",
            "gone.rs",
            "./gone",
        ] {
            assert_eq!(
                found(&format!("a `{path}` b")),
                [(1, Rule::StalePath)],
                "{path}"
            );
        }
    }

    #[test]
    fn a_path_that_exists_may_be_short() {
        for path in [
            "hostd/journal",
            "journal/src/",
            "src/lib.rs",
            "lib.rs",
            "./README.md",
        ] {
            assert_eq!(found(&format!("a `{path}` b")), [], "{path}");
        }
    }

    #[test]
    fn what_is_no_path_of_ours_is_left_alone() {
        for span in [
            "GET /v1/nics",
            "/var/lib/x",
            "application/json",
            "target/debug/hostd",
            "a.b",
        ] {
            assert_eq!(found(&format!("a `{span}` b")), [], "{span}");
        }
    }

    #[test]
    fn a_drawn_tree_shows_only_what_exists() {
        let tree = "```text\nhostd/\n├── journal/   the store\n└── gone/      nothing\n```\n";

        assert_eq!(found(tree), [(4, Rule::StalePath)]);
    }

    #[test]
    fn a_command_that_names_a_path_to_nothing_is_found() {
        for command in [
            "install -m 0644 hostd/gone.service /etc",
            "cat ./hostd/gone",
            "x --config=hostd/gone.toml; y",
            "cp \"hostd/gone\" .",
            "true   # see hostd/gone.",
        ] {
            assert_eq!(
                found(&format!("```sh\ntrue\n{command}\n```\n")),
                [(3, Rule::StalePath)],
                "{command}"
            );
        }
    }

    #[test]
    fn a_command_may_name_what_exists_what_is_built_and_what_is_elsewhere() {
        for command in [
            "cat hostd/journal/src/lib.rs > /tmp/hostd/gone",
            "install target/release/hostd /usr/local/bin/",
            "curl http://hostd/v1/health",
            "cargo build --features hostd/failpoints",
            "install guest-agent /usr/local/sbin/",
            "rm hostd/*.o",
        ] {
            assert_eq!(found(&format!("```sh\n{command}\n```\n")), [], "{command}");
        }
        assert_eq!(found("```text\nerror: hostd/gone\n```\n"), []);
    }

    #[test]
    fn a_crate_that_does_not_exist_is_found() {
        assert_eq!(found("a `nic-gone` b"), [(1, Rule::StaleCrate)]);
        assert_eq!(found("the crate `gone` b"), [(1, Rule::StaleCrate)]);
        assert_eq!(found("the `gone` crate"), [(1, Rule::StaleCrate)]);
        assert_eq!(
            found("the `journal` crate, crate `tokio`, `attach-device`"),
            []
        );
    }

    #[test]
    fn a_command_that_does_not_exist_is_found() {
        assert_eq!(found("`cargo xtask gone`"), [(1, Rule::StaleCommand)]);
        assert_eq!(
            found("```sh\ncargo test -p gone\n```\n"),
            [(2, Rule::StaleCrate)]
        );
        assert_eq!(
            found("`cargo xtask check`, `cargo xtask …`, `cargo test -p journal`"),
            []
        );
    }
}
