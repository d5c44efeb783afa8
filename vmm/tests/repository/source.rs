//! What a Rust file says, by its tokens: comments and strings do not count.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::{Expr, Item, ItemMod, Lit};

/// Lines of code of a file that says nothing of its length.
const MOST_LINES: usize = 600;
/// What the top comment of a longer file must speak of.
const EXCUSE: &str = "600 lines";

/// A Rust file.
pub(crate) struct Source {
    /// Lines with code on them, tests and comments left out.
    pub(crate) code_lines: usize,
    /// `todo!` and `unimplemented!`, with their lines.
    pub(crate) left_to_do: Vec<String>,
    names: BTreeSet<String>,
    excused: bool,
}

impl Source {
    /// Reads a file's text.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let fail = |error: &dyn std::fmt::Display| error.to_string();
        let file = syn::parse_file(text).map_err(|error| fail(&error))?;
        let tokens: TokenStream = text.parse().map_err(|error| fail(&error))?;
        let tests: Vec<_> = file.items.iter().filter_map(test_lines).collect();
        let mut seen = Seen::default();
        seen.tokens(tokens);
        let code = |line: &&usize| !tests.iter().any(|test| test.contains(line));
        Ok(Self {
            code_lines: seen.lines.iter().filter(code).count(),
            left_to_do: seen.left_to_do,
            names: seen.names,
            excused: top_comment(text).any(|line| line.contains(EXCUSE)),
        })
    }

    /// Whether a word occurs in the code.
    pub(crate) fn names(&self, word: &str) -> bool {
        self.names.contains(word)
    }

    pub(crate) fn is_too_long(&self) -> bool {
        self.code_lines > MOST_LINES && !self.excused
    }
}

/// The comment that a file starts with.
fn top_comment(text: &str) -> impl Iterator<Item = &str> {
    text.lines().take_while(|line| line.starts_with("//"))
}

/// The lines of an inline module of tests, or of a test.
fn test_lines(item: &Item) -> Option<RangeInclusive<usize>> {
    let (brace, for_tests) = match item {
        Item::Mod(module) => {
            let (brace, _) = module.content.as_ref()?;
            let for_tests = module.attrs.iter().any(|attribute| {
                attribute.path().is_ident("cfg")
                    && attribute
                        .parse_args::<syn::Path>()
                        .is_ok_and(|path| path.is_ident("test"))
            });
            (brace, for_tests)
        }
        Item::Fn(function) => {
            let is_test = |attribute: &syn::Attribute| attribute.path().is_ident("test");
            (
                &function.block.brace_token,
                function.attrs.iter().any(is_test),
            )
        }
        _ => return None,
    };
    for_tests.then(|| brace.span.open().start().line..=brace.span.close().end().line)
}

/// What was met among the tokens.
#[derive(Default)]
struct Seen {
    lines: BTreeSet<usize>,
    names: BTreeSet<String>,
    left_to_do: Vec<String>,
}

impl Seen {
    fn tokens(&mut self, stream: TokenStream) {
        let mut tokens = stream.into_iter().peekable();
        while let Some(token) = tokens.next() {
            match &token {
                TokenTree::Ident(ident) => {
                    let (name, line) = (ident.to_string(), ident.span().start().line);
                    let is_macro = matches!(tokens.peek(), Some(TokenTree::Punct(mark)) if mark.as_char() == '!');
                    if is_macro && ["todo", "unimplemented"].contains(&name.as_str()) {
                        self.left_to_do.push(format!("line {line}: {name}!"));
                    }
                    self.lines.insert(line);
                    self.names.insert(name);
                }
                TokenTree::Group(group) => {
                    self.lines.insert(group.span_open().start().line);
                    self.lines.insert(group.span_close().end().line);
                    self.tokens(group.stream());
                }
                TokenTree::Punct(mark) if mark.as_char() == '#' => {
                    if tokens.peek().is_some_and(is_bang) {
                        tokens.next();
                    }
                    if tokens.peek().is_some_and(is_doc) {
                        tokens.next();
                    } else {
                        self.lines.insert(token.span().start().line);
                    }
                }
                other => {
                    self.lines
                        .extend(other.span().start().line..=other.span().end().line);
                }
            }
        }
    }
}

fn is_bang(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Punct(mark) if mark.as_char() == '!')
}

/// The `[doc = "..."]` that a doc comment is.
fn is_doc(token: &TokenTree) -> bool {
    let TokenTree::Group(group) = token else {
        return false;
    };
    group.delimiter() == Delimiter::Bracket
        && matches!(group.stream().into_iter().next(), Some(TokenTree::Ident(ident)) if ident == "doc")
}

/// The files that crates are made of, from their root files on. `read` gives a file's text if
/// there is one.
pub(crate) fn reachable(
    roots: &[PathBuf],
    read: &dyn Fn(&Path) -> Option<String>,
) -> BTreeSet<PathBuf> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<(PathBuf, PathBuf)> = roots
        .iter()
        .map(|root| {
            (
                root.clone(),
                root.parent().map(Path::to_path_buf).unwrap_or_default(),
            )
        })
        .collect();
    while let Some((file, folder)) = open.pop() {
        let Some(text) = read(&file) else { continue };
        if !reached.insert(file.clone()) {
            continue;
        }
        let items = syn::parse_file(&text)
            .map(|parsed| parsed.items)
            .unwrap_or_default();
        modules(&items, &folder, &mut |name, folder, path| match path {
            // Beside this file, as a `mod.rs` is beside its modules.
            Some(path) => {
                let file = file.with_file_name(path);
                let folder = file.parent().map(Path::to_path_buf).unwrap_or_default();
                open.push((file, folder));
            }
            None => {
                open.push((folder.join(format!("{name}.rs")), folder.join(name)));
                open.push((folder.join(name).join("mod.rs"), folder.join(name)));
            }
        });
    }
    reached
}

/// Names each `mod name;`, the folder in which its file is looked for, and its `#[path]`.
fn modules(items: &[Item], folder: &Path, found: &mut dyn FnMut(&str, &Path, Option<&str>)) {
    for item in items {
        if let Item::Mod(module) = item {
            let name = module.ident.to_string();
            match &module.content {
                None => found(&name, folder, path_attribute(module).as_deref()),
                Some((_, items)) => modules(items, &folder.join(name), found),
            }
        }
    }
}

/// `#[path = "..."]`.
fn path_attribute(module: &ItemMod) -> Option<String> {
    module.attrs.iter().find_map(|attribute| {
        let value = attribute.meta.require_name_value().ok()?;
        match &value.value {
            Expr::Lit(literal) if value.path.is_ident("path") => match &literal.lit {
                Lit::Str(text) => Some(text.value()),
                _ => None,
            },
            _ => None,
        }
    })
}

#[test]
fn words_in_comments_and_strings_do_not_count() {
    let source =
        Source::parse("//! unsafe\n/// todo!()\nfn f() { g(\"unsafe todo!()\") } // unsafe\n")
            .expect("it parses");
    assert!(!source.names("unsafe") && source.names("g"));
    assert!(source.left_to_do.is_empty());
}

#[test]
fn unsafe_and_what_is_left_to_do_are_found() {
    for text in [
        "fn f() { unsafe { g() } }",
        "unsafe fn f() {}",
        "#[unsafe(no_mangle)] fn f() {}",
    ] {
        assert!(
            Source::parse(text).expect("it parses").names("unsafe"),
            "{text}"
        );
    }
    for text in [
        "fn f() { todo!() }",
        "fn f() {\n    unimplemented!(\"later\")\n}",
    ] {
        assert_eq!(
            Source::parse(text).expect("it parses").left_to_do.len(),
            1,
            "{text}"
        );
    }
    assert!(Source::parse("fn f( {").is_err());
}

#[test]
fn code_is_counted_without_comments_and_tests() {
    let text = "//! Doc.\n\n/// Doc.\n#[inline]\nfn f() {\n    // why\n    g(\"a\n    b\");\n}\n\
                #[cfg(test)]\nmod tests {\n    fn t() {}\n    fn u() {}\n}\n\
                #[test]\nfn t() {\n    f();\n}\n";
    // #[inline], fn, g with two lines of string, the brace; of tests their attributes alone.
    assert_eq!(Source::parse(text).expect("it parses").code_lines, 5 + 2);
    let long = "fn f() {}\n".repeat(MOST_LINES + 1);
    assert!(Source::parse(&long).expect("it parses").is_too_long());
    let excused = format!("//! Over 600 lines: one table.\n\n{long}");
    assert!(!Source::parse(&excused).expect("it parses").is_too_long());
    let short = "fn f() {}\n".repeat(MOST_LINES);
    assert!(!Source::parse(&short).expect("it parses").is_too_long());
}

#[test]
fn a_file_that_no_module_names_is_not_reached() {
    let files = [
        (
            "src/lib.rs",
            "mod a; mod b { mod c; } #[cfg(test)] #[path = \"beside.rs\"] mod tests;",
        ),
        ("src/a.rs", "mod deep;"),
        ("src/a/deep.rs", ""),
        ("src/b/c/mod.rs", ""),
        ("src/beside.rs", "mod below;"),
        ("src/below.rs", ""),
        ("src/orphan.rs", "mod a;"),
        ("src/deep.rs", ""),
    ];
    let read = |path: &Path| {
        let found = files.iter().find(|(name, _)| Path::new(name) == path);
        found.map(|(_, text)| (*text).to_owned())
    };
    let reached = reachable(&["src/lib.rs".into()], &read);
    let orphans: Vec<_> = files
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| !reached.contains(Path::new(name)))
        .collect();
    assert_eq!(orphans, ["src/orphan.rs", "src/deep.rs"]);
}
