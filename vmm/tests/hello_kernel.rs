//! examples/hello-kernel builds as its README says, boots, and finds what it wrote; and the bug
//! that docs/guides/develop-an-nvme-driver.md puts into it is told.

#![allow(clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use support::have_kvm;
use tempfile::TempDir;

const FOLDER: &str = "examples/hello-kernel";

fn repository() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.canonicalize().expect("the repository's folder")
}

/// Builds the kernel in `folder`, as its README says, with its output in `target`.
fn build(folder: &Path, target: &Path) -> PathBuf {
    let built = Command::new(env!("CARGO"))
        .current_dir(folder)
        .args(["build", "--release", "--locked", "--target-dir"])
        .arg(target)
        .env("CARGO_ENCODED_RUSTFLAGS", "")
        .status();
    assert!(built.expect("cargo").success(), "{}", folder.display());
    target.join("release/hello-kernel")
}

/// Boots it: exit code, and what it and Ferrite say.
fn run(kernel: &Path, nvme: &str) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(env!("CARGO_BIN_EXE_ferrite"))
        .args(["run", "--timeout", "120", "--nvme", nvme, "--kernel"])
        .arg(kernel)
        .output()
        .expect("it starts");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (status.code(), text(stdout), text(stderr))
}

#[test]
#[ignore = "builds another kernel"]
fn the_example_says_hello_and_its_bug_is_told() {
    if !have_kvm() {
        return;
    }
    let target = TempDir::new().expect("a folder");
    let root = repository();
    let kernel = build(&root.join(FOLDER), target.path());
    let (code, output, errors) = run(&kernel, "size=64M,serial=HELLO,lint=on");
    assert_eq!(code, Some(33), "{output}{errors}");
    for line in [
        "serial      HELLO\n",
        "namespace 1 131072 blocks of 512 bytes\n",
        "block 7     hello, drive\n",
    ] {
        assert!(output.contains(line), "{output}");
    }
    assert!(!errors.contains("lint"), "{errors}");
    let (code, output, _) = run(&kernel, "size=64M,lba=8K");
    assert_eq!(code, Some(35), "{output}");
    assert!(output.contains("error: this driver wants"), "{output}");

    // A copy beside the original, whose paths it has, with the guide's bug.
    let copy = tempfile::Builder::new()
        .prefix("hello-kernel-")
        .tempdir_in(root.join("target"))
        .expect("a folder");
    let folder = copy.path().join("one");
    std::fs::create_dir_all(folder.join("src")).expect("a folder");
    for file in [
        "Cargo.toml",
        "Cargo.lock",
        "build.rs",
        "src/main.rs",
        "src/nvme.rs",
    ] {
        let text = std::fs::read_to_string(root.join(FOLDER).join(file)).expect("a file");
        let good = "self.registers.write32(pair.cq_doorbell, pair.head.into());";
        let bad = "self.registers.write32(pair.cq_doorbell, u32::from(pair.head) + 1);";
        assert_eq!(text.contains(good), file == "src/nvme.rs", "{file}");
        let text = text.replace("../../", "../../../").replace(good, bad);
        std::fs::write(folder.join(file), text).expect("written");
    }
    let kernel = build(&folder, target.path());
    let (code, _, errors) = run(&kernel, "size=64M,lint=on");
    assert_eq!(code, Some(33), "it works all the same: {errors}");
    assert!(errors.contains("cq-head-beyond-posted"), "{errors}");
}
