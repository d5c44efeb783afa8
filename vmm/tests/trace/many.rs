//! As many commands under way as there can be.

use std::sync::Arc;

use ferrite::nvme::inprocess::InProcess;
use nvme::{ControllerConfig, NamespaceConfig, trace::End};
use nvme_host::{Config, Driver, Transport, command};

use super::{Told, config, held::Held, watch};

/// Operations that a shard has in flight at most, each of them here a fused pair.
const PAIRS: u16 = 256;

/// A pair is two commands, and every shard can have all its operations be pairs: none of them may
/// go unseen, on the shard of the admin queue or on another.
#[test]
fn as_many_fused_pairs_as_can_be_are_followed_on_every_shard() {
    let (device, told) = (Held::new(1024), Arc::new(Told::default()));
    let config = ControllerConfig {
        namespaces: vec![NamespaceConfig::new(Arc::new(device.clone()), 512)],
        ..config(2, watch(&told))
    };
    let mut machine = InProcess::new(config, 7).expect("valid");
    let mut driver = Driver::new(&mut machine).expect("a controller");
    driver.enable(&Config::default()).expect("enabled");
    let data = driver.alloc(512).expect("memory");
    let queues = [1, 2];
    for qid in queues {
        driver.create_pair(qid, 1024).expect("queues");
        for pair in 0..PAIRS {
            // A place of its own: what waits for its range is under way all the same.
            let slba = u64::from(qid * PAIRS + pair) * 64;
            for sqe in command::compare_and_write(1, slba, 0) {
                driver.enqueue_data(qid, sqe, data).expect("room");
            }
        }
    }
    told.take();
    for qid in queues {
        driver.ring(qid).expect("rung");
    }
    let all = usize::from(PAIRS) * 2;
    let pending = |driver: &mut Driver<'_, InProcess>, qid: u16| {
        let recorded = driver.transport().controller().recorded();
        let of_queue = recorded.iter().filter(|event| event.sqid == qid);
        of_queue.filter(|event| event.end == End::Pending).count()
    };
    for _ in 0..400 {
        driver.transport().relax();
    }
    for qid in queues {
        assert_eq!(pending(&mut driver, qid), all, "under way of queue {qid}");
    }
    device.release(2 * all);
    for _ in 0..4_000 {
        driver.transport().relax();
    }
    let events = told.take();
    for qid in queues {
        assert_eq!(pending(&mut driver, qid), 0, "under way of queue {qid}");
        let ended = events.iter().filter(|event| event.sqid == qid).count();
        assert_eq!(ended, all, "told of queue {qid}");
    }
    let statistics = driver.transport().controller().statistics();
    for queue in statistics.expect("counted").queues {
        if queues.contains(&queue.sqid) {
            assert_eq!(queue.tally.total(), all as u64, "SQ {}", queue.sqid);
        }
    }
}
