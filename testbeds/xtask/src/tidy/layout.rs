//! The shape of the code: how long files and functions may be, and that each file says why it
//! exists. The limits are for production code; tests are data and read top to bottom.

use std::fmt;

use syn::spanned::Spanned;
use syn::visit::Visit;

use super::source::RustSource;
use super::violation::{Rule, Violation};

/// A hard limit per item, and a softer one that nine of ten items keep.
struct Limit {
    most: usize,
    p90: usize,
}

const FILE_LINES: Limit = Limit {
    most: 600,
    p90: 400,
};
const FUNCTION_LINES: Limit = Limit { most: 70, p90: 30 };

/// The measures of all production code.
pub(crate) struct Budget {
    files: Vec<Measure>,
    functions: Vec<Measure>,
}

struct Measure {
    path: String,
    line: usize,
    name: String,
    lines: usize,
}

impl Budget {
    pub(crate) fn measure(sources: &[RustSource]) -> Self {
        let production = sources.iter().filter(|source| !source.is_only_tests());
        Self {
            files: production.map(file).collect(),
            functions: sources.iter().flat_map(functions).collect(),
        }
    }

    pub(crate) fn violations(&self) -> Vec<Violation> {
        let files = over(&self.files, &FILE_LINES, Rule::FileLength);
        let functions = over(&self.functions, &FUNCTION_LINES, Rule::FunctionLength);
        files.chain(functions).collect()
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "file p90 {} lines (goal {}), function p90 {} lines (goal {})",
            p90(&self.files),
            FILE_LINES.p90,
            p90(&self.functions),
            FUNCTION_LINES.p90
        )
    }
}

/// Each item over the hard limit, and the longest one when too many are long.
fn over<'a>(
    measures: &'a [Measure],
    limit: &'a Limit,
    rule: Rule,
) -> impl Iterator<Item = Violation> + 'a {
    let long = measures
        .iter()
        .filter(|measure| measure.lines > limit.most)
        .map(move |measure| {
            let Measure { name, lines, .. } = measure;
            let advice = format!("{name} has {lines} lines, limit {}: split it", limit.most);
            Violation::new(&measure.path, measure.line, rule, advice)
        });
    let p90 = p90(measures);
    let longest = measures.iter().max_by_key(|measure| measure.lines);
    let many = longest.filter(|_| p90 > limit.p90).map(move |measure| {
        let advice = format!(
            "p90 is {p90} lines, limit {}: begin with this one",
            limit.p90
        );
        Violation::new(&measure.path, measure.line, rule, advice)
    });
    long.chain(many)
}

/// By nearest rank; zero for nothing.
fn p90(measures: &[Measure]) -> usize {
    let mut lines: Vec<usize> = measures.iter().map(|measure| measure.lines).collect();
    lines.sort_unstable();
    let rank = (lines.len() * 9).div_ceil(10);
    rank.checked_sub(1).map_or(0, |index| lines[index])
}

fn file(source: &RustSource) -> Measure {
    let lines = (1..=source.lines.len())
        .filter(|line| !source.is_test(*line))
        .count();
    Measure {
        path: source.path.clone(),
        line: 1,
        name: "the file".to_owned(),
        lines,
    }
}

fn functions(source: &RustSource) -> Vec<Measure> {
    let mut finder = FunctionFinder {
        source,
        found: Vec::new(),
    };
    finder.visit_file(&source.syntax);
    finder.found
}

struct FunctionFinder<'a> {
    source: &'a RustSource,
    found: Vec<Measure>,
}

impl FunctionFinder<'_> {
    /// From the signature to the closing brace; doc comments and attributes cost nothing.
    fn add(&mut self, signature: &syn::Signature, body: &syn::Block) {
        let line = signature.span().start().line;
        if self.source.is_test(line) {
            return;
        }
        let lines = body.span().end().line - line + 1;
        let name = format!("`{}`", signature.ident);
        self.found.push(Measure {
            path: self.source.path.clone(),
            line,
            name,
            lines,
        });
    }
}

impl<'ast> Visit<'ast> for FunctionFinder<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.add(&item.sig, &item.block);
        syn::visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.add(&item.sig, &item.block);
        syn::visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(body) = &item.default {
            self.add(&item.sig, body);
        }
        syn::visit::visit_trait_item_fn(self, item);
    }
}

/// The rules for one file.
pub(crate) fn check(source: &RustSource) -> Vec<Violation> {
    let has_doc = source
        .syntax
        .attrs
        .iter()
        .any(|attribute| attribute.path().is_ident("doc"));
    if has_doc {
        return Vec::new();
    }
    vec![source.violation(1, Rule::ModuleDoc, "say with `//!` why this file exists")]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> RustSource {
        RustSource::parse("hostd/src/x.rs", text).expect("the fixture is valid Rust")
    }

    fn function_of(lines: usize) -> String {
        format!("fn long() {{\n{}}}\n", "    work();\n".repeat(lines - 2))
    }

    fn rules(sources: &[RustSource]) -> Vec<Rule> {
        let violations = Budget::measure(sources).violations();
        violations
            .into_iter()
            .map(|violation| violation.rule)
            .collect()
    }

    #[test]
    fn a_function_may_have_seventy_lines_and_not_one_more() {
        let short = "fn short() {}\n".repeat(20);

        assert_eq!(rules(&[source(&(short.clone() + &function_of(70)))]), []);
        assert_eq!(
            rules(&[source(&(short + &function_of(71)))]),
            [Rule::FunctionLength]
        );
    }

    #[test]
    fn when_more_than_a_tenth_is_long_the_longest_is_named() {
        let budget = Budget::measure(&[source(&(function_of(31) + &function_of(35)))]);

        let violations = budget.violations();

        assert_eq!(violations.len(), 1);
        assert_eq!(violations[0].line, 32);
        assert!(
            violations[0].advice.starts_with("p90 is 35"),
            "{}",
            violations[0]
        );
    }

    #[test]
    fn a_file_counts_without_its_tests() {
        let tests = format!(
            "#[cfg(test)]\nmod tests {{\n{}}}\n",
            "    // fact\n".repeat(600)
        );
        let most = "//! Doc.\n".repeat(600);

        // The p90 of a single file is the file itself, so its own violation comes with it.
        assert_eq!(rules(&[source(&(most.clone() + &tests))]).len(), 1);
        assert_eq!(rules(&[source(&format!("{most}//! More.\n"))]).len(), 2);
    }

    #[test]
    fn test_functions_may_be_long() {
        let text = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", function_of(100));

        assert_eq!(rules(&[source(&text)]), []);
    }

    #[test]
    fn a_file_without_a_reason_to_exist_is_found() {
        assert_eq!(check(&source("fn a() {}\n"))[0].rule, Rule::ModuleDoc);
        assert_eq!(check(&source("//! Why.\nfn a() {}\n")), []);
    }
}
