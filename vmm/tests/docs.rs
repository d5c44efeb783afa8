//! What the documentation says about the code is so: links lead somewhere, the tests it names
//! exist, the conformance table has every test of the suite, the README's commands are CI's.
//!
//! In inline code, `path/file.rs::name` is a function of that file, a path with a slash that ends
//! in an extension is a file, and in docs/conformance.md `group.name` is a test of the suite.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

#[path = "support/tree.rs"]
mod tree;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};
use tree::{read, root, with_extension};

/// The table of what is conforming.
const CONFORMANCE: &str = "docs/conformance.md";
/// What files of the repository end in.
const EXTENSIONS: [&str; 7] = [".rs", ".md", ".toml", ".lock", ".ld", ".s", ".yml"];

/// What a document refers to.
#[derive(Default)]
struct Document {
    /// Targets of links and images.
    links: Vec<String>,
    /// Inline code.
    code: Vec<String>,
    /// Names that links to its headings use.
    anchors: BTreeSet<String>,
}

impl Document {
    fn parse(text: &str) -> Self {
        let mut document = Self::default();
        let mut heading: Option<String> = None;
        for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
            match event {
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    document.links.push(dest_url.into_string());
                }
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    document
                        .anchors
                        .extend(heading.take().map(|text| anchor(&text)));
                }
                Event::Text(text) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&text);
                    }
                }
                Event::Code(text) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&text);
                    }
                    document.code.push(text.into_string());
                }
                _ => {}
            }
        }
        document
    }

    /// The suite's tests it names: `group.name`.
    fn suite_tests(&self) -> BTreeSet<&str> {
        let is_word = |word: &str| {
            !word.is_empty()
                && word
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        };
        let names = self.code.iter().map(String::as_str);
        names
            .filter(|name| {
                let parts = name.split_once('.');
                parts.is_some_and(|(group, test)| is_word(group) && is_word(test))
                    && !EXTENSIONS.iter().any(|extension| name.ends_with(extension))
            })
            .collect()
    }
}

/// How a heading is called in links: lower case, no punctuation, hyphens for spaces.
fn anchor(heading: &str) -> String {
    let kept = heading
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.flat_map(char::to_lowercase)
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

/// Links of the document at `path` that lead nowhere. `load` gives a document of the repository;
/// `exists` knows all paths.
fn broken_links(
    path: &str,
    document: &Document,
    exists: &dyn Fn(&Path) -> bool,
    load: &dyn Fn(&Path) -> Document,
) -> Vec<String> {
    let folder = Path::new(path).parent().unwrap_or(Path::new(""));
    let mut broken = Vec::new();
    for link in &document.links {
        let (file, fragment) = link.split_once('#').unwrap_or((link, ""));
        if file.contains("://") || file.starts_with("mailto:") {
            continue;
        }
        let target = if file.is_empty() {
            PathBuf::from(path)
        } else {
            folder.join(file)
        };
        let missing = if !exists(&target) {
            true
        } else if fragment.is_empty() {
            false
        } else if file.is_empty() {
            !document.anchors.contains(fragment)
        } else {
            !load(&target).anchors.contains(fragment)
        };
        if missing {
            broken.push(format!("{path}: {link}"));
        }
    }
    broken
}

/// Files and functions that a document names and that are not there. `load` gives a file's text.
fn broken_names(
    path: &str,
    document: &Document,
    load: &dyn Fn(&str) -> Option<String>,
) -> Vec<String> {
    let mut broken = Vec::new();
    for code in &document.code {
        let (file, function) = match code.split_once("::") {
            Some((file, function)) => (file, Some(function)),
            None => (code.as_str(), None),
        };
        let is_path = file.contains('/')
            && !file.contains([' ', '*', '<'])
            && EXTENSIONS.iter().any(|extension| file.ends_with(extension));
        if !is_path {
            continue;
        }
        let found = load(file).is_some_and(|text| match function {
            Some(function) => text.contains(&format!("fn {function}(")),
            None => true,
        });
        if !found {
            broken.push(format!("{path}: {code}"));
        }
    }
    broken
}

fn report(rule: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

#[test]
fn links_lead_to_files_and_headings() {
    let documents = with_extension("md");
    assert!(documents.contains(&"README.md".to_owned()));
    let mut broken = Vec::new();
    for path in documents {
        let document = Document::parse(&read(&path));
        let exists = |path: &Path| root().join(path).exists();
        let load = |path: &Path| Document::parse(&read(&path.to_string_lossy()));
        broken.extend(broken_links(&path, &document, &exists, &load));
    }
    report("links lead nowhere", &broken);
}

#[test]
fn files_and_functions_that_documents_name_exist() {
    let mut broken = Vec::new();
    for path in with_extension("md") {
        let document = Document::parse(&read(&path));
        let load = |file: &str| std::fs::read_to_string(root().join(file)).ok();
        broken.extend(broken_names(&path, &document, &load));
    }
    report("not there", &broken);
}

#[test]
fn conformance_table_has_every_test_of_the_suite_and_no_other() {
    let document = Document::parse(&read(CONFORMANCE));
    let named: BTreeSet<String> = document.suite_tests().into_iter().map(Into::into).collect();
    let suite: BTreeSet<String> = nvme_suite::tests()
        .map(nvme_suite::Test::full_name)
        .collect();
    let absent: Vec<String> = named.difference(&suite).cloned().collect();
    report("in docs/conformance.md, but no test of the suite", &absent);
    let unnamed: Vec<String> = suite.difference(&named).cloned().collect();
    report("tests that docs/conformance.md does not name", &unnamed);
}

#[test]
fn readme_commands_are_those_that_ci_runs() {
    let (readme, ci) = (read("README.md"), read(".ci/run"));
    for command in [
        "cargo run --release -- selftest",
        "cargo run --release -- selftest --peer qemu",
        "cargo test --workspace --locked",
    ] {
        assert!(
            readme.lines().any(|line| line.trim() == command),
            "README.md: {command}"
        );
        let runs = |line: &str| {
            line.starts_with("step ") && line.ends_with(command)
                || line.contains(&format!("$({command} "))
        };
        assert!(ci.lines().any(runs), ".ci/run: {command}");
    }
}

#[test]
fn what_leads_nowhere_is_found() {
    let text = "# A heading, `code` too!\n\n[a](#a-heading-code-too) [b](#none) [c](other.md#there) \
                [d](other.md#none) [e](none.md) [f](https://example.org/none) ![g](none.png)\n";
    let document = Document::parse(text);
    let exists =
        |path: &Path| path == Path::new("docs/this.md") || path == Path::new("docs/other.md");
    let load = |_: &Path| Document::parse("## There\n");
    assert_eq!(
        broken_links("docs/this.md", &document, &exists, &load),
        [
            "docs/this.md: #none",
            "docs/this.md: other.md#none",
            "docs/this.md: none.md",
            "docs/this.md: none.png"
        ]
    );
}

#[test]
fn names_that_are_not_there_are_found() {
    let text = "`a/b.rs::there` `a/b.rs::gone` `a/none.rs` `a/b.rs` `Type::method` `fn/none`";
    let document = Document::parse(text);
    let load = |file: &str| (file == "a/b.rs").then(|| "fn there() {}".to_owned());
    assert_eq!(
        broken_names("x.md", &document, &load),
        ["x.md: a/b.rs::gone", "x.md: a/none.rs"]
    );
    let document = Document::parse("`queues.create` | `Cargo.toml` `main.rs` `a.b.c` `1.4 x`");
    assert_eq!(Vec::from_iter(document.suite_tests()), ["queues.create"]);
}
