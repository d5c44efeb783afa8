//! What was acknowledged and what was made durable, as lines of text.
//!
//! Lines may go to a serial console among others' words, and end anywhere when the power fails:
//! each begins with a word of ours and ends with a full stop, and what is neither is no line.
//!
//! ```text
//! dbpage run 00000000deadbeef 1 .
//! dbpage ack 1.17 65536+16384 by 3 over 1.19 .
//! dbpage ack 1.21 65536+16384 by 3 over 1.25 durable .
//! dbpage sync 1.20 .
//! ```

use std::fmt;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use crate::error::Error;
use crate::page::Write;
use crate::version::Version;

/// What every line begins with.
const NAME: &str = "dbpage";

/// A line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Line {
    /// A run began, on the region with this identifier.
    Run(u64, u32),
    /// The system call of a write came back, at this moment. Whether it is durable by itself.
    Ack(Write, Version, bool),
    /// All that was acknowledged before this moment is durable.
    Sync(Version),
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(region, run) => write!(f, "{NAME} run {region:016x} {run} ."),
            Self::Ack(write, over, durable) => {
                let Write {
                    version,
                    offset,
                    size,
                    writer,
                } = write;
                let durable = if *durable { " durable" } else { "" };
                write!(
                    f,
                    "{NAME} ack {version} {offset}+{size} by {writer} over {over}{durable} ."
                )
            }
            Self::Sync(before) => write!(f, "{NAME} sync {before} ."),
        }
    }
}

impl FromStr for Line {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        match words.as_slice() {
            [NAME, "run", region, run, "."] => {
                let region = u64::from_str_radix(region, 16).map_err(drop)?;
                Ok(Self::Run(region, run.parse().map_err(drop)?))
            }
            [NAME, "sync", before, "."] => Ok(Self::Sync(before.parse()?)),
            [
                NAME,
                "ack",
                version,
                place,
                "by",
                writer,
                "over",
                over,
                rest @ ..,
            ] => {
                let durable = match rest {
                    ["."] => false,
                    ["durable", "."] => true,
                    _ => return Err(()),
                };
                let (offset, size) = place.split_once('+').ok_or(())?;
                let write = Write {
                    version: version.parse()?,
                    offset: offset.parse().map_err(drop)?,
                    size: size.parse().map_err(drop)?,
                    writer: writer.parse().map_err(drop)?,
                };
                let over = over.parse()?;
                if over <= write.version {
                    return Err(());
                }
                Ok(Self::Ack(write, over, durable))
            }
            _ => Err(()),
        }
    }
}

/// Where lines go.
pub struct Journal(Option<(PathBuf, Mutex<Box<dyn io::Write + Send>>)>);

impl Journal {
    /// No journal, standard output for `-`, or a file, which lines are added to.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(path: Option<&Path>) -> Result<Self, Error> {
        let Some(path) = path else {
            return Ok(Self(None));
        };
        let sink: Box<dyn io::Write + Send> = if path == Path::new("-") {
            Box::new(io::stdout())
        } else {
            let file = File::options().create(true).append(true).open(path);
            Box::new(file.map_err(|source| Error::Journal {
                path: path.to_owned(),
                source,
            })?)
        };
        Ok(Self(Some((path.to_owned(), Mutex::new(sink)))))
    }

    /// Writes a line: when this returns, the kernel has it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn note(&self, line: Line) -> Result<(), Error> {
        let Some((path, sink)) = &self.0 else {
            return Ok(());
        };
        let text = format!("{line}\n");
        let mut sink = sink.lock().unwrap_or_else(PoisonError::into_inner);
        let done = sink.write_all(text.as_bytes()).and_then(|()| sink.flush());
        done.map_err(|source| Error::Journal {
            path: path.clone(),
            source,
        })
    }
}

/// What journals say of a region.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Every write that was acknowledged, and when.
    pub acknowledged: Vec<(Write, Version)>,
    /// Those that must be there whatever happened after.
    pub durable: Vec<Write>,
}

impl Record {
    /// Reads journals of the region `id`. `all_durable`: nothing failed, so that what was
    /// acknowledged must be there.
    ///
    /// # Errors
    /// A journal cannot be read or is of another region.
    pub fn read(paths: &[PathBuf], id: u64, all_durable: bool) -> Result<Self, Error> {
        let mut lines = Vec::new();
        for path in paths {
            let text = std::fs::read(path).map_err(|source| Error::Journal {
                path: path.clone(),
                source,
            })?;
            for line in parse(&text) {
                match line {
                    Line::Run(found, _) if found != id => {
                        return Err(Error::ForeignJournal {
                            path: path.clone(),
                            found,
                            expected: id,
                        });
                    }
                    line => lines.push(line),
                }
            }
        }
        Ok(Self::of(&lines, all_durable))
    }

    /// What lines say.
    #[must_use]
    pub fn of(lines: &[Line], all_durable: bool) -> Self {
        let mut record = Self::default();
        let mut syncs: Vec<Version> = Vec::new();
        for line in lines {
            if let Line::Sync(before) = line {
                syncs.push(*before);
            }
        }
        syncs.sort_unstable();
        for line in lines {
            if let Line::Ack(write, over, durable) = *line {
                record.acknowledged.push((write, over));
                // A sync makes durable what its own run wrote before; the next run may have
                // begun after a crash.
                let next = syncs.partition_point(|before| *before <= over);
                let synced = syncs.get(next).is_some_and(|s| *s < over.end_of_run());
                if durable || all_durable || synced {
                    record.durable.push(write);
                }
            }
        }
        record
    }
}

/// The lines there are in a text, whatever else is in it.
fn parse(text: &[u8]) -> impl Iterator<Item = Line> {
    text.split(|byte| *byte == b'\n').filter_map(|line| {
        let text = String::from_utf8_lossy(line);
        // A console may have begun the line with others' words.
        let ours = text.rfind(&format!("{NAME} ")).unwrap_or_default();
        text.get(ours..)?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::{Line, Record, parse};
    use crate::page::Write;
    use crate::version::{Clock, Version};

    fn write(version: Version) -> Write {
        Write {
            version,
            offset: 65_536,
            size: 4096,
            writer: 1,
        }
    }

    #[test]
    fn lines_are_read_as_they_are_written_and_not_in_part() {
        let clock = Clock::new(1);
        let (start, over) = (clock.now(), clock.now());
        for line in [
            Line::Run(0xabcd, 1),
            Line::Ack(write(start), over, false),
            Line::Ack(write(start), over, true),
            Line::Sync(over),
        ] {
            let text = line.to_string();
            assert_eq!(text.parse(), Ok(line), "{text}");
            for end in 0..text.len() {
                assert_eq!(text[..end].parse::<Line>(), Err(()), "{}", &text[..end]);
            }
            let console = format!("[ 1.5] nvme: hello {text}\r\nnoise\n\ndbpage sync 1.");
            assert_eq!(parse(console.as_bytes()).collect::<Vec<_>>(), [line]);
        }
        let backwards = Line::Ack(write(over), start, false).to_string();
        assert_eq!(backwards.parse::<Line>(), Err(()));
    }

    #[test]
    fn what_was_acknowledged_before_a_sync_of_its_run_is_durable() {
        let clock = Clock::new(1);
        let times: Vec<Version> = (0..6).map(|_| clock.now()).collect();
        let later = Clock::new(2).now();
        let (early, late) = (write(times[0]), write(times[3]));
        let lines = [
            Line::Ack(early, times[1], false),
            Line::Sync(times[2]),
            Line::Ack(late, times[4], false),
            Line::Sync(later),
        ];
        assert_eq!(Record::of(&lines, false).durable, [early]);
        assert_eq!(Record::of(&lines, true).durable, [early, late]);
        assert_eq!(Record::of(&lines, false).acknowledged.len(), 2);
    }
}
