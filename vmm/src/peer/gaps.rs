//! Tests that QEMU's nvme device is known to fail. docs/peers.md is the list, for people and for
//! us: rows of its table `| Test | QEMU | Reason |`.

use super::QemuVersion;

/// The list.
const PAGE: &str = include_str!("../../../docs/peers.md");

/// A release of QEMU: major and minor number.
pub type Release = (u32, u32);

/// A test that it fails.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gap {
    /// The test, `group.name`.
    pub test: &'static str,
    /// The first release and the last that were seen to fail it.
    pub releases: (Release, Release),
    /// Whether they fail it in some runs only.
    pub at_times: bool,
    /// Why, in a few words.
    pub reason: String,
}

impl Gap {
    /// Whether this version was among those that were seen to fail it.
    #[must_use]
    pub fn covers(&self, version: QemuVersion) -> bool {
        let (first, last) = self.releases;
        (first..=last).contains(&version.release())
    }

    /// The releases, as docs/peers.md has them: `7.2`, `7.2 to 11.1` or `7.2 to 11.1, at times`.
    #[must_use]
    pub fn seen(&self) -> String {
        let write = |(major, minor): Release| format!("{major}.{minor}");
        let (first, last) = self.releases;
        let mut seen = write(first);
        if first != last {
            seen = format!("{seen} to {}", write(last));
        }
        if self.at_times {
            seen.push_str(", at times");
        }
        seen
    }

    /// Reads a row: `` | `group.name` | 7.2 to 11.1 | why | ``, where `, at times` may follow the
    /// releases.
    fn of(row: &'static str) -> Option<Self> {
        let row = row.trim().strip_prefix('|')?.strip_suffix('|')?;
        let mut cells = row.split('|').map(str::trim);
        let (test, releases, reason) = (cells.next()?, cells.next()?, cells.next()?);
        let (releases, at_times) = match releases.strip_suffix(", at times") {
            Some(releases) => (releases, true),
            None => (releases, false),
        };
        let (first, last) = releases.split_once(" to ").unwrap_or((releases, releases));
        let gap = Self {
            test: test.strip_prefix('`')?.strip_suffix('`')?,
            releases: (release(first)?, release(last)?),
            at_times,
            reason: reason.replace('`', ""),
        };
        cells.next().is_none().then_some(gap)
    }
}

fn release(text: &str) -> Option<Release> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// All of them, in the list's order.
pub fn all() -> impl Iterator<Item = Gap> {
    PAGE.lines().filter_map(Gap::of)
}

/// The one of this test.
#[must_use]
pub fn of_test(test: &str) -> Option<Gap> {
    all().find(|gap| gap.test == test)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_and_other_lines_are_not() {
        let gap = Gap::of("| `a.b` | 7.2 to 11.1 | `f` does not. |").expect("a row");
        assert_eq!((gap.test, gap.releases), ("a.b", ((7, 2), (11, 1))));
        assert_eq!(
            (gap.reason.as_str(), gap.seen().as_str()),
            ("f does not.", "7.2 to 11.1")
        );
        assert!(!gap.at_times);
        let gap_at_times = Gap::of("| `a.b` | 7.2 to 11.1, at times | x |").expect("a row");
        assert_eq!(gap_at_times.releases, gap.releases);
        assert!(gap_at_times.at_times);
        assert_eq!(gap_at_times.seen(), "7.2 to 11.1, at times");
        let version = |major, minor| QemuVersion {
            major,
            minor,
            micro: 9,
        };
        for (version, covered) in [
            (version(7, 1), false),
            (version(7, 2), true),
            (version(9, 0), true),
            (version(11, 1), true),
            (version(11, 2), false),
        ] {
            assert_eq!(gap.covers(version), covered, "{version}");
        }
        assert_eq!(
            Gap::of("| `a.b` | 10.0 | x |").expect("a row").seen(),
            "10.0"
        );
        for line in [
            "| Test | QEMU | Reason |",
            "| --- | --- | --- |",
            "| `a.b` | 7.2 |",
            "| `a.b` | later | x |",
            "| `a.b` | 7.2 | x | y |",
            "`a.b` | 7.2 | x",
            "",
        ] {
            assert_eq!(Gap::of(line), None, "{line}");
        }
    }
}
