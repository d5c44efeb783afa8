//! What is wrong with a region.

use std::fmt;

use serde::Serialize;

use crate::page::Write;
use crate::size::show;

/// Sectors beside each other that hold the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Part {
    /// Where they begin, in bytes from the target's beginning.
    pub offset: u64,
    /// Bytes.
    pub bytes: u64,
    /// The write they are of; nothing if they are of none.
    pub holds: Option<Write>,
}

/// Something that should not be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "what", rename_all = "lowercase")]
pub enum Finding {
    /// There is no order of these writes, each done wholly or not at all, that leaves what is seen.
    Torn {
        /// The newest of them.
        write: Write,
        /// What its page holds.
        parts: Vec<Part>,
        /// All of them, oldest first.
        among: Vec<Write>,
    },
    /// A write that is durable, or one after it, should be there; older ones are.
    Lost {
        /// The write.
        write: Write,
        /// What is there instead.
        part: Part,
    },
    /// A page's sectors are whole and the page's checksum is wrong.
    Checksum {
        /// The page.
        write: Write,
    },
    /// Sectors with a stamp and a wrong checksum.
    Corrupt {
        /// Where.
        part: Part,
    },
    /// Sectors without a stamp of this region.
    Foreign {
        /// Where.
        part: Part,
    },
    /// Sectors of another place.
    Misplaced {
        /// Where they are, and the write they are of.
        part: Part,
    },
}

/// How many of each there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Counts {
    /// Pages, or groups of overlapping ones.
    pub torn: u64,
    /// Places in pages.
    pub lost: u64,
    /// Pages.
    pub checksum: u64,
    /// Runs of sectors.
    pub corrupt: u64,
    /// Runs of sectors.
    pub foreign: u64,
    /// Runs of sectors.
    pub misplaced: u64,
}

impl Counts {
    /// Counts findings.
    #[must_use]
    pub fn of(findings: &[Finding]) -> Self {
        let mut counts = Self::default();
        for finding in findings {
            let count = match finding {
                Finding::Torn { .. } => &mut counts.torn,
                Finding::Lost { .. } => &mut counts.lost,
                Finding::Checksum { .. } => &mut counts.checksum,
                Finding::Corrupt { .. } => &mut counts.corrupt,
                Finding::Foreign { .. } => &mut counts.foreign,
                Finding::Misplaced { .. } => &mut counts.misplaced,
            };
            *count += 1;
        }
        counts
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            torn,
            lost,
            checksum,
            corrupt,
            foreign,
            misplaced,
        } = self;
        write!(
            f,
            "{torn} torn, {lost} lost, {checksum} with a wrong checksum, {corrupt} corrupt, \
             {foreign} foreign, {misplaced} misplaced"
        )
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>6} at {}", show(self.bytes), self.offset)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Torn {
                write,
                parts,
                among,
            } => {
                write!(f, "torn       {write}: its page holds")?;
                for part in parts {
                    match part.holds {
                        Some(holds) => write!(f, "\n           {part}: {holds}")?,
                        None => write!(f, "\n           {part}: nothing of ours")?,
                    }
                }
                if among.len() > 2 {
                    write!(f, "\n           no order explains these writes:")?;
                    for write in among {
                        write!(f, " {}", write.version)?;
                    }
                }
                Ok(())
            }
            Self::Lost { write, part } => {
                write!(f, "lost       {write} must be there:")?;
                match part.holds {
                    Some(holds) => write!(f, "\n           {part}: older {holds}"),
                    None => write!(f, "\n           {part}: older ones"),
                }
            }
            Self::Checksum { write } => write!(f, "checksum   {write}: the page's is wrong"),
            Self::Corrupt { part } => write!(f, "corrupt   {part}: a sector's checksum is wrong"),
            Self::Foreign { part } => write!(f, "foreign   {part}: no stamp of this region"),
            Self::Misplaced { part } => {
                write!(f, "misplaced {part}")?;
                match part.holds {
                    Some(holds) => write!(f, ": {holds}"),
                    None => Ok(()),
                }
            }
        }
    }
}
