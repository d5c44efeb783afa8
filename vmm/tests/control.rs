//! The control socket: whose it is, what it answers, and what clients may do to it.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

#[path = "support/mod.rs"]
mod support;

use std::{
    fs,
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixListener, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ferrite::{
    TEST_KERNEL,
    ctl::{self, ControlSocket, CtlError, MAX_REQUEST, Request, Subject, Subjects},
    nvme::{MonotonicClock, inprocess::InProcess},
};
use nvme::{ControllerConfig, NamespaceConfig, trace::Watch};
use nvme_host::{Config, Driver, command};
use serde_json::Value;
use storage::ram::Ram;
use tempfile::TempDir;

/// A controller with a socket, and how often its end was asked for.
struct Rig {
    machine: InProcess,
    socket: Option<ControlSocket>,
    path: PathBuf,
    quits: Arc<AtomicU64>,
    _folder: TempDir,
}

fn rig() -> Rig {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("control");
    let device = Arc::new(Ram::new(16 << 20).expect("memory"));
    let config = ControllerConfig {
        namespaces: vec![NamespaceConfig::new(device, 4096)],
        watch: Watch {
            recorder: 8,
            statistics: true,
            ..Watch::default()
        },
        ..ControllerConfig::default()
    };
    let machine = InProcess::new(config, 1).expect("valid");
    let quits = Arc::new(AtomicU64::new(0));
    let count = quits.clone();
    let subjects = Subjects {
        controllers: vec![Subject {
            controller: machine.controller().clone(),
            sleeps: Vec::new(),
            clock: Arc::new(MonotonicClock::start()),
        }],
        exits: Arc::default(),
        quit: Box::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        }),
    };
    Rig {
        socket: Some(ControlSocket::start(&path, subjects).expect("a socket")),
        machine,
        path,
        quits,
        _folder: folder,
    }
}

fn nobody() -> Subjects {
    Subjects {
        controllers: Vec::new(),
        exits: Arc::default(),
        quit: Box::new(|| ()),
    }
}

fn request(text: &str) -> Request {
    Request::parse(text.as_bytes()).expect("a request")
}

fn ask(rig: &Rig, text: &str) -> Value {
    ctl::ask(&rig.path, &request(text)).expect("an answer")
}

/// Sends text as it is, and gives back the lines that come.
fn lines(path: &Path, text: &[u8], count: usize) -> Vec<Value> {
    let mut stream = UnixStream::connect(path).expect("somebody listens");
    let wait = Some(Duration::from_secs(20));
    stream.set_read_timeout(wait).expect("a timeout");
    stream.write_all(text).expect("sent");
    let lines = BufReader::new(stream).lines().take(count);
    let parse = |line: std::io::Result<String>| {
        serde_json::from_str(&line.expect("an answer")).expect("an object")
    };
    lines.map(parse).collect()
}

#[test]
fn the_socket_is_its_owners_alone_and_goes_with_the_run() {
    let mut rig = rig();
    let mode = fs::metadata(&rig.path).expect("there").permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    rig.socket = None;
    assert!(!rig.path.exists());
    let error = ctl::ask(&rig.path, &request(r#"{"version":1,"command":"help"}"#));
    let error = error.expect_err("nobody").to_string();
    let path = rig.path.display().to_string();
    assert!(
        error.contains(&path) && error.contains("--control"),
        "{error}"
    );
}

#[test]
fn a_live_socket_and_other_files_are_left_alone_and_a_dead_one_is_replaced() {
    let rig = rig();
    let start = |path: &Path| ControlSocket::start(path, nobody()).map(|_| ());
    let error = start(&rig.path).expect_err("taken").to_string();
    assert!(error.contains("another process answers"), "{error}");
    assert_eq!(
        ask(&rig, r#"{"version":1,"command":"version"}"#)["protocol"],
        1
    );
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    fs::write(&file, "precious").expect("written");
    let error = start(&file).expect_err("taken").to_string();
    assert!(error.contains("no socket"), "{error}");
    assert_eq!(fs::read_to_string(&file).expect("there"), "precious");
    let dead = folder.path().join("dead");
    drop(UnixListener::bind(&dead).expect("bound"));
    assert!(dead.exists());
    start(&dead).expect("replaced");
    let nowhere = folder.path().join("none").join("socket");
    let error = start(&nowhere).expect_err("nowhere").to_string();
    assert!(error.contains("none/socket"), "{error}");
}

#[test]
fn a_file_that_has_come_in_the_sockets_place_stays() {
    let mut rig = rig();
    fs::remove_file(&rig.path).expect("removed");
    fs::write(&rig.path, "other").expect("written");
    rig.socket = None;
    assert!(rig.path.exists());
}

#[test]
fn answers_are_the_controllers() {
    let mut rig = rig();
    let mut driver = Driver::new(&mut rig.machine).expect("a controller");
    driver.enable(&Config::default()).expect("enabled");
    driver.create_pair(1, 16).expect("queues");
    let data = driver.alloc(4096).expect("memory");
    for _ in 0..3 {
        driver
            .exec_data(1, command::write(1, 0, 0), data)
            .expect("executed");
    }
    driver
        .exec_data(1, command::read(1, 1 << 40, 0), data)
        .expect("executed");
    let identify = ask(&rig, r#"{"version":1,"command":"identify"}"#);
    assert_eq!(
        (&identify["sn"], &identify["nn"]),
        (&"FERRITE0001".into(), &1.into())
    );
    let namespace = ask(&rig, r#"{"version":1,"command":"identify","namespace":1}"#);
    assert_eq!(
        (&namespace["nsze"], &namespace["lbaf"][0]["lbads"]),
        (&4096.into(), &12.into())
    );
    let limits = ask(&rig, r#"{"version":1,"command":"limits"}"#);
    assert_eq!(limits["namespaces"][0]["atomic_write_bytes"], 4096);
    assert_eq!(limits["queue_entries"], 65_536);
    let features = ask(&rig, r#"{"version":1,"command":"features"}"#);
    assert!(features["features"].as_array().expect("a list").len() > 10);
    let namespaces = ask(&rig, r#"{"version":1,"command":"namespaces"}"#);
    assert_eq!(namespaces["namespaces"][0]["bytes"], 16 << 20);
    let stats = ask(&rig, r#"{"version":1,"command":"stats"}"#);
    let controller = &stats["controllers"][0];
    let queue = &controller["queues"][1];
    assert_eq!(
        (&queue["write"], &queue["read"], &queue["errors"]),
        (&3.into(), &1.into(), &1.into())
    );
    assert_eq!(controller["namespaces"][0]["bytes_written"], 3 * 4096);
    assert_eq!(controller["io_commands"], 4);
    let write = controller["latency"].as_array().expect("a list");
    assert!(
        write
            .iter()
            .any(|of| of["operation"] == "write" && of["count"] == 3)
    );
    let trace = ask(&rig, r#"{"version":1,"command":"trace","last":2}"#);
    let last = &trace["commands"][1];
    assert_eq!(
        (&last["status"]["name"], &last["details"]["slba"]),
        (&"LBA_OUT_OF_RANGE".into(), &(1u64 << 40).into())
    );
    assert_eq!(trace["commands"].as_array().map(Vec::len), Some(2));
    let refused = ctl::ask(
        &rig.path,
        &request(r#"{"version":1,"command":"trace","on":true}"#),
    );
    assert!(matches!(refused, Err(CtlError::Refused { code, .. }) if code == "not-available"));
    for missing in [
        r#"{"version":1,"command":"identify","namespace":2}"#,
        r#"{"version":1,"command":"limits","controller":1}"#,
    ] {
        let refused = ctl::ask(&rig.path, &request(missing));
        assert!(matches!(refused, Err(CtlError::Refused { code, .. }) if code == "not-found"));
    }
    assert_eq!(rig.quits.load(Ordering::Relaxed), 0);
    ask(&rig, r#"{"version":1,"command":"quit"}"#);
    assert_eq!(rig.quits.load(Ordering::Relaxed), 1);
}

#[test]
fn requests_in_a_row_are_answered_in_their_order_whatever_comes_between() {
    let rig = rig();
    let long = [vec![b'x'; 5 * MAX_REQUEST], b"\n".to_vec()].concat();
    let version = b"{\"version\":1,\"command\":\"version\"}\n".to_vec();
    let text = [version.clone(), long, b"\xff\x00{\n\n".to_vec(), version].concat();
    let answers = lines(&rig.path, &text, 4);
    assert_eq!(answers[0]["ok"]["protocol"], 1);
    assert_eq!(answers[1]["error"]["code"], "bad-request");
    assert_eq!(answers[2]["error"]["code"], "bad-request");
    assert_eq!(answers[3]["ok"]["protocol"], 1);
}

#[test]
fn who_reads_nothing_and_who_says_nothing_keeps_nobody_waiting() {
    let rig = rig();
    // As many as there may be: each asks for more than it takes, until nothing more is taken of it.
    let mut stuck = Vec::new();
    for _ in 0..15 {
        let mut stream = UnixStream::connect(&rig.path).expect("connected");
        stream.set_nonblocking(true).expect("set");
        let text = b"{\"version\":1,\"command\":\"identify\"}\n".repeat(50);
        let mut sent = 0usize;
        loop {
            match stream.write(&text) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
            assert!(sent < 64 << 20, "it takes whatever comes");
        }
        stuck.push(stream);
    }
    let silent: Vec<_> = (0..40)
        .map(|_| UnixStream::connect(&rig.path).expect("connected"))
        .collect();
    for _ in 0..20 {
        assert_eq!(
            ask(&rig, r#"{"version":1,"command":"version"}"#)["protocol"],
            1
        );
    }
    // The first of them have lost their places to those who came later.
    let mut first = &silent[0];
    let wait = Some(Duration::from_secs(20));
    first.set_read_timeout(wait).expect("a timeout");
    assert_eq!(first.read(&mut [0]).expect("closed"), 0);
    drop(stuck);
}

#[test]
fn who_goes_in_the_middle_of_a_request_or_an_answer_leaves_nothing_behind() {
    let rig = rig();
    for round in 0..100 {
        let mut stream = UnixStream::connect(&rig.path).expect("connected");
        let text = b"{\"version\":1,\"command\":\"identify\"}\n";
        let part = text.get(..round % text.len()).expect("within");
        stream.write_all(part).expect("sent");
        if round % 2 == 0 {
            stream.write_all(text).expect("sent");
        }
    }
    assert_eq!(
        ask(&rig, r#"{"version":1,"command":"version"}"#)["protocol"],
        1
    );
}

/// `ferrite run` with the test kernel, which goes on for seconds.
struct Guest {
    process: Child,
    socket: PathBuf,
    folder: TempDir,
}

impl Guest {
    fn start(more: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let kernel = folder.path().join("kernel");
        fs::write(&kernel, TEST_KERNEL).expect("written");
        let socket = folder.path().join("control");
        let process = Command::new(env!("CARGO_BIN_EXE_ferrite"))
            .args(["run", "--kernel"])
            .arg(&kernel)
            .args(["--cmdline", "", "--memory", "256M", "--nvme"])
            .args([
                "namespaces=2,size=256M,mdts=4M",
                "--timeout",
                "100",
                "--control",
            ])
            .arg(&socket)
            .args(more)
            .current_dir(&folder)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        Self {
            process,
            socket,
            folder,
        }
    }

    fn ctl(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ferrite"));
        command.arg("ctl").arg(&self.socket).args(args);
        command.output().expect("started")
    }

    /// Asks until the answer is as wanted.
    fn until(&self, args: &[&str], wanted: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let output = self.ctl(&[args, &["--json"]].concat());
            if let Ok(value) = serde_json::from_slice(&output.stdout)
                && wanted(&value)
            {
                return value;
            }
            assert!(Instant::now() < end, "{output:?}");
        }
    }
}

#[test]
fn a_running_guest_is_looked_at_traced_and_ended() {
    if !support::have_kvm() {
        return;
    }
    let guest = Guest::start(&["--trace-format", "json"]);
    let stats = guest.until(&["stats"], |stats| {
        stats["controllers"][0]["io_commands"].as_u64() > Some(100)
    });
    assert_eq!(stats["controllers"][0]["counted"], true);
    assert!(stats["exits"]["total"].as_u64() > Some(0));
    let table = String::from_utf8(guest.ctl(&["stats"]).stdout).expect("text");
    assert!(
        table.contains("sqid") && table.contains("p99_ns"),
        "{table}"
    );
    let commands = String::from_utf8(guest.ctl(&["trace", "--last", "3"]).stdout).expect("text");
    assert!(
        commands.lines().count() == 3 && commands.contains("nvme0 q"),
        "{commands}"
    );
    let refused = guest.ctl(&["identify", "--namespace", "9"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("namespace 9"));
    assert_eq!(guest.ctl(&["trace", "on"]).status.code(), Some(0));
    let first = |stats: &Value| stats["controllers"][0]["io_commands"].as_u64();
    let before = first(&stats);
    guest.until(&["stats"], |stats| first(stats) > before);
    assert_eq!(guest.ctl(&["quit"]).status.code(), Some(0));
    let output = guest.process.wait_with_output().expect("ended");
    assert_eq!(output.status.code(), Some(8), "{output:?}");
    assert!(!guest.socket.exists());
    let error = String::from_utf8_lossy(&output.stderr);
    let traced = error
        .lines()
        .filter(|line| line.contains("\"event\":\"command\""));
    assert!(traced.count() > 0, "{error}");
    assert!(guest.folder.path().exists());
}

#[test]
fn a_trace_in_a_file_has_every_command_that_the_controller_executed() {
    if !support::have_kvm() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("trace.jsonl");
    let output = Command::new(env!("CARGO_BIN_EXE_ferrite"))
        .args([
            "selftest",
            "--filter",
            "io,queues",
            "--format",
            "json",
            "--trace",
        ])
        .arg(format!("nvme={}", file.display()))
        .output()
        .expect("started");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = fs::read_to_string(&file).expect("a trace");
    let events: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("an object"))
        .collect();
    let of = |kind: &str| events.iter().filter(|event| event["event"] == kind).count() as u64;
    let lost: u64 = events
        .iter()
        .filter_map(|event| event["count"].as_u64())
        .sum();
    let results: Value = serde_json::from_slice(&output.stdout).expect("results");
    let commands = &results["commands"];
    let fetched: Option<u64> = ["admin", "io"]
        .iter()
        .map(|kind| commands[kind].as_u64())
        .sum();
    let fetched = fetched.expect("counts");
    assert!(fetched > 0, "{results}");
    assert_eq!(of("command") + lost, fetched);
    assert!(of("lifecycle") > 0);
}
