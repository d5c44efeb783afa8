//! What a run took, in lines for people.

use std::time::Duration;

use ::nvme::Stats;

use crate::machine::ExitCounts;

/// Two lines: a controller's commands and its data.
pub(crate) fn controller(stats: &Stats) -> String {
    format!(
        "commands      {} ({} admin, {} I/O), {} interrupts\n\
         data          {} written, {} read\n",
        stats.admin_commands + stats.io_commands,
        stats.admin_commands,
        stats.io_commands,
        stats.interrupts,
        mebibytes(stats.bytes_written),
        mebibytes(stats.bytes_read)
    )
}

/// A line: all exits, and each kind that there was.
pub(crate) fn exits(exits: &ExitCounts) -> String {
    let kinds: Vec<String> = exits
        .iter()
        .filter(|&(_, count)| count > 0)
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    format!("VM exits      {}: {}\n", exits.total(), kinds.join(", "))
}

fn mebibytes(bytes: u64) -> String {
    let tenths = (u128::from(bytes) * 10) >> 20;
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

/// A time in seconds.
pub(crate) fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_every_figure() {
        let stats = Stats {
            admin_commands: 3,
            io_commands: 4,
            bytes_read: 3 << 19,
            bytes_written: u64::MAX,
            interrupts: 5,
            ..Stats::default()
        };
        assert_eq!(
            controller(&stats),
            "commands      7 (3 admin, 4 I/O), 5 interrupts\n\
             data          17592186044415.9 MiB written, 1.5 MiB read\n"
        );
        let counts = ExitCounts {
            io_out: 2,
            halt: 1,
            ..ExitCounts::default()
        };
        assert_eq!(exits(&counts), "VM exits      3: 2 port writes, 1 halts\n");
        assert_eq!(seconds(Duration::from_millis(1234)), "1.23 s");
    }
}
