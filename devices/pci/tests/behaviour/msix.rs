use std::sync::Arc;

use pci::{MsiMessage, Msix, MsixControl};

use crate::common::{Call, Recorder};

const ON: MsixControl = MsixControl {
    enable: true,
    function_mask: false,
};
const MASKED: MsixControl = MsixControl {
    enable: true,
    function_mask: true,
};
const OFF: MsixControl = MsixControl {
    enable: false,
    function_mask: false,
};

const fn message(vector: u16) -> MsiMessage {
    MsiMessage {
        address: 0x0000_0001_FEE0_1000,
        data: 0x4000 + vector as u32,
    }
}

fn new(vectors: u16) -> (Arc<Recorder>, Msix) {
    let recorder = Recorder::new();
    let msix = Msix::new(vectors, recorder.clone());
    (recorder, msix)
}

/// `vectors` with their messages written, entries still masked, MSI-X on.
fn prepared(vectors: u16) -> (Arc<Recorder>, Msix) {
    let (recorder, msix) = new(vectors);
    for vector in 0..vectors {
        let at = u64::from(vector) * 16;
        msix.table_write(at, &message(vector).address.to_le_bytes());
        msix.table_write(at + 8, &message(vector).data.to_le_bytes());
    }
    msix.set_control(ON, true);
    assert_eq!(recorder.take(), [], "nothing is routed before it opens");
    (recorder, msix)
}

fn mask(msix: &Msix, vector: u16, masked: bool) {
    msix.table_write(
        u64::from(vector) * 16 + 12,
        &u32::from(masked).to_le_bytes(),
    );
}

fn table<const N: usize>(msix: &Msix, offset: u64) -> [u8; N] {
    let mut data = [0x5A; N];
    msix.table_read(offset, &mut data);
    data
}

fn pba<const N: usize>(msix: &Msix, offset: u64) -> [u8; N] {
    let mut data = [0x5A; N];
    msix.pba_read(offset, &mut data);
    data
}

#[test]
fn unmasking_routes_commits_and_then_lets_signals_through() {
    let (recorder, msix) = prepared(4);
    mask(&msix, 2, false);
    assert_eq!(
        recorder.take(),
        [Call::Route(2, Some(message(2))), Call::Commit]
    );
    msix.signal(2);
    msix.signal(2);
    assert_eq!(recorder.take(), [Call::Signal(2), Call::Signal(2)]);
    assert!(!msix.is_pending(2));
}

#[test]
fn edges_while_masked_become_one_delivered_after_the_route() {
    let (recorder, msix) = prepared(4);
    msix.signal(1);
    msix.signal(1);
    assert_eq!(recorder.take(), []);
    assert!(msix.is_pending(1));
    mask(&msix, 1, false);
    assert_eq!(
        recorder.take(),
        [
            Call::Route(1, Some(message(1))),
            Call::Commit,
            Call::Signal(1)
        ]
    );
    assert!(!msix.is_pending(1));
    mask(&msix, 1, true);
    mask(&msix, 1, false);
    assert_eq!(
        recorder.take(),
        [],
        "delivered once, and the route has not changed"
    );
}

#[test]
fn each_of_the_four_masks_holds_an_interrupt_until_it_is_lifted() {
    type Step = fn(&Msix);
    let cases: [(&str, Step, Step); 4] = [
        ("entry", |m| mask(m, 0, true), |m| mask(m, 0, false)),
        (
            "function",
            |m| m.set_control(MASKED, true),
            |m| m.set_control(ON, true),
        ),
        (
            "enable",
            |m| m.set_control(OFF, true),
            |m| m.set_control(ON, true),
        ),
        (
            "bus master",
            |m| m.set_control(ON, false),
            |m| m.set_control(ON, true),
        ),
    ];
    for (name, close, open) in cases {
        let (recorder, msix) = prepared(2);
        mask(&msix, 0, false);
        recorder.take();
        close(&msix);
        msix.signal(0);
        assert_eq!(recorder.take(), [], "{name}");
        assert_eq!(pba(&msix, 0), [1_u8], "{name}");
        open(&msix);
        assert_eq!(recorder.take(), [Call::Signal(0)], "{name}");
        assert_eq!(pba(&msix, 0), [0_u8], "{name}");
        open(&msix);
        assert_eq!(recorder.take(), [], "{name}");
    }
}

#[test]
fn lifting_one_mask_of_several_delivers_nothing() {
    let (recorder, msix) = prepared(2);
    msix.set_control(MASKED, false);
    msix.signal(0);
    mask(&msix, 0, false);
    msix.set_control(ON, false);
    msix.set_control(MASKED, true);
    msix.set_control(OFF, true);
    assert_eq!(recorder.take(), []);
    msix.set_control(ON, true);
    assert_eq!(
        recorder.take(),
        [
            Call::Route(0, Some(message(0))),
            Call::Commit,
            Call::Signal(0)
        ]
    );
}

#[test]
fn lifting_the_function_mask_routes_all_entries_in_one_commit_before_any_signal() {
    let (recorder, msix) = prepared(3);
    msix.set_control(MASKED, true);
    for vector in [0, 2] {
        mask(&msix, vector, false);
        msix.signal(vector);
    }
    msix.signal(1);
    assert_eq!(recorder.take(), []);
    msix.set_control(ON, true);
    assert_eq!(
        recorder.take(),
        [
            Call::Route(0, Some(message(0))),
            Call::Route(2, Some(message(2))),
            Call::Commit,
            Call::Signal(0),
            Call::Signal(2),
        ]
    );
    assert!(msix.is_pending(1));
}

#[test]
fn a_message_changed_while_masked_is_routed_at_unmask_and_the_pending_edge_goes_there() {
    let (recorder, msix) = prepared(1);
    mask(&msix, 0, false);
    recorder.take();
    mask(&msix, 0, true);
    msix.signal(0);
    msix.table_write(8, &0x99_u32.to_le_bytes());
    msix.table_write(8, &0x77_u32.to_le_bytes());
    assert_eq!(recorder.take(), []);
    mask(&msix, 0, false);
    let changed = MsiMessage {
        data: 0x77,
        ..message(0)
    };
    assert_eq!(
        recorder.take(),
        [Call::Route(0, Some(changed)), Call::Commit, Call::Signal(0)]
    );
}

#[test]
fn a_message_changed_while_unmasked_is_routed_at_once_by_qword_in_one_step() {
    let (recorder, msix) = prepared(1);
    mask(&msix, 0, false);
    recorder.take();
    msix.table_write(0, &0x0000_0002_FEE0_2000_u64.to_le_bytes());
    let moved = MsiMessage {
        address: 0x0000_0002_FEE0_2000,
        ..message(0)
    };
    assert_eq!(recorder.take(), [Call::Route(0, Some(moved)), Call::Commit]);
    msix.table_write(0, &0x0000_0002_FEE0_2000_u64.to_le_bytes());
    assert_eq!(recorder.take(), [], "the same message again");
    // Data and unmask in one qword: already unmasked, one new route.
    msix.table_write(8, &0x33_u64.to_le_bytes());
    assert_eq!(
        recorder.take(),
        [
            Call::Route(
                0,
                Some(MsiMessage {
                    data: 0x33,
                    ..moved
                })
            ),
            Call::Commit
        ]
    );
}

#[test]
fn a_vector_that_does_not_exist_is_ignored() {
    let (recorder, msix) = prepared(3);
    for vector in [3, 2047, 2048, u16::MAX] {
        msix.signal(vector);
        msix.clear_pending(vector);
        msix.set_client_mask(vector, Some(false));
        assert!(!msix.is_pending(vector));
    }
    assert_eq!(recorder.take(), []);
    assert_eq!(pba(&msix, 0), [0_u8; 8]);
}

#[test]
fn a_pending_edge_taken_back_is_not_delivered() {
    let (recorder, msix) = prepared(1);
    msix.signal(0);
    msix.clear_pending(0);
    mask(&msix, 0, false);
    assert_eq!(
        recorder.take(),
        [Call::Route(0, Some(message(0))), Call::Commit]
    );
    msix.clear_pending(0);
    msix.signal(0);
    assert_eq!(recorder.take(), [Call::Signal(0)]);
}

#[test]
fn the_table_reads_back_what_aligned_dwords_and_qwords_wrote() {
    let (_, msix) = new(2);
    assert_eq!(
        table(&msix, 0),
        [0_u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]
    );
    msix.table_write(16, &0xFEE0_0123_u32.to_le_bytes());
    msix.table_write(20, &0x8765_4321_u32.to_le_bytes());
    msix.table_write(24, &0xFFFF_FFFE_CAFE_F00D_u64.to_le_bytes());
    assert_eq!(
        u32::from_le_bytes(table(&msix, 16)),
        0xFEE0_0120,
        "bits 1:0 are zero"
    );
    assert_eq!(u64::from_le_bytes(table(&msix, 16)), 0x8765_4321_FEE0_0120);
    assert_eq!(
        u64::from_le_bytes(table(&msix, 24)),
        0xCAFE_F00D,
        "reserved bits stay zero"
    );
    assert_eq!(
        table(&msix, 25),
        [0xF0_u8, 0xFE],
        "any read gives the bytes"
    );
    assert_eq!(table(&msix, 0), [0_u8; 12], "entry 0 is untouched");
}

#[test]
fn table_writes_that_are_no_whole_aligned_dwords_are_ignored() {
    let (_, msix) = prepared(2);
    let before: [u8; 32] = table(&msix, 0);
    for offset in 0..32 {
        msix.table_write(offset, &[0xFF]);
        msix.table_write(offset, &[0xFF; 2]);
        msix.table_write(offset, &[0xFF; 7]);
        msix.table_write(offset, &[]);
        if offset % 4 != 0 {
            msix.table_write(offset, &[0xFF; 4]);
            msix.table_write(offset, &[0xFF; 8]);
        }
    }
    assert_eq!(table::<32>(&msix, 0), before);
}

#[test]
fn table_accesses_past_its_end_read_all_ones_and_write_nothing() {
    let (_, msix) = new(2);
    assert_eq!(table(&msix, 30), [0_u8, 0, 0xFF, 0xFF]);
    for offset in [32, 1 << 20, u64::MAX - 3, u64::MAX] {
        assert_eq!(table(&msix, offset), [0xFF_u8; 4]);
        msix.table_write(offset, &[0xFF; 4]);
    }
    // A write across the end does its part.
    msix.table_write(24, &[0x11; 64]);
    assert_eq!(u64::from_le_bytes(table(&msix, 24)), 0x1_1111_1111);
}

#[test]
fn one_long_write_of_several_entries_opens_each() {
    let (recorder, msix) = new(3);
    msix.set_control(ON, true);
    msix.signal(1);
    let entry = |data: u8| [[0, 0x10, 0xE0, 0xFE], [0; 4], [data, 0, 0, 0], [0; 4]].concat();
    msix.table_write(0, &[entry(1), entry(2)].concat());
    let message = |data| MsiMessage {
        address: 0xFEE0_1000,
        data,
    };
    assert_eq!(
        recorder.take(),
        [
            Call::Route(0, Some(message(1))),
            Call::Route(1, Some(message(2))),
            Call::Commit,
            Call::Signal(1),
        ]
    );
}

#[test]
fn the_pba_shows_each_vector_at_its_bit_with_any_width() {
    let (_, msix) = new(70);
    for vector in [0, 9, 63, 64, 69] {
        msix.signal(vector);
    }
    assert_eq!(u64::from_le_bytes(pba(&msix, 0)), 1 | 1 << 9 | 1 << 63);
    assert_eq!(u64::from_le_bytes(pba(&msix, 8)), 1 | 1 << 5);
    assert_eq!(pba(&msix, 1), [2_u8, 0]);
    assert_eq!(pba(&msix, 7), [0x80_u8, 0x21]);
    assert_eq!(
        pba(&msix, 14),
        [0_u8, 0, 0xFF, 0xFF],
        "past the second qword"
    );
    assert_eq!(pba(&msix, u64::MAX), [0xFF_u8; 4]);
}

#[test]
fn a_table_of_2048_vectors_works_to_its_last() {
    let (recorder, msix) = prepared(2048);
    mask(&msix, 2047, false);
    msix.signal(2047);
    assert_eq!(
        recorder.take(),
        [
            Call::Route(2047, Some(message(2047))),
            Call::Commit,
            Call::Signal(2047)
        ]
    );
    msix.signal(2046);
    assert_eq!(pba(&msix, 255), [0x40_u8]);
    assert_eq!(Msix::new(u16::MAX, recorder).vectors(), 2048);
}

#[test]
fn reset_masks_clears_and_withdraws_the_routes_in_use() {
    let (recorder, msix) = prepared(3);
    mask(&msix, 1, false);
    msix.signal(0);
    recorder.take();
    msix.reset();
    assert_eq!(recorder.take(), [Call::Route(1, None), Call::Commit]);
    assert_eq!(pba(&msix, 0), [0_u8; 8]);
    assert_eq!(u64::from_le_bytes(table(&msix, 16)), 0);
    assert_eq!(u64::from_le_bytes(table(&msix, 24)), 1 << 32);
    msix.signal(1);
    assert_eq!(recorder.take(), []);
    msix.reset();
    assert_eq!(recorder.take(), [], "nothing is routed any more");
}

#[test]
fn a_route_withdrawn_by_reset_is_given_again_though_the_message_is_the_same() {
    let (recorder, msix) = prepared(1);
    mask(&msix, 0, false);
    msix.reset();
    recorder.take();
    msix.set_control(ON, true);
    msix.table_write(0, &message(0).address.to_le_bytes());
    msix.table_write(8, &u64::from(message(0).data).to_le_bytes());
    assert_eq!(
        recorder.take(),
        [Call::Route(0, Some(message(0))), Call::Commit]
    );
}

#[test]
fn a_client_mask_overrides_the_table_and_survives_reset() {
    let (recorder, msix) = new(2);
    msix.signal(0);
    msix.set_client_mask(0, Some(false));
    assert_eq!(
        recorder.take(),
        [Call::Signal(0)],
        "without a route: the client has it"
    );
    msix.reset();
    msix.signal(0);
    assert_eq!(recorder.take(), [Call::Signal(0)]);
    msix.set_client_mask(0, Some(true));
    msix.signal(0);
    assert_eq!(recorder.take(), []);
    msix.set_client_mask(0, None);
    assert_eq!(recorder.take(), [], "the table says masked");
    msix.set_control(ON, true);
    mask(&msix, 0, false);
    assert_eq!(
        recorder.take(),
        [
            Call::Route(0, Some(MsiMessage::default())),
            Call::Commit,
            Call::Signal(0)
        ]
    );
}
