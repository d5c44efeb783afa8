//! The repository's files, for tests of what they say.

use std::path::{Path, PathBuf};

/// Folders that hold what was made from the repository, not the repository.
const NOT_OURS: [&str; 2] = ["target", ".git"];

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

#[test]
fn this_file_is_found_and_builds_are_not() {
    let all = all();
    assert!(all.contains(&"vmm/tests/support/tree.rs".to_owned()));
    assert!(
        !all.iter()
            .any(|path| path.starts_with("target/") || path.starts_with(".git/"))
    );
}
