//! Kernel modules: what one needs before it, as its `.modinfo` says. The packages come without the
//! index that `depmod` makes at installation.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::compressed;

/// A module as it is loaded: uncompressed.
pub(crate) struct Module {
    pub(crate) name: String,
    pub(crate) data: Vec<u8>,
}

/// Modules and all they need, in the order in which they can be loaded. Those that are built into
/// the kernel are left out; one that is neither is an error.
pub(crate) fn in_order(folder: &Path, names: &[&str]) -> Result<Vec<Module>> {
    let mut paths = BTreeMap::new();
    index(&folder.join("kernel"), &mut paths)?;
    let builtin = fs::read_to_string(folder.join("modules.builtin")).unwrap_or_default();
    let builtin: Vec<_> = builtin
        .lines()
        .filter_map(|line| name_of(line.rsplit('/').next()?))
        .collect();
    let mut loaded = Vec::new();
    for name in names {
        load(&underscored(name), &paths, &builtin, &mut loaded)?;
    }
    Ok(loaded)
}

fn load(
    name: &str,
    paths: &BTreeMap<String, PathBuf>,
    builtin: &[String],
    loaded: &mut Vec<Module>,
) -> Result<()> {
    if builtin.iter().any(|b| b == name) || loaded.iter().any(|module| module.name == name) {
        return Ok(());
    }
    let path = paths
        .get(name)
        .with_context(|| format!("the kernel has no module {name}"))?;
    let file = fs::read(path)?;
    let data = compressed::unpacked(&file).with_context(|| path.display().to_string())?;
    for needed in needed(&data) {
        load(&needed, paths, builtin, loaded)?;
    }
    loaded.push(Module {
        name: name.to_owned(),
        data,
    });
    Ok(())
}

fn index(folder: &Path, paths: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            index(&path, paths)?;
        } else if let Some(name) = path.file_name().and_then(|name| name_of(name.to_str()?)) {
            paths.insert(name, path);
        }
    }
    Ok(())
}

/// A file's module: `xfs` of `xfs.ko.xz`.
fn name_of(file: &str) -> Option<String> {
    let (name, rest) = file.split_once(".ko")?;
    (rest.is_empty() || rest.starts_with('.')).then(|| underscored(name))
}

/// Files have dashes where modules have underscores, and not always.
fn underscored(name: &str) -> String {
    name.replace('-', "_")
}

/// What `.modinfo` has after `depends=`; its entries end with a zero byte each.
fn needed(module: &[u8]) -> Vec<String> {
    let entry = b"\0depends=";
    let at = module
        .windows(entry.len())
        .position(|window| window == entry);
    let rest = at.and_then(|at| module.get(at + entry.len()..));
    let list = rest.and_then(|rest| rest.split(|byte| *byte == 0).next());
    let list = String::from_utf8_lossy(list.unwrap_or_default()).into_owned();
    let names = list.split(',').filter(|name| !name.is_empty());
    names.map(underscored).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_needs_comes_first_and_once() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, depends: &str| {
            let path = folder.path().join("kernel").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("\x7FELF\0license=GPL\0depends={depends}\0x")).unwrap();
        };
        write("arch/kvm-amd.ko", "kvm,ccp,built-in");
        write("arch/kvm.ko", "irqbypass");
        write("lib/irqbypass.ko", "");
        write("drivers/ccp.ko", "irqbypass");
        fs::write(
            folder.path().join("modules.builtin"),
            "kernel/a/built-in.ko\n",
        )
        .unwrap();
        let modules = in_order(folder.path(), &["kvm-amd", "kvm"]).unwrap();
        let names: Vec<_> = modules.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(names, ["irqbypass", "kvm", "ccp", "kvm_amd"]);
        let error = in_order(folder.path(), &["xfs"]).err().unwrap();
        assert_eq!(error.to_string(), "the kernel has no module xfs");
    }
}
