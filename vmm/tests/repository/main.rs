//! The repository's rules: who may depend on whom, licences, where `unsafe` may be, files.
//!
//! Each rule is a function over text or metadata that returns what breaks it; its own tests, in
//! the module it lives in, show it broken. Here the rules meet the repository.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod dependencies;
mod places;
mod source;
#[path = "../support/tree.rs"]
mod tree;

use std::collections::BTreeSet;
use std::path::PathBuf;

use dependencies::{FUZZERS, Graph, KERNEL};
use source::Source;

/// Modules that may hold `unsafe`, each with its reason. The guest kernel is bare metal; its
/// reasons are the machine's.
const UNSAFE: [(&str, &str); 21] = [
    (
        "vmm/src/machine/ioevent.rs",
        "an owned descriptor becomes the EventFd that kvm-ioctls takes",
    ),
    (
        "vmm/src/machine/memory.rs",
        "KVM is given raw addresses of guest memory",
    ),
    (
        "vmm/src/machine/vcpu.rs",
        "kvm_run is a shared union; a signal handler ends a run",
    ),
    (
        "vmm/src/peer/process.rs",
        "a child asks to end with its parent, between fork and exec",
    ),
    ("vmm/tests/hotpath.rs", "a global allocator that counts"),
    (
        "guest-tests/kernel/src/acpi.rs",
        "reads tables at addresses that firmware gives",
    ),
    (
        "guest-tests/kernel/src/call.rs",
        "enters ring 0 by a deliberate fault",
    ),
    (
        "guest-tests/kernel/src/fault.rs",
        "is entered from the exception stubs",
    ),
    (
        "guest-tests/kernel/src/irq.rs",
        "reads counters that the interrupt stubs write",
    ),
    (
        "guest-tests/kernel/src/lapic.rs",
        "the local APIC's registers",
    ),
    (
        "guest-tests/kernel/src/lib.rs",
        "`program!` exports a symbol",
    ),
    (
        "guest-tests/kernel/src/machine.rs",
        "the entry to ring 3; the program's symbol",
    ),
    (
        "guest-tests/kernel/src/memory.rs",
        "the heap, and DMA memory by physical address",
    ),
    (
        "guest-tests/kernel/src/mmio.rs",
        "volatile accesses to registers",
    ),
    ("guest-tests/kernel/src/pci/function.rs", "maps BARs"),
    ("guest-tests/kernel/src/pci/mod.rs", "maps ECAM"),
    ("guest-tests/kernel/src/port.rs", "IN and OUT"),
    (
        "guest-tests/kernel/src/runtime.rs",
        "memcpy and the like; the panic handler's symbols",
    ),
    (
        "guest-tests/kernel/src/selfcheck.rs",
        "faults on purpose; devices at given addresses",
    ),
    (
        "guest-tests/kernel/src/start_info.rs",
        "the boot protocol's structures by address",
    ),
    ("guest-tests/kernel/src/time.rs", "RDTSC and CPUID"),
];

/// What the controller may not name: its time is a parameter, it spawns nothing, and the same
/// inputs give the same outputs.
const NOT_DETERMINISTIC: [&str; 8] = [
    "Instant",
    "SystemTime",
    "spawn",
    "sleep",
    "HashMap",
    "HashSet",
    "OwnedFd",
    "File",
];

fn report(rule: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

/// Every Rust file of the repository, parsed.
fn sources() -> Vec<(String, Source)> {
    let files = tree::with_extension("rs");
    assert!(files.len() > 100, "only {} files found", files.len());
    files
        .into_iter()
        .map(|path| {
            let source = Source::parse(&tree::read(&path)).unwrap_or_else(|error| {
                panic!("{path}: {error}");
            });
            (path, source)
        })
        .collect()
}

#[test]
fn rooms_know_whom_they_may() {
    for graph in Graph::each() {
        report("a room knows what it may not", &graph.forbidden());
    }
}

#[test]
fn every_dependency_has_a_licence_that_is_allowed() {
    for graph in Graph::each() {
        let packages = graph.licences();
        assert!(
            packages.len() > 10,
            "only {} packages found",
            packages.len()
        );
        report("licences", &dependencies::refused_licences(&packages));
    }
}

#[test]
fn every_room_is_under_both_licences_and_has_their_texts() {
    let members = Graph::each().map(|graph| graph.members()).concat();
    for room in [KERNEL, FUZZERS] {
        assert!(members.iter().any(|(name, _)| name == room), "{room}");
    }
    let broken: Vec<String> = members
        .into_iter()
        .filter(|(_, licence)| licence != "Apache-2.0 OR MIT")
        .map(|(name, licence)| format!("{name}: {licence}"))
        .collect();
    report("not `Apache-2.0 OR MIT`", &broken);
    for text in ["LICENSE-APACHE", "LICENSE-MIT"] {
        assert!(tree::root().join(text).is_file(), "{text} is missing");
    }
}

#[test]
fn unsafe_is_where_the_list_says() {
    let found: BTreeSet<String> = sources()
        .into_iter()
        .filter(|(_, source)| source.names("unsafe"))
        .map(|(path, _)| path)
        .collect();
    let listed: BTreeSet<String> = UNSAFE.iter().map(|(path, _)| (*path).into()).collect();
    let new: Vec<_> = found.difference(&listed).cloned().collect();
    report("unsafe outside the list in this test", &new);
    let gone: Vec<_> = listed.difference(&found).cloned().collect();
    report("listed, but without unsafe", &gone);
}

#[test]
fn the_controller_names_no_clock_thread_or_descriptor() {
    let mut broken = Vec::new();
    for (path, source) in sources() {
        // Model checkers have threads of their own, in files of tests.
        let is_core = path.starts_with("devices/nvme/controller/src/");
        if is_core && !path.ends_with("_tests.rs") {
            let found = NOT_DETERMINISTIC.iter().filter(|name| source.names(name));
            broken.extend(found.map(|name| format!("{path}: {name}")));
        }
    }
    report("the core is not deterministic", &broken);
}

#[test]
fn every_source_file_is_part_of_a_crate() {
    let roots: Vec<PathBuf> = Graph::each().map(|graph| graph.roots()).concat();
    assert!(roots.len() > 10, "only {} crates found", roots.len());
    let reached = source::reachable(&roots, &|path| std::fs::read_to_string(path).ok());
    let orphans: Vec<String> = tree::with_extension("rs")
        .into_iter()
        .filter(|path| !reached.contains(&tree::root().join(path)))
        .collect();
    report("no `mod` leads to", &orphans);
}

#[test]
fn files_are_one_idea_long() {
    let long: Vec<String> = sources()
        .iter()
        .filter(|(_, source)| source.is_too_long())
        .map(|(path, source)| format!("{path}: {} lines of code", source.code_lines))
        .collect();
    report(
        "split it, or say in its top comment why it has over 600 lines",
        &long,
    );
}

#[test]
fn nothing_is_left_to_do() {
    let left: Vec<String> = sources()
        .iter()
        .flat_map(|(path, source)| {
            source
                .left_to_do
                .iter()
                .map(move |what| format!("{path}: {what}"))
        })
        .collect();
    report("left to do", &left);
}

#[test]
fn no_file_names_a_place_on_someones_machine() {
    let mut broken = Vec::new();
    for path in tree::all() {
        // What is not text names nothing.
        if let Ok(text) = std::fs::read_to_string(tree::root().join(&path)) {
            broken.extend(
                places::foreign_places(&text)
                    .iter()
                    .map(|what| format!("{path}: {what}")),
            );
        }
    }
    report("absolute paths", &broken);
}
