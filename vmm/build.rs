//! Builds the bare-metal test kernel (guest-tests/kernel) and leaves it in OUT_DIR, from where
//! the library embeds it.
//!
//! A build of its own: another workspace and lock file, `panic = "abort"`, and nothing inherited
//! of what the outer build was told (flags, wrappers such as clippy's, target, profiles), be it
//! by variables or by cargo's configuration files.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const KERNEL: &str = "ferrite-guest-kernel";
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What the kernel is made of, relative to the root of the repository. Folders count with all
/// they hold.
const SOURCES: [&str; 11] = [
    "Cargo.toml",
    "guest-tests/kernel/Cargo.toml",
    "guest-tests/kernel/Cargo.lock",
    "guest-tests/kernel/build.rs",
    "guest-tests/kernel/kernel.ld",
    "guest-tests/kernel/src",
    "devices/nvme/spec",
    "devices/nvme/host",
    "guest-tests/suite",
    "guest-tests/bench",
    "vmm/build.rs",
];

/// How the names of variables begin that carry the outer build's flags, wrappers and profiles.
const REMOVED: [&str; 6] = [
    "CARGO",
    "__CARGO",
    "RUSTC_",
    "RUSTFLAGS",
    "RUSTDOC",
    "CLIPPY_",
];

/// Variables that the inner cargo may keep although they begin as the removed ones do: where
/// cargo and its registries are, and the job server.
const KEPT: [&str; 5] = [
    "CARGO_HOME",
    "CARGO_MAKEFLAGS",
    "CARGO_NET_",
    "CARGO_HTTP_",
    "CARGO_REGISTR",
];

/// The kernel's profile once more: `--config` outranks configuration files, which outrank its
/// manifest.
const PROFILE: [&str; 7] = [
    "profile.release.opt-level=2",
    "profile.release.codegen-units=1",
    "profile.release.debug='line-tables-only'",
    "profile.release.debug-assertions=false",
    "profile.release.overflow-checks=false",
    "profile.release.lto=false",
    "profile.release.panic='abort'",
];

fn main() -> Result<(), String> {
    let variable = |name: &str| env::var(name).map_err(|error| format!("{name}: {error}"));
    let root = Path::new(&variable("CARGO_MANIFEST_DIR")?).join("..");
    let out = PathBuf::from(variable("OUT_DIR")?);
    for source in SOURCES {
        println!("cargo:rerun-if-changed={}", root.join(source).display());
    }

    let target = out.join("kernel");
    let mut cargo = Command::new(variable("CARGO")?);
    for (name, _) in env::vars_os() {
        if leaks(&name.to_string_lossy()) {
            cargo.env_remove(&name);
        }
    }
    // Set but empty, it outranks the `rustflags` of configuration files, whose processor's
    // instructions (-Ctarget-cpu=native) the kernel must not have: it never sets CR4.OSXSAVE.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", "");
    for setting in PROFILE {
        cargo.args(["--config", setting]);
    }
    let status = cargo
        .current_dir(root.join("guest-tests/kernel"))
        .args([
            "build",
            "--release",
            "--locked",
            "--target",
            TARGET,
            "--target-dir",
        ])
        .arg(&target)
        .status()
        .map_err(|error| format!("cargo could not be started for the test kernel: {error}"))?;
    if !status.success() {
        return Err(format!(
            "the test kernel's cargo, whose words are above: {status}. Without a network, fetch \
             what the kernel is made of before: \
             `cargo fetch --locked --manifest-path guest-tests/kernel/Cargo.toml`"
        ));
    }
    let elf = target.join(TARGET).join("release").join(KERNEL);
    println!("cargo:rustc-env=FERRITE_TEST_KERNEL={}", elf.display());
    Ok(())
}

/// Whether the inner cargo must not see this variable of the outer one.
fn leaks(name: &str) -> bool {
    let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    begins(&REMOVED) && !begins(&KEPT)
}
