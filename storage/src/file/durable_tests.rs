//! What is durable when it completes, and what is lost. The disk's failures are the seam's.

use super::*;

fn synced(image: &Image) -> usize {
    image.pool.disk().seam.synced()
}

fn fails_to_flush(rig: &mut Rig) -> bool {
    is_failure(rig.run(Op::Flush, 0, 0, false))
}

#[test]
fn whatever_changes_the_disk_is_durable_with_fua_and_without_a_cache() {
    for durable in [false, true] {
        let (_folder, path) = file(MIB, 0);
        let create = None;
        let image = Image::open(&path, ImageOptions { create, durable }).expect("an image");
        let mut rig = Rig::new(&image, MIB);
        for op in [Op::WriteZeroes, Op::Discard] {
            for fua in [false, true] {
                let before = synced(&image);
                assert_eq!(rig.run(op, 0, 65536, fua), Ok(()));
                let syncs = synced(&image) - before;
                assert_eq!(
                    syncs,
                    usize::from(durable || fua),
                    "{op:?}, {fua}, {durable}"
                );
            }
        }
    }
}

/// NVM 3.2.4: with FUA, what is read is committed first.
#[test]
fn what_is_read_with_fua_is_durable_first() {
    let (_folder, path) = file(MIB, 0x11);
    let image = open(&path).expect("an image");
    let mut rig = Rig::new(&image, MIB);
    for op in [Op::Read, Op::Compare, Op::Verify] {
        for fua in [false, true] {
            let before = synced(&image);
            assert_eq!(rig.run(op, 0, 65536, fua), Ok(()));
            assert_eq!(synced(&image) - before, usize::from(fua), "{op:?}");
        }
    }
    image.pool.disk().seam.fail_sync(Errno::IO);
    assert!(is_failure(rig.run(Op::Read, 0, 65536, true)));
    assert_eq!(rig.run(Op::Read, 0, 65536, false), Ok(()));
}

/// The kernel tells it once; the image does not forget it.
#[test]
fn after_a_failed_flush_nothing_is_called_durable() {
    for error in [Errno::IO, Errno::NOSPC, Errno::DQUOT] {
        let (_folder, path) = file(MIB, 0);
        let image = open(&path).expect("an image");
        let mut rig = Rig::new(&image, MIB);
        assert_eq!(rig.run(Op::Write, 0, 4096, true), Ok(()));
        assert!(!fails_to_flush(&mut rig));
        image.pool.disk().seam.fail_sync(error);
        for _ in 0..2 {
            assert!(fails_to_flush(&mut rig), "{error}");
        }
        for op in [Op::Write, Op::WriteZeroes, Op::Discard] {
            assert!(is_failure(rig.run(op, 0, 4096, true)), "{op:?}");
            assert_eq!(rig.run(op, 0, 4096, false), Ok(()), "{op:?}");
        }
    }
}

/// What a durable write is told may be about a write before it, on a file system that tells late.
#[test]
fn after_a_durable_write_that_failed_to_sync_nothing_is_called_durable() {
    for error in [Errno::IO, Errno::NOSPC, Errno::DQUOT] {
        let (_folder, path) = file(MIB, 0);
        let image = open(&path).expect("an image");
        let mut rig = Rig::new(&image, MIB);
        assert_eq!(rig.run(Op::Write, 0, 4096, false), Ok(()));
        image.pool.disk().seam.fail_write(error);
        assert!(is_failure(rig.run(Op::Write, 8192, 4096, true)), "{error}");
        assert!(fails_to_flush(&mut rig), "{error}");
        assert!(is_failure(rig.run(Op::Write, 8192, 4096, true)), "{error}");
    }
}

/// While one is being told of a lost write, nobody else learns from the kernel that there is one.
#[test]
fn two_that_end_together_both_hear_of_a_lost_write() {
    for (op, len) in [(Op::Flush, 0), (Op::Write, 4096)] {
        let (_folder, path) = file(MIB, 0);
        let image = open(&path).expect("an image");
        let (mut one, mut other) = (Rig::new(&image, MIB), Rig::new(&image, MIB));
        let seam = &image.pool.disk().seam;
        seam.hold(true);
        seam.fail_sync(Errno::IO);
        assert!(matches!(
            one.submit(Op::Flush, 0, 0, false),
            Submitted::Pending
        ));
        seam.wait_told();
        assert!(matches!(other.submit(op, 0, len, true), Submitted::Pending));
        let rung = other.bell.0.lock().expect("no panic");
        let wait = Duration::from_millis(200);
        let early = other.bell.1.wait_timeout_while(rung, wait, |rung| !*rung);
        let early = *early.expect("no panic").0;
        seam.hold(false);
        assert!(is_failure(other.finish().remove(0).1), "{op:?}");
        assert!(is_failure(one.finish().remove(0).1));
        assert!(!early, "{op:?} came back before it could know");
    }
}
