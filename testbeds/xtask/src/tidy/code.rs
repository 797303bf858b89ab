//! What may not stand in Rust code, whatever the compiler thinks of it.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::Visit;

use super::source::{RustSource, each_sequence, idents};
use super::violation::{Rule, Violation};

/// Where the compiler's proof may end: system calls that no crate wraps, and libvirt's callbacks;
/// of all tests, one helper that gives QEMU a tap in a network namespace of its own.
const UNSAFE: [&str; 3] = [
    "guest-agent/linux-network/",
    "hostd/hypervisor-libvirt/",
    "hostd/hypervisor-qmp/tests/support/tap.rs",
];

/// The rules for one file.
pub(crate) fn check(source: &RustSource) -> Vec<Violation> {
    let mut visitor = Visitor {
        source,
        violations: Vec::new(),
    };
    visitor.visit_file(&source.syntax);
    let mut violations = visitor.violations;
    each_sequence(source.tokens.clone(), &mut |sequence| {
        violations.extend(unfinished(source, sequence));
        violations.extend(sleeps(source, sequence));
        violations.extend(unordered_selects(source, sequence));
    });
    violations.extend(uncompiled_examples(source));
    violations.extend(unproven(source));
    violations
}

struct Visitor<'a> {
    source: &'a RustSource,
    violations: Vec<Violation>,
}

impl Visitor<'_> {
    fn report(&mut self, line: usize, rule: Rule, advice: &str) {
        self.violations
            .push(self.source.violation(line, rule, advice));
    }

    fn check_parameters(&mut self, signature: &syn::Signature) {
        let line = signature.span().start().line;
        let has_bool = signature.inputs.iter().any(is_bool);
        if has_bool && !self.source.is_test(line) {
            let advice = format!(
                "give `{}` an enum whose values name the choice",
                signature.ident
            );
            self.report(line, Rule::Bool, &advice);
        }
    }
}

impl<'ast> Visit<'ast> for Visitor<'_> {
    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        let line = attribute.span().start().line;
        let tokens = attribute_tokens(attribute);
        let words = idents(tokens.clone());
        if words
            .first()
            .is_some_and(|word| word == "ignore" || word == "cfg_attr")
            && words.iter().any(|word| word == "ignore")
        {
            self.report(line, Rule::IgnoredTest, "make it run, or delete it");
        }
        if lacks_reason(tokens) {
            self.report(line, Rule::Reason, "add `reason = \"…\"`");
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if is_public(&item.vis) {
            self.check_parameters(&item.sig);
        }
        syn::visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        // A method of a trait has no visibility of its own: the trait's declaration is checked.
        if is_public(&item.vis) {
            self.check_parameters(&item.sig);
        }
        syn::visit::visit_impl_item_fn(self, item);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        for method in item
            .items
            .iter()
            .filter_map(as_method)
            .filter(|_| is_public(&item.vis))
        {
            self.check_parameters(&method.sig);
        }
        syn::visit::visit_item_trait(self, item);
    }
}

fn as_method(item: &syn::TraitItem) -> Option<&syn::TraitItemFn> {
    if let syn::TraitItem::Fn(method) = item {
        Some(method)
    } else {
        None
    }
}

fn is_public(visibility: &syn::Visibility) -> bool {
    matches!(visibility, syn::Visibility::Public(_))
}

fn is_bool(argument: &syn::FnArg) -> bool {
    let syn::FnArg::Typed(argument) = argument else {
        return false;
    };
    matches!(&*argument.ty, syn::Type::Path(path) if path.path.is_ident("bool"))
}

/// What stands between the brackets.
fn attribute_tokens(attribute: &syn::Attribute) -> TokenStream {
    let name = attribute.path().get_ident().cloned().map(TokenTree::Ident);
    let arguments = attribute.meta.require_list().ok().map(|list| {
        TokenTree::Group(proc_macro2::Group::new(
            Delimiter::Parenthesis,
            list.tokens.clone(),
        ))
    });
    name.into_iter().chain(arguments).collect()
}

/// An `allow(…)` or `expect(…)` without a reason, also inside `cfg_attr(…)`.
fn lacks_reason(tokens: TokenStream) -> bool {
    let mut found = false;
    each_sequence(tokens, &mut |sequence| {
        found |= sequence.windows(2).any(|pair| match pair {
            [TokenTree::Ident(word), TokenTree::Group(group)] => {
                (word == "allow" || word == "expect")
                    && !idents(group.stream()).iter().any(|word| word == "reason")
            }
            _ => false,
        });
    });
    found
}

/// Macros that stand for code somebody still has to write, or to take away.
fn unfinished(source: &RustSource, sequence: &[TokenTree]) -> Vec<Violation> {
    let found = sequence.windows(2).filter_map(|pair| match pair {
        [TokenTree::Ident(word), TokenTree::Punct(mark)] if mark.as_char() == '!' => Some(word),
        _ => None,
    });
    found
        .filter(|word| {
            ["todo", "unimplemented", "dbg"]
                .iter()
                .any(|name| word == name)
        })
        .map(|word| {
            let advice = format!("finish it: no `{word}!` in this repository");
            source.violation(word.span().start().line, Rule::Unfinished, &advice)
        })
        .collect()
}

/// A call of a sleeping function in a test: `sleep(…)` after any path, not a method of that name.
fn sleeps(source: &RustSource, sequence: &[TokenTree]) -> Vec<Violation> {
    let calls = sequence
        .windows(2)
        .enumerate()
        .filter_map(|(index, pair)| match pair {
            [TokenTree::Ident(word), TokenTree::Group(group)]
                if group.delimiter() == Delimiter::Parenthesis =>
            {
                let before = index.checked_sub(1).map(|before| &sequence[before]);
                (is_sleep(word) && !is_method_or_definition(before))
                    .then(|| word.span().start().line)
            }
            _ => None,
        });
    calls
        .filter(|line| source.is_test(*line))
        .map(|line| source.violation(line, Rule::Sleep, "wait for the event, with a deadline"))
        .collect()
}

/// A `select!` that leaves it to chance at what it looks first: then a run cannot be repeated from
/// its seed, and nobody has thought about what starves what.
fn unordered_selects(source: &RustSource, sequence: &[TokenTree]) -> Vec<Violation> {
    let unordered = sequence.windows(3).filter_map(|tokens| match tokens {
        [
            TokenTree::Ident(word),
            TokenTree::Punct(mark),
            TokenTree::Group(branches),
        ] if word == "select" && mark.as_char() == '!' => {
            let first = branches.stream().into_iter().next();
            let is_biased = matches!(first, Some(TokenTree::Ident(first)) if first == "biased");
            (!is_biased).then(|| word.span().start().line)
        }
        _ => None,
    });
    let advice = "begin with `biased;`, what ends by itself first";
    unordered
        .filter(|line| !source.is_test(*line))
        .map(|line| source.violation(line, Rule::SelectOrder, advice))
        .collect()
}

/// The word `unsafe` as code, macros included. The lint `unsafe_code` does not settle this: any
/// file can lift it for itself with a reason.
fn unproven(source: &RustSource) -> Vec<Violation> {
    if UNSAFE.iter().any(|place| source.path.starts_with(place)) {
        return Vec::new();
    }
    let words = idents(source.tokens.clone()).into_iter();
    let found = words.filter(|word| word == "unsafe");
    found
        .map(|word| {
            let advice = format!("do without it, or put it into one of {}", UNSAFE.join(", "));
            source.violation(word.span().start().line, Rule::Unsafe, &advice)
        })
        .collect()
}

fn is_sleep(word: &proc_macro2::Ident) -> bool {
    ["sleep", "sleep_until", "sleep_ms"]
        .iter()
        .any(|name| word == name)
}

fn is_method_or_definition(before: Option<&TokenTree>) -> bool {
    match before {
        Some(TokenTree::Punct(mark)) => mark.as_char() == '.',
        Some(TokenTree::Ident(word)) => word == "fn",
        Some(TokenTree::Group(_) | TokenTree::Literal(_)) | None => false,
    }
}

/// A code block that rustdoc is told not to compile goes stale unseen.
fn uncompiled_examples(source: &RustSource) -> Vec<Violation> {
    let fences = source.comments.iter().enumerate().filter(|(_, comment)| {
        let info = comment
            .trim_start()
            .trim_start_matches(['/', '!', '*', ' ']);
        info.strip_prefix("```")
            .is_some_and(|words| words.split(',').any(|word| word == "ignore"))
    });
    fences
        .map(|(index, _)| {
            source.violation(
                index + 1,
                Rule::IgnoredTest,
                "let rustdoc compile it, or use `text`",
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violations(text: &str) -> Vec<(usize, Rule)> {
        let source = RustSource::parse("hostd/src/x.rs", text).expect("the fixture is valid Rust");
        check(&source)
            .into_iter()
            .map(|found| (found.line, found.rule))
            .collect()
    }

    #[test]
    fn an_ignored_test_is_found() {
        assert_eq!(
            violations("#[test]\n#[ignore]\nfn a() {}"),
            [(2, Rule::IgnoredTest)]
        );
        assert_eq!(
            violations("#[ignore = \"slow\"]\nfn a() {}"),
            [(1, Rule::IgnoredTest)]
        );
        assert_eq!(
            violations("#[cfg_attr(x, ignore)]\nfn a() {}"),
            [(1, Rule::IgnoredTest)]
        );
    }

    #[test]
    fn an_example_that_nobody_compiles_is_found() {
        assert_eq!(
            violations("/// ```ignore\n/// a()\n/// ```\nfn a() {}")[0].0,
            1
        );
        assert_eq!(
            violations("/// ```text\n/// ignore\n/// ```\nfn a() {}"),
            []
        );
    }

    #[test]
    fn a_lint_is_silenced_only_with_a_reason() {
        assert_eq!(violations("#![allow(dead_code)]"), [(1, Rule::Reason)]);
        assert_eq!(
            violations("#[expect(dead_code)]\nfn a() {}"),
            [(1, Rule::Reason)]
        );
        assert_eq!(
            violations("#[cfg_attr(x, allow(y))]\nfn a() {}"),
            [(1, Rule::Reason)]
        );
        assert_eq!(
            violations("#[expect(dead_code, reason = \"why\")]\nfn a() {}"),
            []
        );
    }

    #[test]
    fn unfinished_code_is_found_even_inside_a_macro() {
        assert_eq!(violations("fn a() { todo!() }"), [(1, Rule::Unfinished)]);
        assert_eq!(
            violations("fn a() { m! { x => unimplemented!() } }"),
            [(1, Rule::Unfinished)]
        );
        assert_eq!(
            violations("fn a() {\n    dbg!(1);\n}"),
            [(2, Rule::Unfinished)]
        );
    }

    #[test]
    fn a_bare_bool_in_a_public_signature_is_found() {
        assert_eq!(violations("pub fn a(up: bool) {}"), [(1, Rule::Bool)]);
        assert_eq!(
            violations("impl A { pub fn a(&self, up: bool) {} }"),
            [(1, Rule::Bool)]
        );
        assert_eq!(
            violations("pub trait A {\n    fn a(up: bool);\n}"),
            [(2, Rule::Bool)]
        );
    }

    #[test]
    fn a_bool_that_answers_or_stays_inside_is_fine() {
        assert_eq!(violations("pub fn a() -> bool { true }"), []);
        assert_eq!(violations("fn a(up: bool) {}"), []);
        assert_eq!(
            violations("impl Visit for A { fn a(&self, up: bool) {} }"),
            []
        );
    }

    #[test]
    fn unsafe_code_is_found_even_in_tests_and_macros() {
        for code in [
            "unsafe { b() }",
            "m! { x => unsafe { b() } }",
            "type F = unsafe extern \"C\" fn();",
        ] {
            assert_eq!(
                violations(&format!("#[test]\nfn a() {{\n    {code}\n}}")),
                [(3, Rule::Unsafe)],
                "{code}"
            );
        }
        assert_eq!(
            violations("#[unsafe(no_mangle)]\nfn a() {}"),
            [(1, Rule::Unsafe)]
        );
    }

    #[test]
    fn the_word_unsafe_is_fine_where_it_is_no_code() {
        let text = "//! Not unsafe.\n#![forbid(unsafe_code)]\nfn a() { b(\"unsafe\") } // unsafe";

        assert_eq!(violations(text), []);
    }

    #[test]
    fn unsafe_code_is_fine_in_its_places_and_not_beside_them() {
        let found = |path: &str| {
            let source = RustSource::parse(path, "fn a() { unsafe { b() } }");
            check(&source.expect("the fixture is valid Rust")).len()
        };

        assert_eq!(found("guest-agent/linux-network/src/tap.rs"), 0);
        assert_eq!(found("hostd/hypervisor-qmp/tests/support/tap.rs"), 0);
        assert_eq!(found("hostd/hypervisor-qmp/src/tap.rs"), 1);
        assert_eq!(found("guest-agent/linux-network-2/src/tap.rs"), 1);
    }

    #[test]
    fn a_test_that_sleeps_is_found() {
        let test = |call: &str| violations(&format!("#[test]\nfn a() {{\n    {call};\n}}"));

        assert_eq!(test("std::thread::sleep(T)"), [(3, Rule::Sleep)]);
        assert_eq!(test("sleep(T).await"), [(3, Rule::Sleep)]);
        assert_eq!(
            test("select! { _ = tokio::time::sleep(T) => {} }"),
            [(3, Rule::Sleep)]
        );
    }

    #[test]
    fn a_select_in_no_order_is_found_wherever_it_stands() {
        let select = |text: &str| violations(&format!("fn a() {{\n    {text}\n}}"));

        assert_eq!(
            select("tokio::select! { x = b() => {} }"),
            [(2, Rule::SelectOrder)]
        );
        assert_eq!(
            select("c! { select! { x = b() => {} } }"),
            [(2, Rule::SelectOrder)]
        );
        assert_eq!(select("tokio::select! { biased; x = b() => {} }"), []);
        assert_eq!(
            violations("#[test]\nfn a() { select! { x = b() => {} } }"),
            []
        );
    }

    #[test]
    fn production_may_sleep_and_a_test_may_call_its_own_method() {
        assert_eq!(violations("fn a() { std::thread::sleep(T); }"), []);
        assert_eq!(violations("#[test]\nfn a() { guest.sleep(T); }"), []);
    }
}
