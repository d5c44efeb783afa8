//! The copy of the repository that mutants are made in: whoever works in the repository sees
//! nothing of them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;

/// Folders that hold what was made from the repository, not the repository.
const NOT_COPIED: [&str; 2] = ["target", ".git"];

/// Every file below a folder, by its path from there, sorted.
pub(crate) fn files(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
        for entry in entries {
            let entry = entry?;
            let (path, name) = (entry.path(), entry.file_name());
            if NOT_COPIED.iter().any(|other| name == *other) {
                continue;
            }
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else {
                let inside = path.strip_prefix(root)?;
                files.push(inside.to_string_lossy().into_owned());
            }
        }
    }
    files.sort();
    Ok(files)
}

/// A copy of a repository.
pub(crate) struct Tree {
    pub(crate) root: PathBuf,
}

impl Tree {
    /// Makes `root` the same as `of`. Files that are the same already keep their times, so that
    /// cargo builds what has changed alone.
    pub(crate) fn copy(of: &Path, root: &Path) -> anyhow::Result<Self> {
        let tree = Self {
            root: root.to_owned(),
        };
        fs::create_dir_all(root).with_context(|| root.display().to_string())?;
        let wanted = files(of)?;
        for file in files(root)? {
            if wanted.binary_search(&file).is_err() {
                fs::remove_file(root.join(&file)).with_context(|| file)?;
            }
        }
        for file in wanted {
            let (from, to) = (of.join(&file), root.join(&file));
            let new = fs::read(&from).with_context(|| from.display().to_string())?;
            if fs::read(&to).is_ok_and(|old| old == new) {
                continue;
            }
            if let Some(folder) = to.parent() {
                fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
            }
            // With its permissions: scripts stay executable.
            fs::copy(&from, &to).with_context(|| to.display().to_string())?;
        }
        Ok(tree)
    }

    /// The text of a file.
    pub(crate) fn read(&self, file: &str) -> anyhow::Result<String> {
        fs::read_to_string(self.root.join(file)).with_context(|| file.to_owned())
    }

    /// Replaces a file.
    pub(crate) fn write(&self, file: &str, text: &str) -> anyhow::Result<()> {
        fs::write(self.root.join(file), text).with_context(|| file.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_follows_what_changes_and_leaves_the_rest_untouched() {
        let folder = tempfile::tempdir().expect("a folder");
        let (of, root) = (folder.path().join("of"), folder.path().join("copy"));
        let write = |file: &str, text: &str| {
            let path = of.join(file);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, text).expect("written");
        };
        write("a.rs", "a");
        write("deep/b.rs", "b");
        write("target/c", "c");
        let tree = Tree::copy(&of, &root).expect("copied");
        assert_eq!(files(&root).expect("files"), ["a.rs", "deep/b.rs"]);
        let time = |file: &str| {
            let path = root.join(file);
            fs::metadata(path).and_then(|m| m.modified()).expect("time")
        };
        let before = time("a.rs");
        tree.write("deep/b.rs", "mutant").expect("written");
        tree.write("new.rs", "left over").expect("written");
        write("deep/d.rs", "d");
        Tree::copy(&of, &root).expect("copied");
        assert_eq!(tree.read("deep/b.rs").expect("text"), "b");
        assert_eq!(
            files(&root).expect("files"),
            ["a.rs", "deep/b.rs", "deep/d.rs"]
        );
        assert_eq!(time("a.rs"), before);
        assert_eq!(fs::read_to_string(of.join("deep/b.rs")).expect("text"), "b");
    }
}
