//! What is measured.

use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

/// How the host learns of completions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Wait {
    /// It looks at the completion queues without a pause.
    Polled,
    /// It halts until their interrupt. All queues have the same vector: there is one CPU.
    Interrupt,
}

/// What the commands do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Op {
    /// Reads at random places.
    Read,
    /// Writes at random places.
    Write,
}

/// One thing to measure.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Case {
    /// How the host waits.
    pub wait: Wait,
    /// Bytes of a transfer; places are multiples of it.
    pub bytes: u32,
    /// What the commands do.
    pub op: Op,
    /// Commands outstanding on each queue.
    pub depth: u16,
    /// Queue pairs.
    pub queues: u16,
}

/// Every case, in the order they run: reads before the writes that change what is read.
#[must_use]
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for wait in [Wait::Polled, Wait::Interrupt] {
        for bytes in [4 << 10, 128 << 10] {
            for op in [Op::Read, Op::Write] {
                for depth in [1, 32] {
                    for queues in [1, 2] {
                        cases.push(Case {
                            wait,
                            bytes,
                            op,
                            depth,
                            queues,
                        });
                    }
                }
            }
        }
    }
    cases
}

impl Wait {
    const fn name(self) -> &'static str {
        match self {
            Self::Polled => "polled",
            Self::Interrupt => "interrupt",
        }
    }
}

impl Op {
    const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

impl fmt::Display for Case {
    /// `polled.read-4K-d1-q1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            wait,
            bytes,
            op,
            depth,
            queues,
        } = self;
        let (wait, op, kib) = (wait.name(), op.name(), bytes / 1024);
        write!(f, "{wait}.{op}-{kib}K-d{depth}-q{queues}")
    }
}

/// A text that names no case.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotACase;

impl FromStr for Case {
    type Err = NotACase;

    fn from_str(text: &str) -> Result<Self, NotACase> {
        let mut of_table = cases().into_iter();
        let named = |case: &Self| Name(text).is(case);
        of_table.find(named).ok_or(NotACase)
    }
}

/// A text that may be a case's name, compared without memory of its own.
struct Name<'t>(&'t str);

impl Name<'_> {
    fn is(&self, case: &Case) -> bool {
        let mut rest = Rest(self.0);
        fmt::write(&mut rest, format_args!("{case}")).is_ok() && rest.0.is_empty()
    }
}

/// Takes what is written off the front of a text; anything else is an error.
struct Rest<'t>(&'t str);

impl fmt::Write for Rest<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 = self.0.strip_prefix(text).ok_or(fmt::Error)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn names_are_read_back_and_differ() {
        let all = cases();
        assert_eq!(all.len(), 32);
        for case in &all {
            assert_eq!(case.to_string().parse(), Ok(*case));
        }
        assert_eq!(all[0].to_string(), "polled.read-4K-d1-q1");
    }

    #[test]
    fn other_texts_are_no_case() {
        for text in ["", "polled", "polled.read-4K-d1-q1 ", "polled.read-4K-d1-q"] {
            assert_eq!(text.parse::<Case>(), Err(NotACase), "{text:?}");
        }
    }
}
