//! Consoles without a machine: a serial port whose guest is the test.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::{
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
};

use super::*;
use crate::machine::test_support::{Guest, stop_handle};

fn parse(text: &str) -> SerialTarget {
    SerialTarget::parse(text).expect(text)
}

fn start(target: &SerialTarget) -> (Running, Guest) {
    let console = Console::open(target).expect("a console");
    let guest = Guest::new(console.sink());
    let running = console.start(guest.input(), stop_handle());
    (running.expect("a thread"), guest)
}

#[test]
fn targets_are_read_and_others_refused() {
    assert_eq!(parse("stdio"), SerialTarget::Stdio);
    assert_eq!(parse("none"), SerialTarget::None);
    assert_eq!(parse("file:a:b"), SerialTarget::File("a:b".into()));
    assert_eq!(parse("unix:/x"), SerialTarget::Unix("/x".into()));
    for text in ["", "pty", "file:", "unix:", "stdio:", "tcp:1"] {
        SerialTarget::parse(text).expect_err(text);
    }
}

#[test]
fn a_file_holds_all_of_the_output_at_the_end_and_nothing_from_before() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log");
    fs::write(&path, vec![b'x'; 3 << 20]).expect("room");
    let (running, mut guest) = start(&SerialTarget::File(path.clone()));
    let text: Vec<u8> = (0..251u8).cycle().take(2_000_000).collect();
    guest.print(&text);
    running.finish();
    assert!(fs::read(&path).expect("a file") == text);
}

/// Reads until `text` has come.
fn read_until(stream: &mut UnixStream, text: &str) -> String {
    let mut bytes = Vec::new();
    while !String::from_utf8_lossy(&bytes).ends_with(text) {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("more");
        bytes.push(byte[0]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn clients_come_one_at_a_time_and_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("socket");
    let target = SerialTarget::Unix(path.clone());
    let (running, mut guest) = start(&target);
    let mode = fs::metadata(&path).expect("a socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(matches!(
        Console::open(&target),
        Err(ConsoleError::InUse { .. })
    ));
    guest.print(b"early\n");
    // The check above came as a client, and has gone.
    let mut first = UnixStream::connect(&path).expect("connected");
    first.write_all(b"hello\n").expect("sent");
    assert_eq!(guest.receive(6), b"hello\n");
    let mut second = UnixStream::connect(&path).expect("it waits");
    second.write_all(b"me too\n").expect("sent");
    guest.print(b"for the first\n");
    let text = read_until(&mut first, "first\n");
    assert!(text.ends_with("for the first\n"), "{text}");
    drop(first);
    assert_eq!(guest.receive(7), b"me too\n");
    guest.print(b"for the second\n");
    assert_eq!(read_until(&mut second, "second\n"), "for the second\n");
    guest.print(b"last words");
    running.finish();
    assert_eq!(read_until(&mut second, "words"), "last words");
    assert!(!path.exists(), "the socket is removed");
}

#[test]
fn a_socket_that_was_left_behind_is_made_anew_and_a_file_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("socket");
    drop(UnixListener::bind(&path).expect("a socket"));
    let (running, _guest) = start(&SerialTarget::Unix(path.clone()));
    running.finish();
    fs::write(&path, b"precious").expect("room");
    let refused = Console::open(&SerialTarget::Unix(path.clone()));
    assert!(matches!(refused, Err(ConsoleError::Open { .. })));
    assert_eq!(fs::read(&path).expect("a file"), b"precious");
}

#[test]
fn what_a_client_pastes_arrives_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("socket");
    let (running, mut guest) = start(&SerialTarget::Unix(path.clone()));
    let text: Vec<u8> = (0..253u8).cycle().take(256 << 10).collect();
    let pasted = text.clone();
    let pasting = thread::spawn(move || {
        let mut client = UnixStream::connect(path).expect("connected");
        client.write_all(&pasted).expect("sent");
        client
    });
    assert!(guest.receive(text.len()) == text);
    drop(pasting.join().expect("no panic"));
    running.finish();
}
