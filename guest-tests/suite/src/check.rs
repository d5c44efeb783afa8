//! Assertions that return instead of panicking.

use alloc::format;
use core::fmt::{Debug, LowerHex};

use nvme_spec::{Cqe, Status};

use crate::Outcome;

/// Fails the test with a message unless a condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::Stop::Failed(alloc::format!($($message)+)));
        }
    };
}

/// Fails the test.
macro_rules! fail {
    ($($message:tt)+) => {
        return Err($crate::Stop::Failed(alloc::format!($($message)+)))
    };
}

/// Skips the test: the controller does not offer what the rule is about.
macro_rules! skip {
    ($($message:tt)+) => {
        return Err($crate::Stop::Skipped(alloc::format!($($message)+)))
    };
}

/// Skips the test unless a condition holds.
macro_rules! require {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            skip!($($message)+);
        }
    };
}

/// Fails unless `found` equals `expected`.
pub(crate) fn equal<V: PartialEq + Debug>(what: &str, found: V, expected: V) -> Outcome {
    ensure!(
        found == expected,
        "{what}: expected {expected:?}, found {found:?}"
    );
    Ok(())
}

/// As [`equal`], shown in hexadecimal.
pub(crate) fn equal_hex<V: PartialEq + LowerHex>(what: &str, found: V, expected: V) -> Outcome {
    ensure!(
        found == expected,
        "{what}: expected {expected:#x}, found {found:#x}"
    );
    Ok(())
}

/// Fails unless a completion's status is `expected`, whatever its retry bits.
pub(crate) fn status(what: &str, cqe: Cqe, expected: Status) -> Outcome {
    one_of(what, cqe, &[expected])
}

/// Fails unless a completion's status is one of `allowed`.
pub(crate) fn one_of(what: &str, cqe: Cqe, allowed: &[Status]) -> Outcome {
    let found = cqe.status();
    if allowed.iter().any(|status| found.same_code(*status)) {
        return Ok(());
    }
    let expected = match allowed {
        [one] => format!("{one}"),
        several => format!("one of {several:?}"),
    };
    fail!("{what}: expected {expected}, found {found}")
}

/// Fails unless a completion reports an error of any kind.
pub(crate) fn refused(what: &str, cqe: Cqe) -> Outcome {
    ensure!(
        !cqe.status().is_success(),
        "{what}: expected an error status, found success"
    );
    Ok(())
}

/// Fails unless two byte strings are the same; names the first difference.
pub(crate) fn same_bytes(what: &str, found: &[u8], expected: &[u8]) -> Outcome {
    ensure!(
        found.len() == expected.len(),
        "{what}: expected {} bytes, found {}",
        expected.len(),
        found.len()
    );
    let differs = found
        .iter()
        .zip(expected)
        .enumerate()
        .find(|(_, (found, expected))| found != expected);
    if let Some((at, (found, expected))) = differs {
        fail!("{what}: byte {at:#x}: expected {expected:#04x}, found {found:#04x}");
    }
    Ok(())
}
