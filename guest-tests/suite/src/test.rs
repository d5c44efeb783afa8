//! What a test is, and how it ends.

use alloc::format;
use alloc::string::String;

use nvme_host::Error;

use crate::Env;

/// One rule and its check.
#[derive(Clone, Copy, Debug)]
pub struct Test {
    /// The group it is listed under.
    pub group: &'static str,
    /// Its name, unique in the group.
    pub name: &'static str,
    /// The rule, in one sentence.
    pub rule: &'static str,
    /// Where the rule stands, such as "Base 2.1 3.1.4.5".
    pub section: &'static str,
    /// The check. The controller is enabled, with no I/O queues, and the limit of queues asked
    /// for.
    pub run: fn(&mut Env<'_>) -> Outcome,
}

impl Test {
    /// Its full name, `group.name`.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.group, self.name)
    }
}

/// Declares a group's tests: functions of this file with the rule each checks and its section.
macro_rules! group {
    ($group:literal: $( $name:ident, $section:literal, $rule:literal; )+) => {
        pub(super) const TESTS: &[$crate::Test] = &[$(
            $crate::Test {
                group: $group,
                name: stringify!($name),
                rule: $rule,
                section: $section,
                run: $name,
            },
        )+];
    };
}

/// How a test ends: passed, or a [`Stop`].
pub type Outcome<T = ()> = Result<T, Stop>;

/// Why a test did not pass.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stop {
    /// The rule is broken: what was expected and what was found.
    Failed(String),
    /// The controller or machine does not offer what the rule is about.
    Skipped(String),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(format!("{error}"))
    }
}
