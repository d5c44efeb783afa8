//! What feeds the controller and its surroundings with whatever a hostile guest, or a careless
//! user, might say.
//!
//! Each public function is a harness: it takes the bytes of one input, makes choices of them
//! (`input`), drives the real code with those, and panics when a rule does not hold. The programs in
//! `targets/` hand the functions to libFuzzer; `tests/` runs them over pseudo-random inputs, so
//! that they stay alive without it. Zero bytes are the choices of a correct host, and a choice is
//! wrong now and then: inputs get far before they go wrong.
//!
//! [`registers()`] writes BARs and configuration space and compares with a plain model of them.
//! [`sqe()`], [`host()`] and [`scribble()`] share a host (`host`) that keeps account of what the
//! controller owes it. [`prp()`] follows each data transfer byte by byte with a model of its own.
//! [`options()`], [`tap()`], [`kernel()`] and [`control()`] read text and files. docs/fuzzing.md says how to run them
//! and what they have found.
//!
//! A harness is deterministic: the same bytes give the same run. [`scribble()`] is not, for a thread
//! changes guest memory at its own pace. With `FERRITE_FUZZ_TRACE` set, each says on standard error
//! what it does.

mod commands;
mod control;
mod device;
mod host;
mod input;
mod kernel;
mod machine;
mod options;
mod prp;
mod registers;
mod scribble;
mod sequences;
mod sqe;
mod tap;

pub use control::control;
pub use kernel::kernel;
pub use options::options;
pub use prp::prp;
pub use registers::registers;
pub use scribble::scribble;
pub use sequences::host;
pub use sqe::sqe;
pub use tap::tap;

/// A harness with its name.
pub type Harness = (&'static str, fn(&[u8]));

/// All of them.
pub const HARNESSES: [Harness; 9] = [
    ("registers", registers),
    ("sqe", sqe),
    ("prp", prp),
    ("host", host),
    ("scribble", scribble),
    ("options", options),
    ("tap", tap),
    ("kernel", kernel),
    ("control", control),
];

/// Whether to say what is done.
pub(crate) fn is_traced() -> bool {
    static TRACED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *TRACED.get_or_init(|| std::env::var_os("FERRITE_FUZZ_TRACE").is_some())
}

/// Says what is done, for who looks at a finding.
macro_rules! trace {
    ($($text:tt)*) => {
        if $crate::is_traced() {
            eprintln!($($text)*);
        }
    };
}
pub(crate) use trace;
