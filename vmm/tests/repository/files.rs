//! The repository's files.

use std::path::{Path, PathBuf};

/// Folders that hold what was made from the repository, not the repository.
const NOT_OURS: [&str; 2] = ["target", ".git"];
/// Where people and build machines keep their checkouts. Split, so that this file is none.
const PLACES: [&str; 7] = [
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/wo", "rk/"),
    concat!("/mn", "t/"),
    concat!("/tm", "p/"),
    concat!("/Us", "ers/"),
    concat!("C:", "\\"),
];

/// The repository's folder.
pub(crate) fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.canonicalize().expect("the repository's folder")
}

/// A file's text, by its path in the repository.
pub(crate) fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file, by its path in the repository, sorted.
pub(crate) fn all() -> Vec<String> {
    let root = root();
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder").flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            if NOT_OURS.iter().any(|other| name == *other) {
                continue;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(path);
            } else if let Ok(inside) = path.strip_prefix(&root) {
                files.push(inside.to_string_lossy().into_owned());
            }
        }
    }
    files.sort();
    files
}

/// The files whose names end in `.extension`.
pub(crate) fn with_extension(extension: &str) -> Vec<String> {
    let ending = format!(".{extension}");
    all()
        .into_iter()
        .filter(|path| path.ends_with(&ending))
        .collect()
}

/// Absolute paths in a text that exist on one machine only.
pub(crate) fn foreign_places(text: &str) -> Vec<String> {
    let begins = |line: &str, place: &str| {
        line.match_indices(place).any(|(at, _)| {
            // `devices/tmp/x` and `https://host/root/` are no absolute paths.
            let before = line.get(..at).and_then(|rest| rest.chars().next_back());
            !before.is_some_and(|c| c.is_ascii_alphanumeric() || "._-/}".contains(c))
        })
    };
    let lines = text
        .lines()
        .filter(|line| PLACES.iter().any(|place| begins(line, place)));
    lines.map(|line| line.trim().to_owned()).collect()
}

#[test]
fn absolute_paths_of_a_machine_are_found() {
    for place in PLACES {
        let text = format!("first\n  let path = \"{place}someone/file\";\n");
        assert_eq!(foreign_places(&text).len(), 1, "{place}");
    }
    for fine in [
        "a/dev/kvm",
        "/dev/kvm",
        "/sys/module",
        "https://example.org/root/x",
        "guest/tmp/x",
    ] {
        assert!(foreign_places(fine).is_empty(), "{fine}");
    }
}

#[test]
fn this_file_is_found_and_builds_are_not() {
    let all = all();
    assert!(all.contains(&"vmm/tests/repository/files.rs".to_owned()));
    assert!(
        !all.iter()
            .any(|path| path.starts_with("target/") || path.starts_with(".git/"))
    );
}
