//! The indirection unit's accounting, against its closed form.

use vm_memory::GuestAddress;

use super::*;
use crate::{null::Null, ram::Ram};

const DEVICE_BYTES: u64 = 1 << 40;

fn memory() -> Arc<GuestRam> {
    Arc::new(GuestRam::from_ranges(&[(GuestAddress(0), 4096)]).expect("memory"))
}

fn media(unit: u32) -> (Media, Queue) {
    let media = Media::new(Arc::new(Null::new(DEVICE_BYTES)), unit).expect("a unit");
    let queue = media.open_queue(1).expect("a queue");
    (media, queue)
}

fn submit(queue: &mut Queue, op: Op, offset: u64, len: u64) {
    submit_with(&memory(), queue, op, offset, len);
}

fn submit_with(memory: &Arc<GuestRam>, queue: &mut Queue, op: Op, offset: u64, len: u64) {
    let mut request = Box::new(Request::default());
    request.reset(0, op, offset, len);
    let done = queue.submit(request, memory);
    assert!(matches!(done, Submitted::Done(_, Ok(()))), "{done:?}");
}

#[test]
fn obeys_the_contract() {
    crate::conformance::run(&|bytes| {
        let ram = Arc::new(Ram::new(bytes).expect("small"));
        Arc::new(Media::new(ram, 16384).expect("a unit"))
    });
}

#[test]
fn units_that_cannot_be_are_refused_by_value() {
    for unit in [0, 1, 256, 513, 3 << 12, 2 << 20, u32::MAX] {
        let result = Media::new(Arc::new(Null::new(DEVICE_BYTES)), unit);
        let error = result.map(|_| ()).expect_err("refused").to_string();
        assert!(error.contains(&unit.to_string()), "{error}");
    }
}

/// 20 KiB at offset 12 KiB on units of 16 KiB touch two units: 32 KiB for 20, 1.6.
#[test]
fn the_worked_example_costs_1_6() {
    let (media, mut queue) = media(16 << 10);
    submit(&mut queue, Op::Write, 12 << 10, 20 << 10);
    let stats = media.media().expect("media");
    assert_eq!(stats.host_bytes_written, 20 << 10);
    assert_eq!(stats.bytes_written, 32 << 10);
    assert_eq!(stats.bytes_read_to_modify, 16 << 10);
    assert_eq!(stats.unaligned_writes, 1);
}

/// A million writes of any place and length cost (round up of their end - round down of their
/// start), unit by unit counted another way.
#[test]
fn a_million_writes_cost_what_the_closed_form_says() {
    let memory = memory();
    for unit in [512u64, 4096, 16384, 65536, 1 << 20] {
        let (media, mut queue) = media(u32::try_from(unit).expect("small"));
        let mut state = 0x5EED ^ unit;
        let mut next = |limit: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % limit
        };
        let (mut host, mut written, mut read, mut unaligned) = (0u64, 0u64, 0u64, 0u64);
        for _ in 0..200_000 {
            let len = (1 + next(512)) * 512;
            let offset = next((DEVICE_BYTES - len) / 512) * 512;
            submit_with(&memory, &mut queue, Op::Write, offset, len);
            let end = offset + len;
            let units = (end - 1) / unit - offset / unit + 1;
            let covered = (end / unit).saturating_sub(offset.div_ceil(unit));
            host += len;
            written += units * unit;
            read += (units - covered) * unit;
            unaligned += u64::from(units != covered);
        }
        let stats = media.media().expect("media");
        assert_eq!(stats.host_bytes_written, host, "unit {unit}");
        assert_eq!(stats.bytes_written, written, "unit {unit}");
        assert_eq!(stats.bytes_read_to_modify, read, "unit {unit}");
        assert_eq!(stats.bytes_read, read, "unit {unit}");
        assert_eq!(stats.unaligned_writes, unaligned, "unit {unit}");
    }
}

#[test]
fn reads_cost_whole_units_and_discards_nothing() {
    let (media, mut queue) = media(4096);
    submit(&mut queue, Op::Read, 4095, 2);
    submit(&mut queue, Op::Discard, 0, 1 << 20);
    submit(&mut queue, Op::Flush, 0, 0);
    let stats = media.media().expect("media");
    assert_eq!((stats.host_bytes_read, stats.bytes_read), (2, 8192));
    assert_eq!(stats.bytes_written, 0);
}

#[test]
fn an_operation_in_parts_counts_once_and_queues_add_up() {
    let (media, mut one) = media(4096);
    let mut other = media.open_queue(1).expect("a queue");
    let mut request = Box::new(Request::default());
    request.reset(0, Op::Write, 0, 8192);
    for (from, to) in [(4096, 8192), (0, 4096)] {
        (request.progress, request.end) = (from, to);
        let Submitted::Done(back, Ok(())) = one.submit(request, &memory()) else {
            panic!("null is done at once");
        };
        request = back;
    }
    submit(&mut other, Op::Write, 0, 4096);
    let stats = media.media().expect("media");
    assert_eq!(
        (stats.host_bytes_written, stats.bytes_written),
        (12288, 12288)
    );
}
