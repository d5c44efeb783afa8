//! The command, on files: what it writes, finds and says, and its exit codes.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

#[path = "command/readers.rs"]
mod readers;
#[path = "command/targets.rs"]
mod targets;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// Bytes before the first page.
const FIRST: u64 = 64 << 10;

struct Place {
    folder: TempDir,
}

struct Ended {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Place {
    /// A folder with a region of `length`.
    fn new(length: &str) -> Self {
        let place = Self::empty();
        let made = place.run(&["init", "T", "--create", "--length", length]);
        assert_eq!(made.code, 0, "{}", made.stderr);
        place
    }

    fn empty() -> Self {
        let folder = TempDir::new().expect("a folder");
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ferrite-dbpage"));
        command.current_dir(&self.folder).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        let output: Output = self.command(arguments).output().expect("it starts");
        Ended {
            code: output.status.code().expect("no signal"),
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8(output.stderr).expect("text"),
        }
    }

    fn json(&self, arguments: &[&str]) -> (i32, serde_json::Value) {
        let ended = self.run(&[arguments, &["--json"]].concat());
        let value = serde_json::from_str(&ended.stdout);
        (
            ended.code,
            value.unwrap_or_else(|e| panic!("{e}: {}", ended.stdout)),
        )
    }

    /// Verifies, and gives the counts of what was found.
    fn counts(&self, more: &[&str]) -> (i32, serde_json::Value) {
        let (code, report) = self.json(&[&["verify", "T"], more].concat());
        (code, report["counts"].clone())
    }

    fn copy(&self, from: &str, to: &str) {
        fs::copy(self.path(from), self.path(to)).expect("a copy");
    }

    /// Takes `bytes` at `offset` of T from another file.
    fn take(&self, from: &str, offset: u64, bytes: usize) {
        let mut part = vec![0; bytes];
        let open = |name: &str| {
            fs::File::options()
                .read(true)
                .write(true)
                .open(self.path(name))
        };
        let (from, to) = (open(from).expect("a file"), open("T").expect("a file"));
        from.read_exact_at(&mut part, offset).expect("read");
        to.write_all_at(&part, offset).expect("written");
    }
}

fn none() -> serde_json::Value {
    serde_json::json!({
        "torn": 0, "lost": 0, "checksum": 0, "corrupt": 0, "foreign": 0, "misplaced": 0
    })
}

#[test]
fn what_threads_wrote_over_each_other_is_whole() {
    let place = Place::new("2M");
    assert_eq!(place.counts(&[]), (0, none()));
    for pages in [
        &["--page", "16K"][..],
        &["--page", "16K", "--shift", "512"],
        &["--page", "4K,16K,64K"],
        &["--page", "1536", "--shift", "1K"],
        &["--page", "512", "--fsync", "7"],
        &["--page", "8K", "--fsync", "dsync"],
        &["--page", "8K", "--direct", "--threads", "1"],
    ] {
        let write = ["write", "T", "--ops", "300", "--journal", "J"];
        let written = place.run(&[&write[..], pages].concat());
        assert_eq!(written.code, 0, "{pages:?}: {}", written.stderr);
        assert!(
            written.stdout.contains("written       300 pages"),
            "{}",
            written.stdout
        );
        let (code, report) = place.json(&["verify", "T", "--journal", "J"]);
        assert_eq!(
            (code, &report["counts"]),
            (0, &none()),
            "{pages:?}: {report}"
        );
        assert_eq!(report["acknowledged"], report["durable"], "{pages:?}");
    }
    let said = place.run(&["verify", "T", "--journal", "J", "--no-crash"]);
    assert!(
        said.stdout
            .contains("2100 writes acknowledged, 2100 must be there"),
        "{}",
        said.stdout
    );
    assert!(
        said.stdout.contains("found         0 torn, 0 lost"),
        "{}",
        said.stdout
    );
}

#[test]
fn one_seed_and_thread_write_the_same_places() {
    let places = |seed: &str| {
        let place = Place::new("1M");
        let write = [
            "write",
            "T",
            "--ops",
            "50",
            "--threads",
            "1",
            "--journal",
            "-",
        ];
        let written = place.run(&[&write[..], &["--seed", seed, "--fsync", "never"]].concat());
        let acknowledged = written
            .stdout
            .lines()
            .filter(|l| l.starts_with("dbpage ack"));
        acknowledged.map(str::to_owned).collect::<Vec<_>>()
    };
    let first = places("1");
    assert_eq!(first.len(), 50);
    assert_eq!(first, places("1"));
    assert_ne!(first, places("2"));
}

#[test]
fn a_torn_page_is_found_and_its_sectors_are_told() {
    let place = Place::new("1M");
    let write = ["write", "T", "--ops", "2000", "--fsync", "never"];
    assert_eq!(place.run(&write).code, 0);
    place.copy("T", "old");
    assert_eq!(place.run(&write).code, 0);
    assert_eq!(place.counts(&[]).0, 0);
    // The last 8 KiB of the second page are as they were before.
    place.take("old", FIRST + (24 << 10), 8 << 10);
    let verified = place.run(&["verify", "T"]);
    assert_eq!(verified.code, 1);
    let found = &verified.stdout;
    assert!(found.contains("torn       version 2."), "{found}");
    assert!(
        found.contains(&format!("8K at {}: version 2.", FIRST + (16 << 10))),
        "{found}"
    );
    assert!(
        found.contains(&format!("8K at {}: version 1.", FIRST + (24 << 10))),
        "{found}"
    );
    let (code, counts) = place.counts(&[]);
    assert_eq!(
        (code, &counts["torn"], &counts["lost"]),
        (1, &1.into(), &0.into())
    );
}

#[test]
fn every_part_of_a_page_of_every_size_that_is_old_is_torn() {
    for (size, bytes) in [("1K", 1024), ("4K", 4096), ("12K", 12_288), ("64K", 65_536)] {
        let place = Place::new("1M");
        // Each place is written some twenty times: none is left out.
        let ops = (20 * ((1 << 20) - FIRST) / bytes).to_string();
        let write = [
            "write", "T", "--ops", &ops, "--page", size, "--fsync", "never",
        ];
        let write = [&write[..], &["--journal", "J", "--threads", "2"]].concat();
        assert_eq!(place.run(&write).code, 0);
        place.copy("T", "old");
        assert_eq!(place.run(&write).code, 0);
        place.copy("T", "new");
        let first = FIRST.next_multiple_of(bytes);
        for old in [512, bytes / 2 / 512 * 512, bytes - 512] {
            place.take("old", first, usize::try_from(old).expect("small"));
            let (code, counts) = place.counts(&[]);
            assert_eq!(
                (code, &counts["torn"]),
                (1, &1.into()),
                "{old} of {size}: {counts}"
            );
            place.copy("new", "T");
        }
    }
}

#[test]
fn durable_writes_that_are_gone_are_lost_and_others_are_not() {
    let place = Place::new("1M");
    let write = [
        "write",
        "T",
        "--ops",
        "200",
        "--page",
        "16K",
        "--journal",
        "J",
    ];
    assert_eq!(place.run(&write).code, 0);
    place.copy("T", "old");
    let later = [&write[..], &["--fsync", "never"]].concat();
    assert_eq!(place.run(&later).code, 0);
    place.copy("T", "new");
    // All that was not durable is gone: a crash may do that.
    let all = (1 << 20) - FIRST;
    place.take("old", FIRST, usize::try_from(all).expect("small"));
    assert_eq!(place.counts(&["--journal", "J"]), (0, none()));
    // Without a crash nothing may do that.
    let (code, counts) = place.counts(&["--journal", "J", "--no-crash"]);
    assert_eq!((code, &counts["torn"]), (1, &0.into()));
    assert!(counts["lost"].as_u64() > Some(0), "{counts}");
    // With the durable ones gone too, they are lost.
    let other = Place::new("1M");
    other.copy("T", "old");
    assert_eq!(other.run(&write).code, 0);
    other.take("old", FIRST, usize::try_from(all).expect("small"));
    let lost = other.run(&["verify", "T", "--journal", "J"]);
    assert_eq!(lost.code, 1);
    assert!(lost.stdout.contains("must be there:"), "{}", lost.stdout);
    // Whole pages are old: without the journal nothing is wrong with them.
    assert_eq!(other.counts(&[]), (0, none()));
}

#[test]
fn a_writer_that_is_killed_leaves_nothing_torn_and_nothing_lost() {
    for fsync in ["each", "10", "never"] {
        let place = Place::new("4M");
        let write = [
            "write",
            "T",
            "--seconds",
            "60",
            "--page",
            "4K,16K",
            "--journal",
            "-",
        ];
        let mut command = place.command(&[&write[..], &["--fsync", fsync]].concat());
        let journal = fs::File::create(place.path("J")).expect("a journal");
        let mut child = command.stdout(journal).spawn().expect("it starts");
        let lines = || {
            let journal = fs::read(place.path("J")).expect("a journal");
            journal.iter().filter(|byte| **byte == b'\n').count()
        };
        while lines() < 200 {
            assert!(child.try_wait().expect("a child").is_none(), "it ended");
            std::thread::yield_now();
        }
        child.kill().expect("killed");
        child.wait().expect("a child");
        // The kernel lives on: what was acknowledged is there.
        let verified = place.counts(&["--journal", "J", "--no-crash"]);
        assert_eq!(verified, (0, none()), "{fsync}");
    }
}

#[test]
fn readers_report_what_they_see_of_a_write() {
    let place = Place::new("1M");
    let write = [
        "write",
        "T",
        "--ops",
        "300",
        "--readers",
        "1",
        "--threads",
        "1",
        "--page",
        "512",
    ];
    let written = place.run(&write);
    assert_eq!(written.code, 0, "{}", written.stdout);
    assert!(
        written
            .stdout
            .contains("parts of writes or older ones in none"),
        "{}",
        written.stdout
    );
    // A page that is torn before is one that readers see.
    let longer = ["write", "T", "--ops", "100", "--page", "16K"];
    assert_eq!(place.run(&longer).code, 0);
    place.copy("T", "old");
    assert_eq!(place.run(&longer).code, 0);
    for page in 0..60 {
        place.take("old", FIRST + page * (16 << 10), 512);
    }
    let read = [
        "write",
        "T",
        "--page",
        "16K",
        "--seconds",
        "1",
        "--readers",
        "2",
    ];
    let read = [&read[..], &["--threads", "1", "--fsync", "each"]].concat();
    let (code, report) = place.json(&read);
    assert_eq!(code, 1, "{report}");
    assert_eq!(report["mixes"][0]["what"], "torn");
}

#[test]
fn what_is_no_region_is_not_verified() {
    let place = Place::new("1M");
    assert_eq!(place.run(&["verify", "nothing"]).code, 2);
    fs::write(place.path("short"), [0; 100]).expect("a file");
    let ended = place.run(&["verify", "short"]);
    assert_eq!(ended.code, 2);
    assert!(
        ended.stderr.contains("ferrite-dbpage init"),
        "{}",
        ended.stderr
    );
    fs::write(place.path("zeros"), vec![0; 1 << 20]).expect("a file");
    assert!(
        place
            .run(&["verify", "zeros"])
            .stderr
            .contains("there is no header")
    );
    // Zeros within a region are foreign.
    place.take("zeros", FIRST + 4096, 4096);
    let (code, counts) = place.counts(&[]);
    assert_eq!((code, &counts["foreign"]), (1, &1.into()));
}

#[test]
fn a_journal_of_another_region_is_refused() {
    let place = Place::new("1M");
    assert_eq!(
        place
            .run(&["write", "T", "--ops", "5", "--journal", "J"])
            .code,
        0
    );
    assert_eq!(place.run(&["init", "T", "--length", "1M"]).code, 0);
    let ended = place.run(&["verify", "T", "--journal", "J"]);
    assert_eq!(ended.code, 2);
    assert!(
        ended.stderr.contains("the journal is of region"),
        "{}",
        ended.stderr
    );
}

#[test]
fn options_that_cannot_be_are_refused_with_the_rule() {
    let place = Place::new("1M");
    for (arguments, says) in [
        (&["write", "T", "--page", "1000"][..], "1K would do"),
        (&["write", "T", "--page", "0"], "512 would do"),
        (
            &["write", "T", "--page", "4K", "--shift", "100"],
            "512 would do",
        ),
        (&["write", "T", "--page", "2M"], "no room"),
        (&["write", "T", "--page", "32M"], "16M would do"),
        (&["write", "T", "--page", "4X"], "is no size"),
        (&["write", "T", "--fsync", "0"], "100 would do"),
        (&["write", "T", "--threads", "0"], "1..=256"),
        (&["write", "T", "--offset", "100"], "64K would do"),
        (
            &["write", "T", "--offset", "18446744073709486080"],
            "it ends before",
        ),
        (&["init", "U", "--length", "100"], "64K would do"),
        (&["init", "U", "--length", "64K"], "128K would do"),
        (&["init", "U", "--length", "1024G"], "16G would do"),
        (
            &["init", "U", "--create", "--offset", "18446744073709486080"],
            "beyond what 64 bits count",
        ),
        (&["init", ".", "--length", "1M"], "files and block devices"),
        (
            &["init", "/dev/null", "--length", "1M"],
            "files and block devices",
        ),
        (&["verify", "T", "--no-crash"], "--journal"),
        (&["write", "T", "--journal", "-", "--json"], "a file, or no"),
    ] {
        let ended = place.run(arguments);
        assert_eq!(ended.code, 2, "{arguments:?}");
        assert!(
            ended.stderr.contains(says),
            "{arguments:?}: {}",
            ended.stderr
        );
    }
}

/// Whether this file system takes atomic writes is its own affair: that what it says is heeded.
#[test]
fn atomic_writes_are_done_or_refused_as_the_kernel_says() {
    let place = Place::new("1M");
    let (code, limits) = place.json(&["limits", "T"]);
    assert_eq!(code, 0);
    let write = ["write", "T", "--page", "4K", "--ops", "10", "--atomic"];
    let ended = place.run(&write);
    if limits["atomic"]["unit_max"].as_u64() >= Some(4096) {
        assert_eq!(ended.code, 0, "{}", ended.stderr);
    } else {
        assert_eq!(ended.code, 2);
        assert!(
            ended.stderr.contains("leave --atomic out"),
            "{}",
            ended.stderr
        );
        // It was refused before anything was written.
        assert_eq!(place.json(&["verify", "T"]).1["runs"], 0);
    }
}

/// A region may lie anywhere in a target, and there may be several.
#[test]
fn regions_beside_each_other_are_told_apart() {
    let place = Place::new("1M");
    let second = ["--offset", "1M"];
    assert_eq!(
        place
            .run(&[&["init", "T", "--length", "256K"], &second[..]].concat())
            .code,
        0
    );
    let write = ["write", "T", "--page", "64K", "--ops", "10"];
    assert_eq!(place.run(&[&write[..], &second].concat()).code, 0);
    assert_eq!(place.run(&write).code, 0);
    for more in [&[][..], &second] {
        assert_eq!(place.counts(more), (0, none()));
    }
    assert_eq!(
        fs::metadata(place.path("T")).expect("T").len(),
        (1 << 20) + (256 << 10)
    );
}

/// As docs/dbpage.md says: a program that needs nothing of the guest.
#[test]
#[ignore = "builds another program"]
fn the_static_program_needs_no_loader_and_runs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = "x86_64-unknown-linux-gnu";
    let folder = TempDir::new().expect("a folder");
    let built = Command::new(env!("CARGO"))
        .current_dir(&root)
        .args([
            "build",
            "--release",
            "--locked",
            "--package",
            "ferrite-dbpage",
        ])
        .args(["--target", target, "--target-dir"])
        .arg(folder.path())
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .stderr(Stdio::inherit())
        .status();
    assert!(built.expect("cargo").success());
    let program = folder.path().join(target).join("release/ferrite-dbpage");
    let bytes = fs::read(&program).expect("a program");
    let elf = object::read::elf::ElfFile64::<object::Endianness>::parse(&*bytes).expect("an ELF");
    let is_loader = |header: &object::elf::ProgramHeader64<object::Endianness>| {
        header.p_type.get(object::Endianness::Little) == object::elf::PT_INTERP
    };
    assert!(!elf.elf_program_headers().iter().any(is_loader));
    let said = Command::new(&program).arg("--version").env_clear().output();
    let said = String::from_utf8(said.expect("it starts").stdout).expect("text");
    assert!(said.starts_with("ferrite-dbpage "), "{said}");
}
