//! A mutant: one small change that breaks a rule, and the test that must notice.

use std::{fs, path::Path};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

/// A file of the list.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mutant {
    /// Its path in the list without the ending: `queue/phase-early`.
    #[serde(skip)]
    pub(crate) name: String,
    /// What is wrong with the code then, in a sentence.
    pub(crate) breaks: String,
    /// Who says that it is wrong: a section of a specification, an invariant of the architecture.
    pub(crate) rule: String,
    /// The file that is changed.
    pub(crate) file: String,
    /// Text that is there once.
    pub(crate) before: String,
    /// What stands there instead.
    pub(crate) after: String,
    /// The test that must fail, as documents name tests: `path/file.rs::name`.
    pub(crate) test: String,
    /// What the test's words must contain, for a test of many things: that it failed for this.
    pub(crate) says: Option<String>,
    /// That test may go on for ever: running out of time counts as failing.
    #[serde(default)]
    pub(crate) hangs: bool,
}

impl Mutant {
    fn parse(name: &str, text: &str) -> anyhow::Result<Self> {
        let mutant = Self {
            name: name.to_owned(),
            ..toml::from_str(text)?
        };
        ensure!(
            mutant.breaks.ends_with('.') && !mutant.rule.is_empty(),
            "`breaks` is a sentence and `rule` says where it comes from"
        );
        ensure!(
            mutant.before.trim() != mutant.after.trim(),
            "nothing changes"
        );
        Ok(mutant)
    }

    /// The text of the changed file.
    ///
    /// # Errors
    /// The text to change is not there exactly once: the code has moved on, and the mutant must
    /// be renewed.
    pub(crate) fn apply(&self, text: &str) -> anyhow::Result<String> {
        match text.matches(&self.before).count() {
            1 => Ok(text.replacen(&self.before, &self.after, 1)),
            count => bail!(
                "renew it (docs/testing.md): `before` is {count} times in {}, not once",
                self.file
            ),
        }
    }

    /// What the test is built from and called, in the tree at `root`.
    ///
    /// # Errors
    /// There is no such test.
    pub(crate) fn test(&self, root: &Path) -> anyhow::Result<Test> {
        Test::find(root, &self.test)
    }
}

/// A test function.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct Test {
    /// The package's folder.
    pub(crate) folder: String,
    /// Its package.
    pub(crate) package: String,
    /// The tests of the library, or those of the named target.
    pub(crate) target: Option<String>,
    /// The file's name without its ending.
    pub(crate) module: String,
    /// The function's name.
    pub(crate) function: String,
}

impl Test {
    /// Finds `path/file.rs::name` in the tree at `root`: the package is that of the nearest
    /// manifest above the file, the target what cargo makes of the file's place.
    pub(crate) fn find(root: &Path, named: &str) -> anyhow::Result<Self> {
        let (file, function) = named
            .split_once("::")
            .context("a test is named `path/file.rs::name`")?;
        let text = fs::read_to_string(root.join(file)).with_context(|| file.to_owned())?;
        ensure!(is_test(&text, function), "{file} has no test `{function}`");
        let folder = Path::new(file)
            .ancestors()
            .skip(1)
            .find(|folder| root.join(folder).join("Cargo.toml").is_file())
            .with_context(|| format!("{file} is in no package"))?;
        let mut inside = Path::new(file).strip_prefix(folder)?.iter();
        let target = match inside.next().and_then(|part| part.to_str()) {
            Some("src") => None,
            Some("tests") => {
                let first = inside.next().map(Path::new).and_then(Path::file_stem);
                Some(first.context("a file")?.to_string_lossy().into_owned())
            }
            _ => bail!("{file} is neither in `src` nor in `tests` of its package"),
        };
        let manifest = fs::read_to_string(root.join(folder).join("Cargo.toml"))?;
        let Manifest { package } = toml::from_str(&manifest)?;
        Ok(Self {
            folder: folder.to_string_lossy().into_owned(),
            package: package.name,
            target,
            module: file
                .trim_end_matches(".rs")
                .rsplit('/')
                .next()
                .unwrap_or_default()
                .to_owned(),
            function: function.to_owned(),
        })
    }
}

#[derive(Deserialize)]
struct Manifest {
    package: Package,
}

#[derive(Deserialize)]
struct Package {
    name: String,
}

/// Whether `text` has a test function of that name: one with attributes right above it, of which
/// one is `#[test]`.
fn is_test(text: &str, function: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let start = format!("fn {function}(");
    let is_it = |line: &&str| line.starts_with(&start);
    lines.iter().position(is_it).is_some_and(|at| {
        let above = lines.iter().take(at).rev();
        above
            .take_while(|line| line.starts_with("#["))
            .any(|line| line.starts_with("#[test]"))
    })
}

/// The list in the folder `list`, by name.
///
/// # Errors
/// Names the file that is not a mutant, and why.
pub(crate) fn load(list: &Path) -> anyhow::Result<Vec<Mutant>> {
    let mut mutants = Vec::new();
    for path in crate::tree::files(list)? {
        let name = path.strip_suffix(".toml");
        let name = name.with_context(|| format!("{path}: a mutant is a `.toml` file"))?;
        let text = fs::read_to_string(list.join(&path)).with_context(|| path.clone())?;
        let mutant = Mutant::parse(name, &text).with_context(|| format!("mutant {name}"))?;
        mutants.push(mutant);
    }
    Ok(mutants)
}

/// A mutant for tests.
#[cfg(test)]
pub(crate) fn example(before: &str, after: &str) -> anyhow::Result<Mutant> {
    Mutant::parse(
        "a/b",
        &format!(
            "breaks = 'It does.'\nrule = 'Base 1'\nfile = 'a.rs'\nbefore = '{before}'\n\
             after = '{after}'\ntest = 'a.rs::t'"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{list, root};

    #[test]
    fn every_mutant_of_the_list_can_be_made_and_its_test_is_there() {
        let mutants = load(&list()).expect("a list");
        assert!(mutants.len() >= 25, "only {}", mutants.len());
        let wrong: Vec<String> = mutants
            .iter()
            .filter_map(|mutant| {
                let file = root().join(&mutant.file);
                let text = fs::read_to_string(&file).unwrap_or_default();
                let made = mutant.apply(&text).map(|_| ());
                let error = made.and_then(|()| mutant.test(&root()).map(|_| ())).err()?;
                Some(format!("{}: {error:#}", mutant.name))
            })
            .collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn what_is_not_there_once_is_refused() {
        let mutant = example("x >= 1", "x > 1").expect("valid");
        assert_eq!(mutant.apply("if x >= 1 {}").expect("once"), "if x > 1 {}");
        for text in ["", "x >= 1; x >= 1"] {
            let error = mutant.apply(text).expect_err("not once");
            assert!(error.to_string().contains("renew it"), "{error}");
        }
    }

    #[test]
    fn a_mutant_that_changes_nothing_or_says_too_little_is_refused() {
        assert!(example("x", "y").is_ok());
        assert!(example("x", "x ").is_err());
        assert!(Mutant::parse("a", "breaks = 'It does.'").is_err());
    }

    #[test]
    fn tests_are_found_by_where_they_are() {
        let test = |name: &str| Test::find(&root(), name);
        let here = "mutants/src/mutant.rs::tests_are_found_by_where_they_are";
        let here = test(here).expect("this test");
        assert_eq!((here.package.as_str(), here.target), ("mutants", None));
        for (name, target) in [
            (
                "vmm/tests/pci.rs::bars_move_and_masks_hold_interrupts_back",
                "pci",
            ),
            (
                "vmm/tests/inflight/queues.rs::a_pending_request_keeps_its_memory",
                "inflight",
            ),
        ] {
            let found = test(name).expect("a test");
            assert_eq!(
                (found.package.as_str(), found.target.as_deref()),
                ("ferrite", Some(target))
            );
        }
        for none in [
            "mutants/src/mutant.rs::load",
            "mutants/src/mutant.rs::none",
            "mutants/src/none.rs::none",
            "mutants/src/mutant.rs",
        ] {
            assert!(test(none).is_err(), "{none}");
        }
    }
}
