//! The `ferrite` command: what it prints and how it ends.

#![allow(clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nvme_suite::tap::Report;
use serde_json::Value;
use support::have_kvm;

fn ferrite(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ferrite"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("it starts")
}

/// Standard output of a run that ends with `code`.
fn stdout(arguments: &[&str], code: i32) -> String {
    let output = ferrite(arguments);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        output.status.code(),
        Some(code),
        "{arguments:?}:\n{text}\n{errors}"
    );
    text
}

/// The last line of standard error of a run that could not be made.
fn refusal(arguments: &[&str]) -> String {
    let output = ferrite(arguments);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    String::from_utf8(output.stderr).expect("UTF-8")
}

const FEW: [&str; 3] = ["selftest", "--filter", "registers"];

#[test]
fn tap_and_json_tell_the_same_run() {
    if !have_kvm() {
        return;
    }
    let report = Report::parse(&stdout(&[&FEW[..], &["--format", "tap"]].concat(), 0));
    assert!(report.good(), "{report:?}");
    assert!(report.tests.len() > 10);
    let json: Value = serde_json::from_str(&stdout(&[&FEW[..], &["--format", "json"]].concat(), 0))
        .expect("JSON");
    let tests = json.get("tests").and_then(Value::as_array).expect("tests");
    let names = tests
        .iter()
        .map(|test| test.get("name").and_then(Value::as_str));
    let tap_names = report.tests.iter().map(|test| Some(test.name.as_str()));
    assert!(names.eq(tap_names), "{json:#}");
}

#[test]
fn table_is_plain_when_piped_and_ends_with_the_totals() {
    if !have_kvm() {
        return;
    }
    let text = stdout(&FEW, 0);
    assert!(!text.contains('\x1b'), "{text:?}");
    let last = text.lines().last().expect("lines");
    assert!(last.contains(" passed, 0 failed, "), "{text}");
    let verbose = stdout(&[&FEW[..], &["--verbose"]].concat(), 0);
    assert!(verbose.contains("registers.cap_as_two_dwords"), "{verbose}");
}

#[test]
fn list_names_every_test_and_runs_none() {
    let text = stdout(&["selftest", "--list"], 0);
    let listed = text.lines().filter(|line| !line.starts_with(' '));
    assert!(listed.eq(nvme_suite::tests().map(nvme_suite::Test::full_name)));
    let some = stdout(&["selftest", "--list", "--filter", "registers.cap_*"], 0);
    assert!(some.lines().count() >= 4 && !some.contains("aqa"), "{some}");
}

#[test]
fn what_cannot_be_is_refused_with_value_and_rule() {
    for (option, words) in [
        ("lba=513", ["lba=513", "power of two"]),
        ("queues=0", ["queues", "1 to 65535"]),
        ("colour=red", ["colour", "there is no such key"]),
        ("backend=null", ["backend", "keeps no data"]),
    ] {
        let text = refusal(&["selftest", "--nvme", option]);
        for word in words {
            assert!(text.contains(word), "{option}: {text}");
        }
    }
    assert!(refusal(&["selftest", "--filter", "a b"]).contains("--filter"));
    assert!(refusal(&["nonesuch"]).contains("nonesuch"));
}

/// A file for `--config`.
fn config(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), text).expect("written");
    file
}

#[test]
fn a_file_and_the_command_line_say_the_same() {
    let file = config(
        "[[nvme]]\nlba = 4096\nqueues = 8\nlint = true\n\n[[nvme.namespace]]\nsize = \"8M\"\n",
    );
    let path = file.path().to_str().expect("UTF-8");
    let print = ["selftest", "--print-config"];
    let from_file = stdout(
        &[&print[..], &["--config", path, "--nvme", "queues=3"]].concat(),
        0,
    );
    let list = "lba=4K,queues=8,lint=on,namespaces=1,ns1.size=8M,queues=3";
    let from_list = stdout(&[&print[..], &["--nvme", list]].concat(), 0);
    assert_eq!(from_file, from_list);
    assert!(from_file.contains("queues = 3\n"), "{from_file}");
    // What is printed is a file that says the same again.
    let again = config(&from_file);
    let path = again.path().to_str().expect("UTF-8");
    assert_eq!(
        stdout(&[&print[..], &["--config", path]].concat(), 0),
        from_file
    );
}

#[test]
fn a_mistake_in_a_file_is_told_with_file_line_and_key() {
    let file = config("[[nvme]]\n# blocks\nlab = \"4K\"\n");
    let path = file.path().to_str().expect("UTF-8");
    let text = refusal(&["selftest", "--config", path]);
    assert!(
        text.contains(&format!("{path}:3: lab = \"4K\": ")),
        "{text}"
    );
    assert!(text.contains("did you mean lba?"), "{text}");
    // A rule that is broken by both together is told where the value stands.
    let file = config("[[nvme]]\nawun = \"4b\"\n");
    let path = file.path().to_str().expect("UTF-8");
    let text = refusal(&["selftest", "--config", path, "--nvme", "nawun=2b"]);
    assert!(text.contains("--nvme nawun=2b: "), "{text}");
    let text = refusal(&["selftest", "--config", path, "--nvme", "lba=4K,nabsn=8K"]);
    assert!(
        text.contains("--nvme nabsn=2b: ") && text.contains("use 4b or more"),
        "{text}"
    );
    assert!(refusal(&["selftest", "--config", "/no/such"]).contains("/no/such"));
}

#[test]
fn what_linux_will_not_use_is_noted_on_standard_error() {
    let output = ferrite(&["selftest", "--print-config", "--nvme", "nabspf=12K"]);
    assert!(output.stderr.is_empty());
    if !have_kvm() {
        return;
    }
    let few = [&FEW[..], &["--nvme", "nabspf=12K,ns2.nabo=4K"]].concat();
    let output = ferrite(&few);
    assert_eq!(output.status.code(), Some(0));
    let errors = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(
        errors.lines().collect::<Vec<_>>(),
        [
            "ferrite: note: namespace 1: nabspf is 24 blocks; Linux uses boundaries that are powers of two alone",
            "ferrite: note: namespace 2: nabspf is 24 blocks; Linux uses boundaries that are powers of two alone",
            "ferrite: note: namespace 2: nabo is not 0; Linux then uses no atomic writes",
        ]
    );
}

#[test]
fn the_header_has_what_identify_says_of_writes() {
    if !have_kvm() {
        return;
    }
    let options = "lba=4K,iu=16K,awun=64K,awupf=4K,ns2.nabsn=64K,ns2.mam=1,tear=never";
    let arguments = [&FEW[..], &["--nvme", options]].concat();
    let text = stdout(&arguments, 0);
    for words in [
        "indirection unit 16K (4 blocks); atomic 64K (16 blocks), when the power fails 4K (1 block), compare and write 64K (16 blocks)\n",
        "boundaries 64K, when the power fails none: a write over one is atomic in parts (MAM 1)\n",
        "torn writes   never",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let tap = stdout(&[&arguments[..], &["--format", "tap"]].concat(), 0);
    assert!(
        tap.contains("npwg:4 awun:16 awupf:1 acwu:16 nabsn:16 nabspf:0 nabo:0 mam:1"),
        "{tap}"
    );
}

/// Tests that are quick and pass everywhere, over two block sizes and eight atomic units.
const MATRIX: [&str; 6] = [
    "selftest",
    "--matrix",
    "--filter",
    "granularity,registers.cap_limits*",
    "--nvme",
    "queues=4,iu=16K",
];

#[test]
fn a_matrix_has_a_line_for_each_combination() {
    if !have_kvm() {
        return;
    }
    let text = stdout(&MATRIX, 0);
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("lba=")).collect();
    assert_eq!(lines.len(), 32, "{text}");
    let last = text.lines().last().expect("lines");
    assert!(
        last.starts_with("32 combinations: 32 passed, 0 failed;"),
        "{text}"
    );
    let fixed = [&MATRIX[..4], &["--nvme", "queues=4,iu=16K,lba=4K,awun=4K"]].concat();
    let json = stdout(&[&fixed[..], &["--format", "json"]].concat(), 0);
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json.pointer("/summary/passed"), Some(&Value::from(1)));
    assert_eq!(
        json.pointer("/combinations/0/repeat")
            .and_then(Value::as_str),
        Some("ferrite selftest --nvme queues=4,iu=16K,lba=4K,awun=4K")
    );
    let tap = stdout(&[&fixed[..], &["--format", "tap"]].concat(), 0);
    assert!(
        tap.starts_with("TAP version 13\n1..1\nok 1 - defaults ("),
        "{tap}"
    );
}

#[test]
fn a_combination_that_fails_is_told_with_what_repeats_it() {
    if !have_kvm() {
        return;
    }
    // A drive that lies: within the unit it tears too.
    let arguments = [
        "selftest",
        "--matrix",
        "--filter",
        "atomicity",
        "--nvme",
        "tear=always,queues=4,iu=4K,awun=16K",
        "--jobs",
        "1",
    ];
    let text = stdout(&arguments, 1);
    // Whether a tear is seen is by chance, for one of the two more than likely.
    let torn = |lba: &&str| text.contains(&format!(",lba={lba} --filter atomicity."));
    let torn = ["512", "4K"].into_iter().find(torn).expect(&text);
    let repeat = format!(
        "ferrite selftest --nvme tear=always,queues=4,iu=4K,awun=16K,lba={torn} --filter atomicity."
    );
    let (_, words) = text.split_once(&repeat).expect(&text);
    let test = words.split_whitespace().next().expect("a test");
    assert!(
        text.contains(&format!("FAILED  atomicity.{test}: ")),
        "{text}"
    );
    assert!(text.contains("4 combinations: "), "{text}");
    // The unit is a block, which is never torn.
    for lba in ["16K", "64K"] {
        assert!(!text.contains(&format!(",lba={lba} --filter")), "{text}");
    }
    let repeat = format!("{repeat}{test}");
    let words: Vec<&str> = repeat.split(' ').skip(1).collect();
    let again = || ferrite(&words).status.code() == Some(1);
    assert!((0..10).any(|_| again()), "{repeat}");
}

#[test]
fn a_matrix_that_contradicts_what_is_fixed_is_refused() {
    let text = refusal(&["selftest", "--matrix", "--nvme", "mdts=32K"]);
    for words in ["--matrix with lba=64K", "mdts=32768", "65536", "--nvme"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(refusal(&["selftest", "--jobs", "2"]).contains("--matrix"));
}

#[test]
fn keys_are_listed_and_shells_complete() {
    let text = stdout(&["options"], 0);
    assert!(
        text.contains("  mdts=SIZE") && text.contains("8K to 64M, a power of two; default 512K")
    );
    for (shell, words) in [
        ("bash", "complete -F"),
        ("zsh", "#compdef ferrite"),
        ("fish", "complete -c ferrite"),
    ] {
        let script = stdout(&["completions", shell], 0);
        assert!(script.contains(words), "{shell}");
        assert!(script.contains("matrix"), "{shell}");
    }
}

#[test]
fn a_peer_that_cannot_be_is_refused_by_name() {
    let peer = |arguments: &[&str]| refusal(&[&["selftest", "--peer", "qemu"], arguments].concat());
    let text = peer(&["--qemu", "no-such-qemu"]);
    assert!(
        text.contains("no-such-qemu") && text.contains("qemu-system-x86"),
        "{text}"
    );
    let text = peer(&["--qemu", "sh"]);
    assert!(text.contains("does not say that it is QEMU"), "{text}");
    assert!(refusal(&["selftest", "--qemu", "sh"]).contains("--peer"));
    let old = FakeQemu::new("echo QEMU emulator version 6.2.0");
    let text = peer(&["--qemu", &old.program]);
    assert!(
        text.contains("QEMU 6.2.0") && text.contains("7.2.0 or later"),
        "{text}"
    );
    let fine = FakeQemu::new("echo QEMU emulator version 7.2.22");
    let text = peer(&["--qemu", &fine.program, "--nvme", "namespaces=300"]);
    assert!(
        text.contains("namespaces=300") && text.contains("256"),
        "{text}"
    );
}

/// A program that is run as QEMU.
struct FakeQemu {
    folder: tempfile::TempDir,
    program: String,
}

impl FakeQemu {
    fn new(script: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let program = folder.path().join("qemu");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("a file");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&program, mode).expect("executable");
        Self {
            program: program.to_str().expect("UTF-8").to_owned(),
            folder,
        }
    }
}

/// Asks until it is so, for a minute at most.
fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        match ask() {
            Some(answer) => return answer,
            None if start.elapsed() > Duration::from_secs(60) => panic!("{what} is not so"),
            None => std::thread::park_timeout(Duration::from_millis(5)),
        }
    }
}

#[test]
fn a_qemu_that_ends_too_early_fails_the_run_with_its_words() {
    if !have_kvm() {
        return;
    }
    let version = "[ \"$1\" = --version ] && exec echo QEMU emulator version 7.2.22\n";
    let arguments = ["selftest", "--filter", "registers.cap_*", "--peer", "qemu"];
    // Half of its tests, and then no more.
    let half = FakeQemu::new(&format!(
        "{version}echo TAP version 13; echo 1..4\n\
         echo 'ok 1 - registers.cap_limits_are_possible (9 us)'; echo out of steam >&2; exit 3"
    ));
    let text = stdout(&[&arguments[..], &["--qemu", &half.program]].concat(), 1);
    for words in [
        "no result came from QEMU",
        "on QEMU 1 results for a plan of 4 tests",
        "out of steam",
        "3 unexplained",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    // Nothing at all.
    let none = FakeQemu::new(&format!("{version}echo no such device >&2; exit 1"));
    let text = refusal(&[&arguments[..], &["--qemu", &none.program]].concat());
    for words in [
        "before the guest said anything",
        "no such device",
        "nvme-ns",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn a_killed_ferrite_leaves_no_qemu_behind() {
    if !have_kvm() {
        return;
    }
    let fake = FakeQemu::new(
        "[ \"$1\" = --version ] && exec echo QEMU emulator version 7.2.22\n\
         echo $$ >\"$0.new\"; mv \"$0.new\" \"$0.pid\"; exec sleep 1000",
    );
    let mut ferrite = Command::new(env!("CARGO_BIN_EXE_ferrite"))
        .args(["selftest", "--filter", "registers.cap_*"])
        .args(["--peer", "qemu", "--qemu", &fake.program])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("it starts");
    let pid = wait_for("QEMU runs", || {
        std::fs::read_to_string(fake.folder.path().join("qemu.pid")).ok()
    });
    let qemu = Path::new("/proc").join(pid.trim());
    assert!(qemu.exists());
    ferrite.kill().expect("it is ours");
    ferrite.wait().expect("it was killed");
    // Gone, or a zombie that whoever inherits it has not buried yet.
    wait_for("QEMU is gone", || {
        let state = std::fs::read_to_string(qemu.join("stat")).unwrap_or_default();
        (state.is_empty() || state.contains(") Z ")).then_some(())
    });
}

#[test]
fn a_pattern_that_matches_nothing_is_named() {
    for arguments in [&["selftest", "--list"][..], &["selftest"][..]] {
        let text = refusal(&[arguments, &["--filter", "registers,nosuch"]].concat());
        assert!(text.contains("nosuch"), "{text}");
    }
}
