//! Rules for plain text: width, places that exist on one machine only, promises without an issue,
//! and what stands where something else belongs.

use super::source::RustSource;
use super::tree::Tree;
use super::violation::{Rule, Violation};

/// What rustfmt keeps for code, it does not keep for comments and strings.
const COLUMNS: usize = 100;

/// Homes and work places of whoever wrote the line.
// tidy: machine-path because these are the needles themselves
const MACHINE_PATHS: [&str; 3] = ["/work", "/home/", "/root"];

const PROMISES: [&str; 3] = ["TODO", "FIXME", "XXX"];

/// Words of whoever meant to come back, without regard to case.
const FILLERS: [&str; 4] = ["lorem", "ipsum", "unimplemented", "placeholder"];

/// Files nobody writes by hand.
const NOT_OURS: [&str; 2] = ["Cargo.lock", "LICENSE"];

/// All rules over all files.
pub(crate) fn check(tree: &Tree, sources: &[RustSource]) -> Vec<Violation> {
    let files = tree.texts().filter(|(path, _)| !NOT_OURS.contains(path));
    let anywhere = files.flat_map(|(path, text)| {
        let promises = if path.ends_with(".rs") {
            Vec::new()
        } else {
            promises(path, text.lines())
        };
        let placeholders = if path.ends_with(".md") {
            placeholders(path, text.lines())
        } else {
            Vec::new()
        };
        [
            columns(path, text),
            machine_paths(path, text),
            promises,
            placeholders,
        ]
        .concat()
    });
    let in_comments = sources.iter().flat_map(|source| {
        let comments = || source.comments.iter().map(String::as_str);
        [
            promises(&source.path, comments()),
            placeholders(&source.path, comments()),
        ]
        .concat()
    });
    anywhere.chain(in_comments).collect()
}

fn columns(path: &str, text: &str) -> Vec<Violation> {
    if !is_code(path, text) {
        return Vec::new();
    }
    let wide = numbered(text).filter(|(_, line)| line.chars().count() > COLUMNS && !is_link(line));
    wide.map(|(number, line)| {
        let advice = format!(
            "{} columns, limit {COLUMNS}: break the line",
            line.chars().count()
        );
        Violation::new(path, number, Rule::Columns, advice)
    })
    .collect()
}

/// Rust and scripts. Tables in documents and lists in manifests cannot be broken.
fn is_code(path: &str, text: &str) -> bool {
    path.ends_with(".rs") || path.ends_with(".sh") || text.starts_with("#!/")
}

/// An address alone on its line cannot be broken.
fn is_link(line: &str) -> bool {
    let content = line
        .trim()
        .trim_start_matches(['/', '!', '#', '<', '*', '-', ' ']);
    content.contains("://") && !content.contains(' ')
}

fn machine_paths(path: &str, text: &str) -> Vec<Violation> {
    let lines = numbered(text).filter(|(_, line)| MACHINE_PATHS.iter().any(|it| names(line, it)));
    lines
        .map(|(number, _)| {
            let advice = "a place on one machine: make it relative, or an option";
            Violation::new(path, number, Rule::MachinePath, advice)
        })
        .collect()
}

/// Whether the path stands in the line as a whole, not as a part of a longer one.
fn names(line: &str, path: &str) -> bool {
    let is_word = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    line.match_indices(path).any(|(start, _)| {
        let bytes = line.as_bytes();
        let before = start.checked_sub(1).and_then(|index| bytes.get(index));
        let after = bytes.get(start + path.len());
        let ends = path.ends_with('/') == is_word(after);
        let starts = !is_word(before) && !matches!(before, Some(b'.' | b'_' | b'-' | b'/' | b'}'));
        starts && ends && !matches!(after, Some(b'_' | b'-'))
    })
}

fn promises<'a>(path: &str, lines: impl Iterator<Item = &'a str>) -> Vec<Violation> {
    let open = lines.enumerate().filter(|(_, line)| {
        PROMISES.iter().any(|promise| names(line, promise)) && !line.contains("/issues/")
    });
    open.map(|(index, _)| {
        let advice = "do it now, or link the issue (https://…/issues/N)";
        Violation::new(path, index + 1, Rule::IssueLink, advice)
    })
    .collect()
}

/// What stands for a text or a figure that somebody still has to put there: in documents and in
/// comments, since code may well speak of such words.
fn placeholders<'a>(path: &str, lines: impl Iterator<Item = &'a str>) -> Vec<Violation> {
    let found = lines.enumerate().filter_map(|(index, line)| {
        let word = line.split_whitespace().find_map(placeholder)?;
        let advice = format!("`{word}` stands for something: write what it is");
        Some(Violation::new(path, index + 1, Rule::Placeholder, advice))
    });
    found.collect()
}

/// The word without what surrounds it, if it is one of those.
fn placeholder(word: &str) -> Option<&str> {
    let word = word.trim_matches(|mark: char| !mark.is_alphanumeric() && mark != '?');
    let is_filler = FILLERS
        .iter()
        .any(|filler| word.eq_ignore_ascii_case(filler));
    (is_filler || is_missing_figure(word)).then_some(word)
}

/// A figure that has not been measured: letters in a number's form. A lone `N` is a name.
fn is_missing_figure(word: &str) -> bool {
    let stands_for_digits = |part: &str| {
        !part.is_empty()
            && ["N", "X", "x"]
                .iter()
                .any(|it| part.replace(it, "").is_empty())
    };
    let is_fraction = word
        .split_once('.')
        .is_some_and(|(whole, rest)| stands_for_digits(whole) && stands_for_digits(rest));
    let is_question = word.len() > 1 && word.bytes().all(|byte| byte == b'?');
    is_fraction || is_question
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<(usize, Rule)> {
        let tree = Tree::of(&[(path, text)]);
        let (sources, _) = super::super::source::parse_all(&tree);
        let violations = check(&tree, &sources).into_iter();
        violations.map(|found| (found.line, found.rule)).collect()
    }

    #[test]
    fn a_line_may_have_a_hundred_columns_and_not_one_more() {
        let line = |columns: usize| format!("//{}\n", "ä".repeat(columns - 2));

        assert_eq!(found("a.rs", &line(100)), []);
        assert_eq!(found("a.rs", &line(101)), [(1, Rule::Columns)]);
        assert_eq!(found("a.md", &line(101)), []);
        assert_eq!(
            found("run", &format!("#!/bin/bash\n{}", line(101))),
            [(2, Rule::Columns)]
        );
    }

    #[test]
    fn an_address_may_be_as_long_as_it_is() {
        let address = format!("/// <https://example.com/{}>\n", "a".repeat(100));

        assert_eq!(found("a.md", &address), []);
        assert_eq!(found("a.rs", &format!("{address}fn a() {{}}\n")), []);
    }

    #[test]
    fn a_path_of_one_machine_is_found_in_any_file() {
        // tidy: machine-path because these are what the rule must find
        let text = "x = \"/root/main\"\ncd /home/ann\n/root\nin `/root/x`\n(/work)\n:/root:\n";

        let lines: Vec<usize> = found("a.toml", text)
            .into_iter()
            .map(|(line, _)| line)
            .collect();

        assert_eq!(lines, [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn a_path_that_only_looks_alike_is_fine() {
        for text in [
            "/workspace",
            "/rootfs",
            "net/work",
            "/network",
            "/home/",
            "${x}/work",
        ] {
            assert_eq!(found("a.toml", text), [], "{text}");
        }
    }

    #[test]
    fn a_promise_needs_its_issue() {
        let linked = "// TODO: https://example.com/x/issues/7\n";

        assert_eq!(found("a.rs", "// TODO later\n"), [(1, Rule::IssueLink)]);
        assert_eq!(found("a.toml", "# FIXME\n"), [(1, Rule::IssueLink)]);
        assert_eq!(found("a.md", "a\nXXX what?\n"), [(2, Rule::IssueLink)]);
        assert_eq!(found("a.rs", linked), []);
    }

    #[test]
    fn a_string_in_code_is_no_promise() {
        assert_eq!(found("a.rs", "const A: &str = \"TODO\";\n"), []);
    }

    #[test]
    fn what_stands_for_something_else_is_found_in_documents_and_comments() {
        for text in [
            "It takes N.N ms.",
            "| attach | NN.N | XX.X |",
            "took ?? ms",
            "Lorem ipsum dolor",
            "(unimplemented)",
        ] {
            let found_in = |path| found(path, text);
            assert_eq!(found_in("a.md"), [(1, Rule::Placeholder)], "{text}");
            let comment = format!("// {text}\n");
            assert_eq!(found("a.rs", &comment), [(1, Rule::Placeholder)], "{text}");
        }
    }

    #[test]
    fn names_and_questions_are_no_placeholders() {
        for text in [
            "N passed, N failed, N skipped",
            "pid:NUMBER, issues/N, really?",
            "Linux 6.x, N. B. this, 1.0, v.N",
        ] {
            assert_eq!(found("a.md", text), [], "{text}");
        }
        assert_eq!(found("a.rs", "const A: &str = \"lorem N.N\";\n"), []);
    }
}
