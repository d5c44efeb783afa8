//! Clients that mean no good. Whatever they send, the next one is served, and the guest goes on.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use ferrite::machine::GuestExit;

use crate::Guest;
use crate::support::have_kvm;

/// Most bytes of what one client here may be answered: for a few packets, each of which has a bound.
const MOST: usize = 1 << 20;

/// Sends bytes, says that no more will come, and counts what comes back until the server hangs up.
fn send(path: &Path, bytes: &[u8]) -> usize {
    let mut stream = UnixStream::connect(path).expect("it listens");
    let patience = Some(Duration::from_secs(30));
    stream.set_read_timeout(patience).expect("a socket");
    // A server that has hung up in between is what is asked for.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut reply = Vec::new();
    if let Err(error) = stream.read_to_end(&mut reply) {
        let reset = error.kind() == std::io::ErrorKind::ConnectionReset;
        assert!(reset, "it neither answers nor hangs up: {error}");
    }
    reply.len()
}

fn packet(body: &[u8]) -> Vec<u8> {
    let sum = body.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    [b"$", body, format!("#{sum:02x}").as_bytes()].concat()
}

/// The guest still runs, and is stopped and ended by a client that behaves.
fn end(guest: Guest) {
    let mut client = guest.attach();
    let rip = client.rip();
    assert_eq!(client.ask(&format!("m{rip:x},1")).len(), 2);
    client.send("k");
    assert_eq!(guest.end().expect("a run"), GuestExit::Stopped);
}

#[test]
fn packets_that_ask_for_too_much_or_make_no_sense() {
    if !have_kvm() {
        return;
    }
    let guest = Guest::start("selfcheck=hang", 2);
    let path = guest.path();
    for body in [
        "m100000,40000000",
        "m100000,ffffffffffffffff",
        "mfffffffffffffffe,ffffffff",
        "mffffffffffffffff,1",
        "M100000,ffffffff:00",
        "Mffffffffffffffff,1:00",
        "X100000,ffffffff:",
        "G00",
        "P10=",
        "P10=00",
        "Pffffffff=00",
        "pffffffffffffffff",
        "Z0,ffffffffffffffff,ffffffffffffffff",
        "Z1,ffffffffffffffff,ffffffffffffffff",
        "Z2,fffffffffffffffe,ffffffffffffffff",
        "Z2,0,0",
        "Z9,0,0",
        "z0,",
        "vCont;s",
        "vCont;r0,1:p1.1",
        "vCont;s:p1.ffffffff",
        "vCont;s:p1.0",
        "vCont;",
        "vCont;t",
        "s",
        "S05",
        "c100000",
        "Hgp9.9",
        "Hg-1",
        "Hc-1",
        "qRcmd,",
        "qRcmd,zz",
        "qRcmd,706879736963616c2030786666666666666666666666666666666620323536",
        "qXfer:features:read:target.xml:ffffffff,ffffffff",
        "qXfer:features:read:other.xml:0,fff",
        "qThreadExtraInfo,p1.ffffffff",
        "vFile:open:00,0,0",
        "vAttach;1",
        "QStartNoAckMode",
        "",
    ] {
        // Alone, after others that make it a session, and while the guest runs.
        let running = [packet(b"vCont;c"), packet(body.as_bytes()), vec![3]].concat();
        let started = [packet(b"?"), packet(body.as_bytes()), packet(b"g")].concat();
        for bytes in [packet(body.as_bytes()), started, running] {
            let reply = send(&path, &bytes);
            assert!(reply < MOST, "{reply} bytes for {body:?}");
        }
    }
    for bytes in [
        &b"-"[..],
        b"\x03\x03\x03",
        b"$",
        b"$m100",
        b"$m100000,4#",
        b"$m100000,4#00",
        b"$$$$####",
        b"\xff\xfe\x00}*",
        &[b'$'; 100_000],
        &[0; 100_000],
    ] {
        assert!(send(&path, bytes) < MOST);
    }
    end(guest);
}

#[test]
fn random_packets() {
    const WORDS: [&[u8]; 30] = [
        b"m",
        b"M",
        b"g",
        b"G",
        b"p",
        b"P",
        b"Z0,",
        b"Z1,",
        b"Z2,",
        b"z0,",
        b"z2,",
        b"vCont",
        b";c",
        b";s:p1.1",
        b":p1.2",
        b";",
        b",",
        b":",
        b"=",
        b"-1",
        b"0",
        b"1",
        b"ff",
        b"100000",
        b"ffffffff80000000",
        b"qSupported:",
        b"qfThreadInfo",
        b"Hg",
        b"?",
        b"D",
    ];
    if !have_kvm() {
        return;
    }
    let guest = Guest::start("selfcheck=hang", 2);
    let path = guest.path();
    // A seed that never changes: what fails once fails again.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 16).expect("64 bits") % below
    };
    for _ in 0..200 {
        let mut bytes = Vec::new();
        for _ in 0..random(20) {
            let words: Vec<&[u8]> = (0..=random(6))
                .map(|_| WORDS[random(WORDS.len())])
                .collect();
            bytes.extend(packet(&words.concat()));
            if random(8) == 0 {
                bytes.push(3);
            }
        }
        assert!(send(&path, &bytes) < MOST);
    }
    end(guest);
}
