//! A record beside its writer, on threads.

use std::thread;

use super::record::{Held, Record, tests::held};

/// A reader beside the writer sees whole records alone.
#[test]
fn no_record_is_seen_half_written() {
    let record = Record::default();
    let both = |cid: u16| Held {
        fetched_ns: cid.into(),
        ended_ns: cid.into(),
        ..held(cid)
    };
    let mut seen = 0;
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for round in 0..300_000u32 {
                let [a, b, ..] = round.to_le_bytes();
                record.store(&both(u16::from_le_bytes([a, b])));
            }
        });
        while !writer.is_finished() {
            if let Some(whole) = record.read() {
                assert_eq!(whole, both(whole.sqe.cid));
                seen += 1;
            }
        }
    });
    assert!(record.read().is_some());
    println!("{seen} looks");
}
