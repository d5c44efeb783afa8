//! Which combinations there are, and what is refused before one runs.

#![allow(clippy::expect_used, reason = "tests")]

use std::collections::BTreeSet;

use super::*;
use crate::options::NvmeOptions;

fn matrix(fixed: &str) -> Matrix {
    let mut nvme = NvmeOptions::default();
    nvme.preset("namespaces=2,size=256M,mdts=4M")
        .expect("valid");
    nvme.apply(fixed).expect("valid");
    Matrix {
        selftest: Selftest {
            nvme,
            filter: String::new(),
            doorbells: nvme_suite::Doorbells::Registers,
            memory: 256 << 20,
            timeout: Duration::from_secs(60),
            observe: Default::default(),
        },
        arguments: vec!["--shadow".to_string()],
        fixed: [fixed]
            .iter()
            .filter(|f| !f.is_empty())
            .map(ToString::to_string)
            .collect(),
        jobs: NonZero::<usize>::MIN,
    }
}

fn options(fixed: &str) -> Vec<Combination> {
    let plan = matrix(fixed).plan().expect("valid");
    plan.into_iter()
        .map(|(combination, _)| combination)
        .collect()
}

#[test]
fn every_value_is_there_and_each_combination_once() {
    let all = options("");
    assert!((40..=60).contains(&all.len()), "{}", all.len());
    let distinct: BTreeSet<&str> = all.iter().map(|c| c.options.as_str()).collect();
    assert_eq!(distinct.len(), all.len());
    for value in AXES.iter().flat_map(|axis| axis.values) {
        assert!(all.iter().any(|c| c.options.contains(value)), "{value}");
    }
    for lba in ["lba=512", "lba=4K", "lba=16K", "lba=64K"] {
        for queues in ["queues=1", "queues=8"] {
            let both = |c: &&Combination| {
                let words: Vec<&str> = c.options.split(',').collect();
                words.contains(&lba) && words.contains(&queues)
            };
            assert!(all.iter().any(|c| both(&c)), "{lba},{queues}");
        }
    }
}

#[test]
fn an_axis_speaks_of_its_keys_alone() {
    for axis in &AXES {
        for value in axis.values {
            let mut nvme = NvmeOptions::default();
            nvme.apply(value).expect("valid");
            assert!(
                nvme.given
                    .keys()
                    .all(|key| axis.keys.contains(&key.as_str())),
                "{value}"
            );
        }
    }
}

#[test]
fn what_is_fixed_holds_for_all_and_its_axis_falls_away() {
    let all = options("lba=4K,nabsn=64K,seed=7");
    assert!(
        all.iter()
            .all(|c| !c.options.contains("lba=") && !c.options.contains("awun"))
    );
    assert!(all.iter().any(|c| c.options == "iu=1M,queues=8,workers=4"));
    let first = all.first().expect("some");
    let arguments = format!("--shadow --nvme lba=4K,nabsn=64K,seed=7,{}", first.options);
    assert_eq!(first.arguments, arguments);
    for (_, selftest) in matrix("lba=4K").plan().expect("valid") {
        assert_eq!(selftest.nvme.namespace.lba, Some(4096));
    }
    let all_fixed = options("lba=4K,iu=4K,awun=4K,queues=3");
    assert_eq!(all_fixed.len(), 1);
    assert!(all_fixed.iter().all(|c| c.options.is_empty()));
}

#[test]
fn a_contradiction_is_told_with_its_combination_and_rule() {
    for (fixed, words) in [
        ("mdts=32K", "--matrix with lba=64K"),
        ("mdts=32K", "the largest transfer must hold a logical block"),
        ("size=4097K", "a whole number of logical blocks"),
        (
            "nows=24K,lba=512,iu=16K",
            "multiple of the indirection unit",
        ),
    ] {
        let error = matrix(fixed).plan().expect_err(fixed).to_string();
        assert!(error.contains(words), "{fixed}: {error}");
    }
}

#[test]
fn words_are_quoted_for_a_shell() {
    for (word, expected) in [
        ("lba=4K,queues=8", "lba=4K,queues=8"),
        ("model=A B", "'model=A B'"),
        ("queues.*", "'queues.*'"),
        ("it's", "'it'\\''s'"),
        ("", "''"),
    ] {
        assert_eq!(quoted(word), expected);
    }
}
