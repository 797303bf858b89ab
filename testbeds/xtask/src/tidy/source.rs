//! One Rust file, parsed once and looked at by many rules: its syntax tree, its tokens (which also
//! see into macros), its comments, and which of its lines are tests.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::Path;

use proc_macro2::{Delimiter, Group, Ident, Span, TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::Visit;

use super::tree::Tree;
use super::violation::{Rule, Violation};

/// A parsed file.
pub(crate) struct RustSource {
    pub(crate) path: String,
    pub(crate) lines: Vec<String>,
    pub(crate) syntax: syn::File,
    pub(crate) tokens: TokenStream,
    /// Line by line, what stands in comments, doc comments included; the code is blanked out.
    pub(crate) comments: Vec<String>,
    tests: TestCode,
}

/// Which part of a file runs only under test.
enum TestCode {
    Everything,
    Lines(Vec<RangeInclusive<usize>>),
}

impl RustSource {
    /// Parses one file.
    pub(crate) fn parse(path: &str, text: &str) -> syn::Result<Self> {
        let tokens: TokenStream = text.parse()?;
        let syntax = syn::parse2(tokens.clone())?;
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let tests = if is_test_path(path) {
            TestCode::Everything
        } else {
            TestCode::Lines(test_lines(&syntax))
        };
        let comments = comments(&lines, tokens.clone());
        Ok(Self {
            path: path.to_owned(),
            lines,
            syntax,
            tokens,
            comments,
            tests,
        })
    }

    /// Whether this line (from 1) runs only under test.
    pub(crate) fn is_test(&self, line: usize) -> bool {
        match &self.tests {
            TestCode::Everything => true,
            TestCode::Lines(ranges) => ranges.iter().any(|range| range.contains(&line)),
        }
    }

    pub(crate) fn is_only_tests(&self) -> bool {
        matches!(self.tests, TestCode::Everything)
    }

    pub(crate) fn violation(&self, line: usize, rule: Rule, advice: &str) -> Violation {
        Violation::new(&self.path, line, rule, advice)
    }
}

/// Every Rust file of the tree, and a violation for each that does not parse.
pub(crate) fn parse_all(tree: &Tree) -> (Vec<RustSource>, Vec<Violation>) {
    let mut sources = Vec::new();
    let mut violations = Vec::new();
    for (path, text) in tree.texts().filter(|(path, _)| path.ends_with(".rs")) {
        match RustSource::parse(path, text) {
            Ok(source) => sources.push(source),
            Err(error) => {
                let line = error.span().start().line;
                violations.push(Violation::new(path, line, Rule::Syntax, error.to_string()));
            }
        }
    }
    mark_test_modules(&mut sources);
    (sources, violations)
}

/// `#[cfg(test)] mod tests;` makes another file test code, and all files below it.
fn mark_test_modules(sources: &mut [RustSource]) {
    let modules: BTreeSet<String> = sources.iter().flat_map(test_module_files).collect();
    for source in sources {
        let stem = source.path.trim_end_matches(".rs").trim_end_matches("/mod");
        let is_test = Path::new(stem)
            .ancestors()
            .any(|path| path.to_str().is_some_and(|path| modules.contains(path)));
        if is_test {
            source.tests = TestCode::Everything;
        }
    }
}

/// The paths, without `.rs`, of the modules that a file declares under test.
fn test_module_files(source: &RustSource) -> Vec<String> {
    let stem = source.path.trim_end_matches(".rs");
    let folder = match stem.rsplit_once('/') {
        Some((folder, "lib" | "main" | "mod")) => folder,
        _ => stem,
    };
    let modules = source.syntax.items.iter().filter_map(|item| {
        let syn::Item::Mod(module) = item else {
            return None;
        };
        let is_elsewhere = module.content.is_none() && under_test(&module.attrs);
        is_elsewhere.then(|| format!("{folder}/{}", module.ident))
    });
    modules.collect()
}

fn is_test_path(path: &str) -> bool {
    path.split('/')
        .any(|folder| folder == "tests" || folder == "benches")
}

fn test_lines(syntax: &syn::File) -> Vec<RangeInclusive<usize>> {
    let mut finder = TestFinder { ranges: Vec::new() };
    finder.visit_file(syntax);
    finder.ranges
}

struct TestFinder {
    ranges: Vec<RangeInclusive<usize>>,
}

impl Visit<'_> for TestFinder {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "other items are never put under test"
    )]
    fn visit_item(&mut self, item: &syn::Item) {
        let attributes = match item {
            syn::Item::Fn(item) => item.attrs.as_slice(),
            syn::Item::Impl(item) => item.attrs.as_slice(),
            syn::Item::Mod(item) => item.attrs.as_slice(),
            syn::Item::Use(item) => item.attrs.as_slice(),
            _ => &[],
        };
        if under_test(attributes) {
            self.ranges.push(lines_of(item.span()));
        }
        syn::visit::visit_item(self, item);
    }
}

/// `#[cfg(test)]`, also inside `all(…)`, or a test function of any harness.
fn under_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let last = attribute.path().segments.last();
        let is_test = last.is_some_and(|segment| segment.ident == "test");
        is_test || (attribute.path().is_ident("cfg") && requires_test(&attribute.meta))
    })
}

fn requires_test(meta: &syn::Meta) -> bool {
    let words = meta
        .require_list()
        .map(|list| idents(list.tokens.clone()))
        .unwrap_or_default();
    words.iter().any(|word| word == "test") && !words.iter().any(|word| word == "not")
}

fn lines_of(span: Span) -> RangeInclusive<usize> {
    span.start().line..=span.end().line
}

/// Every word of a token stream, at any depth.
pub(crate) fn idents(tokens: TokenStream) -> Vec<Ident> {
    let words = tokens.into_iter().flat_map(|token| match token {
        TokenTree::Ident(ident) => vec![ident],
        TokenTree::Group(group) => idents(group.stream()),
        TokenTree::Punct(_) | TokenTree::Literal(_) => Vec::new(),
    });
    words.collect()
}

/// Hands every sequence of sibling tokens to `look`, at any depth, macros included.
pub(crate) fn each_sequence(tokens: TokenStream, look: &mut impl FnMut(&[TokenTree])) {
    let sequence: Vec<TokenTree> = tokens.into_iter().collect();
    look(&sequence);
    for token in sequence {
        if let TokenTree::Group(group) = token {
            each_sequence(group.stream(), look);
        }
    }
}

/// The file with all code blanked out: whatever no token covers is a comment. Doc comments are
/// tokens too, and their span begins where their slashes do.
fn comments(lines: &[String], tokens: TokenStream) -> Vec<String> {
    let mut text: Vec<Vec<char>> = lines.iter().map(|line| line.chars().collect()).collect();
    blank_stream(&mut text, tokens);
    text.into_iter().map(String::from_iter).collect()
}

fn blank_stream(text: &mut [Vec<char>], tokens: TokenStream) {
    for token in tokens {
        if let TokenTree::Group(group) = token {
            blank_group(text, &group);
        } else if !is_comment(text, token.span()) {
            blank(text, token.span());
        }
    }
}

fn blank_group(text: &mut [Vec<char>], group: &Group) {
    if is_comment(text, group.span()) {
        return;
    }
    if group.delimiter() != Delimiter::None {
        blank(text, group.span_open());
        blank(text, group.span_close());
    }
    blank_stream(text, group.stream());
}

fn is_comment(text: &[Vec<char>], span: Span) -> bool {
    let start = span.start();
    let rest = text
        .get(start.line - 1)
        .and_then(|line| line.get(start.column..));
    rest.is_some_and(|rest| rest.starts_with(&['/', '/']) || rest.starts_with(&['/', '*']))
}

fn blank(text: &mut [Vec<char>], span: Span) {
    let (start, end) = (span.start(), span.end());
    for (index, line) in text
        .iter_mut()
        .enumerate()
        .take(end.line)
        .skip(start.line - 1)
    {
        let from = if index + 1 == start.line {
            start.column
        } else {
            0
        };
        let to = if index + 1 == end.line {
            end.column
        } else {
            line.len()
        };
        let to = to.min(line.len());
        line[from.min(to)..to].fill(' ');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> RustSource {
        RustSource::parse("hostd/src/x.rs", text).expect("the fixture is valid Rust")
    }

    #[test]
    fn inline_tests_are_not_production() {
        let source = parsed("fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n");

        let tests: Vec<bool> = (1..=6).map(|line| source.is_test(line)).collect();

        assert_eq!(tests, [false, true, true, true, true, false]);
    }

    #[test]
    fn code_that_is_left_out_of_tests_is_production() {
        assert!(!parsed("#[cfg(not(test))]\nmod real {}\n").is_test(2));
    }

    #[test]
    fn a_test_module_in_its_own_file_is_test_code_with_all_below_it() {
        let tree = Tree::of(&[
            ("hostd/src/lib.rs", "#[cfg(test)]\nmod worlds;\nmod real;\n"),
            ("hostd/src/worlds.rs", "fn a() {}\n"),
            ("hostd/src/worlds/deep.rs", "fn b() {}\n"),
            ("hostd/src/real.rs", "fn c() {}\n"),
        ]);

        let (sources, _) = parse_all(&tree);

        let tests = sources.iter().filter(|source| source.is_only_tests());
        let tests: Vec<&str> = tests.map(|source| source.path.as_str()).collect();
        assert_eq!(tests, ["hostd/src/worlds.rs", "hostd/src/worlds/deep.rs"]);
    }

    #[test]
    fn comments_are_told_from_strings() {
        let source = parsed("/// Doc.\nfn a() {\n    let x = \"// no\"; // yes\n}\n");

        assert_eq!(source.comments[0], "/// Doc.");
        assert_eq!(source.comments[2].trim(), "// yes");
    }

    #[test]
    fn a_file_that_does_not_parse_is_a_violation() {
        let (_, violations) = parse_all(&Tree::of(&[("a.rs", "fn (")]));

        assert_eq!(violations[0].rule, Rule::Syntax);
    }
}
