//! The tests: each file holds a group, or a part of one that is an idea of its own.

use crate::{Env, Test};

mod atomicity;
mod coalescing;
mod command_sets;
mod compare;
mod doorbells;
mod dsm;
mod events;
mod feature_data;
mod features;
mod flow;
mod format;
mod format_race;
mod format_refused;
mod fused;
mod granularity;
mod hostile;
mod hostile_memory;
mod hostile_setup;
mod identify;
mod interrupts;
mod io;
mod keep_alive;
mod lifecycle;
mod limits;
mod log_support;
mod logs;
mod optional;
mod place;
mod prp;
mod prp_errors;
mod queues;
mod registers;
mod shadow;
mod verify;
mod write_atomicity;
mod write_zeroes;

/// Every group's tests, in the order they run.
pub static GROUPS: &[&[Test]] = &[
    registers::TESTS,
    lifecycle::TESTS,
    queues::TESTS,
    flow::TESTS,
    doorbells::TESTS,
    shadow::TESTS,
    interrupts::TESTS,
    coalescing::TESTS,
    identify::TESTS,
    command_sets::TESTS,
    features::TESTS,
    feature_data::TESTS,
    write_atomicity::TESTS,
    atomicity::TESTS,
    granularity::TESTS,
    logs::TESTS,
    log_support::TESTS,
    events::TESTS,
    keep_alive::TESTS,
    prp::TESTS,
    prp_errors::TESTS,
    io::TESTS,
    compare::TESTS,
    fused::TESTS,
    verify::TESTS,
    write_zeroes::TESTS,
    dsm::TESTS,
    format::TESTS,
    format_refused::TESTS,
    format_race::TESTS,
    limits::TESTS,
    hostile::TESTS,
    hostile_memory::TESTS,
    hostile_setup::TESTS,
];

/// Every test, in the order they run.
pub fn tests() -> impl Iterator<Item = &'static Test> {
    GROUPS.iter().copied().flatten()
}

/// MSI-X Enable, in the dword that holds Message Control.
const MSIX_ENABLE: u32 = 1 << 31;

/// The configuration-space offset of the dword with MSI-X's Message Control (PCI 6.8.2).
fn msix_control(env: &mut Env<'_>) -> Option<u16> {
    /// Status, in the dword at 4: a capability list is there.
    const CAPABILITIES: u32 = 1 << 20;
    const MSIX_ID: u8 = 0x11;
    let transport = env.nvme.transport();
    let status = transport.config_read32(0x04);
    if status == u32::MAX || status & CAPABILITIES == 0 {
        return None;
    }
    let [mut at, ..] = transport.config_read32(0x34).to_le_bytes();
    // A list longer than the space it lies in is a loop.
    for _ in 0..48 {
        let here = u16::from(at & !3);
        if here < 0x40 {
            return None;
        }
        let header = transport.config_read32(here);
        let [id, next, ..] = header.to_le_bytes();
        if id == MSIX_ID {
            return Some(here);
        }
        at = next;
    }
    None
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_rules_are_sentences_with_sections() {
        let mut names = BTreeSet::new();
        for test in tests() {
            let name = test.full_name();
            assert!(names.insert(name.clone()), "{name} is there twice");
            assert!(test.rule.ends_with('.'), "{name}: {}", test.rule);
            let (document, section) = test.section.rsplit_once(' ').unwrap();
            assert!(
                ["Base 2.1", "NVM 1.1", "PCIe 1.1"].contains(&document),
                "{name}"
            );
            // A section, or one of an annex.
            let number = section.trim_start_matches(|c: char| c.is_ascii_uppercase());
            let number = number.strip_prefix('.').unwrap_or(section);
            assert!(number.starts_with(|c: char| c.is_ascii_digit()), "{name}");
        }
        assert!(names.len() >= 60);
    }
}
