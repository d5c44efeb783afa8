//! The harnesses under `cargo test`, without libFuzzer: pseudo-random inputs, so that they do not
//! rot, and what was once found. `FERRITE_FUZZ_SEED=N` runs one of those inputs alone.

#![allow(clippy::panic, reason = "tests")]

use std::panic::catch_unwind;

use ferrite_fuzz::HARNESSES;

/// Inputs of each harness.
const INPUTS: u64 = 2_000;

/// Bytes of a seed: as many as it says, with zeroes, which are right, more or less often.
fn input(seed: u64) -> Vec<u8> {
    // SplitMix64.
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut next = move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB) >> 31
    };
    let length = next() % 700;
    let zeroes = next() % 4;
    (0..length)
        .map(|_| {
            let random = next();
            let [byte, chance, ..] = random.to_le_bytes();
            if u64::from(chance) % 4 < zeroes {
                0
            } else {
                byte
            }
        })
        .collect()
}

fn run(name: &str, count: u64) {
    let harness = HARNESSES.iter().find(|(other, _)| *other == name);
    let (_, harness) = harness.unwrap_or_else(|| panic!("no harness {name}"));
    harness(&[]);
    let only = std::env::var("FERRITE_FUZZ_SEED").ok();
    let only: Option<u64> = only.and_then(|seed| seed.parse().ok());
    let seeds = only.map_or(0..count, |seed| seed..seed + 1);
    for seed in seeds {
        let bytes = input(seed);
        let result = catch_unwind(|| harness(&bytes));
        assert!(result.is_ok(), "{name}: see FERRITE_FUZZ_SEED={seed}");
    }
}

#[test]
fn registers() {
    run("registers", INPUTS);
}

#[test]
fn sqe() {
    run("sqe", INPUTS);
}

#[test]
fn prp() {
    run("prp", INPUTS);
}

#[test]
fn host() {
    run("host", INPUTS);
}

#[test]
fn scribble() {
    run("scribble", INPUTS / 4);
}

#[test]
fn options() {
    run("options", INPUTS);
}

#[test]
fn tap() {
    run("tap", INPUTS);
}

#[test]
fn kernel() {
    run("kernel", INPUTS);
}

#[test]
fn control() {
    run("control", INPUTS);
}

/// An input that libFuzzer found: commas whose number is even after one halving, and not after two.
#[test]
fn commas_of_a_key_are_found_in_their_list() {
    let harness = HARNESSES.iter().find(|(name, _)| *name == "options");
    let (_, harness) = harness.unwrap_or_else(|| panic!("no harness of options"));
    harness(&[&b"\0nowhere"[..], &[b','; 32], b"z"].concat());
}
