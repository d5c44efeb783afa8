//! When a shard may go to sleep.

use nvme_spec::{FeatureId, feature::Select};

use super::*;

/// A doorbell that is rung, or a message that is posted, after a shard's last poll is seen when it
/// is about to sleep.
#[test]
fn a_shard_does_not_sleep_over_a_doorbell_or_a_message() {
    let device = Held::new(8);
    device.release(8);
    let mut machine = machine(&device, 2);
    let mut driver = enabled(&mut machine);
    step(&mut driver, 20);
    assert!(driver.transport().all_idle());
    for qid in 0..=2 {
        let sqe = match qid {
            0 => command::get_features(FeatureId::ARBITRATION, Select::Current),
            _ => command::flush(1),
        };
        let token = driver.submit(qid, sqe).expect("submitted");
        assert!(!driver.transport().all_idle(), "asleep, queue {qid} rung");
        driver.wait(token).expect("completed");
        step(&mut driver, 20);
        assert!(driver.transport().all_idle(), "awake for nothing");
    }
    let cc = driver.cc();
    driver.set_cc(cc.with_en(false));
    assert!(!driver.transport().all_idle(), "asleep, reset");
    step(&mut driver, 20);
    assert!(driver.transport().all_idle(), "awake after a reset");
}
