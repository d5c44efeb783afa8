//! What cargo knows: who depends on whom, and under which licences.

use std::path::PathBuf;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};
use spdx::{Expression, ParseMode};

use crate::tree;

/// The guest kernel, a workspace of its own.
pub(crate) const KERNEL: &str = "ferrite-guest-kernel";
/// The example kernel, a workspace of its own.
const EXAMPLE: &str = "hello-kernel";
/// The fuzzers, a workspace of its own.
pub(crate) const FUZZERS: &str = "ferrite-fuzz";
/// Dependencies that only exist on other platforms are none of ours.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

/// The rooms at the top.
const TOP: [&str; 2] = ["ferrite", FUZZERS];
/// Who may know whom: each room with the rooms it may depend on and the crates of its subject.
/// Those of [`TOP`] may know everything.
const MAY_KNOW: [(&str, &[&str]); 13] = [
    ("nvme-spec", &[]),
    ("storage", &["vm-memory", "rustix"]),
    ("nvme", &["nvme-spec", "storage", "vm-memory"]),
    ("pci", &["vm-memory"]),
    ("nvme-host", &["nvme-spec"]),
    ("nvme-suite", &["nvme-spec", "nvme-host"]),
    ("nvme-bench", &["nvme-spec", "nvme-host"]),
    ("nvme-oracle", &["nvme-spec", "nvme-host", "storage"]),
    (
        "ferrite-dbpage",
        &["anyhow", "clap", "rustix", "serde", "serde_json"],
    ),
    (
        "mutants",
        &["anyhow", "clap", "rustix", "serde", "serde_json", "toml"],
    ),
    // It tests the program from outside; of the rooms it knows the one that reads TAP.
    (
        "linux-tests",
        &[
            "nvme-suite",
            "anyhow",
            "clap",
            "flate2",
            "lz4_flex",
            "lzma-rust2",
            "object",
            "ruzstd",
            "serde",
            "serde_json",
        ],
    ),
    (
        KERNEL,
        &[
            "nvme-spec",
            "nvme-host",
            "nvme-suite",
            "nvme-bench",
            "linked_list_allocator",
        ],
    ),
    (EXAMPLE, &[KERNEL, "nvme-spec"]),
];
/// Crates that say nothing of a subject: every room may use them.
const ANYWHERE: [&str; 5] = [
    "bitfield-struct",
    "bitflags",
    "thiserror",
    "tracing",
    "zerocopy",
];

/// Licences that a dependency may have; of several to choose from one is enough.
const LICENCES: [&str; 12] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "ISC",
    "MIT",
    // The University of Illinois' licence, LLVM's of old: libFuzzer's.
    "NCSA",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// A workspace and all it depends on.
pub(crate) struct Graph(Metadata);

impl Graph {
    /// The repository's workspace.
    pub(crate) fn of_workspace() -> Self {
        Self::of("Cargo.toml")
    }

    /// The guest kernel's.
    pub(crate) fn of_kernel() -> Self {
        Self::of("guest-tests/kernel/Cargo.toml")
    }

    /// The fuzzers'.
    pub(crate) fn of_fuzzers() -> Self {
        Self::of("fuzz/Cargo.toml")
    }

    /// The example kernel's.
    pub(crate) fn of_example() -> Self {
        Self::of("examples/hello-kernel/Cargo.toml")
    }

    /// All of them.
    pub(crate) fn each() -> [Self; 4] {
        [
            Self::of_workspace(),
            Self::of_kernel(),
            Self::of_fuzzers(),
            Self::of_example(),
        ]
    }

    fn of(manifest: &str) -> Self {
        let options = ["--locked", "--all-features", "--filter-platform", PLATFORM];
        let metadata = MetadataCommand::new()
            .manifest_path(tree::root().join(manifest))
            .other_options(options.map(String::from))
            .exec();
        Self(metadata.unwrap_or_else(|error| panic!("{manifest}: {error}")))
    }

    /// Normal dependencies that the table does not allow.
    pub(crate) fn forbidden(&self) -> Vec<String> {
        let normal = |package: &cargo_metadata::Package| -> Vec<String> {
            let normal = package
                .dependencies
                .iter()
                .filter(|d| d.kind == DependencyKind::Normal);
            normal.map(|dependency| dependency.name.clone()).collect()
        };
        let members = self.0.workspace_packages();
        members
            .iter()
            .flat_map(|package| forbidden(&package.name, &normal(package)))
            .collect()
    }

    /// Name and licence of every package there is.
    pub(crate) fn licences(&self) -> Vec<(String, String)> {
        self.0.packages.iter().map(name_and_licence).collect()
    }

    /// Name and licence of the workspace's own packages.
    pub(crate) fn members(&self) -> Vec<(String, String)> {
        self.0
            .workspace_packages()
            .into_iter()
            .map(name_and_licence)
            .collect()
    }

    /// The first file of every crate: libraries, programs, tests, build scripts.
    pub(crate) fn roots(&self) -> Vec<PathBuf> {
        let members = self.0.workspace_packages();
        let targets = members.iter().flat_map(|package| &package.targets);
        targets
            .map(|target| target.src_path.clone().into_std_path_buf())
            .collect()
    }
}

fn name_and_licence(package: &cargo_metadata::Package) -> (String, String) {
    (
        package.name.to_string(),
        package.license.clone().unwrap_or_default(),
    )
}

/// What a room depends on and may not.
fn forbidden(room: &str, dependencies: &[String]) -> Vec<String> {
    if TOP.contains(&room) {
        return Vec::new();
    }
    let Some((_, allowed)) = MAY_KNOW.iter().find(|(name, _)| *name == room) else {
        return vec![format!("{room} is not in the table")];
    };
    dependencies
        .iter()
        .filter(|name| !allowed.contains(&name.as_str()) && !ANYWHERE.contains(&name.as_str()))
        .map(|name| format!("{room} knows {name}"))
        .collect()
}

/// Packages whose licence is missing, is no SPDX expression, or leaves no allowed choice.
pub(crate) fn refused_licences(packages: &[(String, String)]) -> Vec<String> {
    let allowed: Vec<spdx::Licensee> = LICENCES
        .iter()
        .map(|licence| spdx::Licensee::parse(licence).expect("an SPDX licence"))
        .collect();
    // Older manifests write `MIT/Apache-2.0`.
    let mode = ParseMode {
        allow_slash_as_or_operator: true,
        ..ParseMode::STRICT
    };
    packages
        .iter()
        .filter_map(|(name, licence)| {
            let reason = match Expression::parse_mode(licence, mode) {
                Err(error) => error.to_string(),
                Ok(expression) => {
                    let fine =
                        |wanted: &spdx::LicenseReq| allowed.iter().any(|a| a.satisfies(wanted));
                    match expression.evaluate(fine) {
                        true => return None,
                        false => "not among the allowed ones".to_owned(),
                    }
                }
            };
            Some(format!("{name}: {licence:?}: {reason}"))
        })
        .collect()
}

#[test]
fn a_room_that_knows_too_much_is_found() {
    let list = |names: &[&str]| {
        names
            .iter()
            .map(|&name| name.to_owned())
            .collect::<Vec<_>>()
    };
    assert!(forbidden("nvme", &list(&["nvme-spec", "storage", "thiserror"])).is_empty());
    for top in TOP {
        assert!(forbidden(top, &list(&["anything"])).is_empty());
    }
    for (room, dependency) in [
        ("nvme", "pci"),
        ("nvme", "kvm-ioctls"),
        ("nvme", "rustix"),
        ("storage", "nvme-spec"),
        ("nvme-spec", "vm-memory"),
        ("nvme-host", "nvme"),
        ("nvme-suite", "ferrite"),
        ("pci", "storage"),
        (KERNEL, "nvme"),
    ] {
        let found = forbidden(room, &list(&["zerocopy", dependency]));
        assert_eq!(found, [format!("{room} knows {dependency}")]);
    }
    assert_eq!(forbidden("new", &[]).len(), 1);
}

#[test]
fn licences_that_may_not_be_are_found() {
    let refused = |licence: &str| !refused_licences(&[("a".into(), licence.into())]).is_empty();
    for fine in [
        "MIT",
        "MIT/Apache-2.0",
        "Apache-2.0 / MIT",
        "GPL-2.0-only OR MIT",
        "(MIT OR Apache-2.0) AND Unicode-3.0",
        "Apache-2.0 WITH LLVM-exception",
        "Apache-2.0 AND BSD-3-Clause",
    ] {
        assert!(!refused(fine), "{fine}");
    }
    for wrong in [
        "",
        "GPL-3.0-only",
        "MIT AND GPL-2.0-only",
        "NONE-SUCH",
        "MIT OR",
        "MPL-2.0",
    ] {
        assert!(refused(wrong), "{wrong}");
    }
}
