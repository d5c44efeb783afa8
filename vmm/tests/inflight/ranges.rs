//! Commands on the same blocks from two shards.

use nvme::{AtomicUnits, Extent};
use storage::ram::Ram;

use super::*;

/// More than one step of a backend, so that a command is under way for several polls.
const BYTES: u64 = 512 * 1024;
const BLOCKS_Z: u16 = 1023;

/// A command holds its whole range from its start to its end: what the unit allows is written as
/// a whole (NVM 2.1.4.1).
#[test]
fn a_long_read_sees_all_of_a_long_write_or_nothing() {
    for seed in 1..=16 {
        let device = Arc::new(Ram::new(1 << 20).expect("memory"));
        let namespaces = vec![NamespaceConfig::new(device, 512)];
        let config = ControllerConfig {
            namespaces,
            shards: 2,
            // A write of any size is atomic: it is what this test is about.
            atomics: AtomicUnits {
                normal: Some(Extent::Blocks(65_536)),
                power_fail: None,
                compare_and_write: None,
            },
            ..ControllerConfig::default()
        };
        let mut machine = InProcess::new(config, seed).expect("valid");
        let mut driver = enabled(&mut machine);
        let data = driver.alloc(BYTES).expect("memory");
        let seen = driver.alloc(BYTES).expect("memory");
        let mut bytes = vec![0; 512 * 1024];
        for round in 1..=8u8 {
            bytes.fill(round);
            driver.transport().mem_write(data.address, &bytes);
            let writer = 1 + u16::from(round % 2);
            let (write, read) = (
                command::write(1, 0, BLOCKS_Z),
                command::read(1, 0, BLOCKS_Z),
            );
            let tokens = [(writer, write, data), (3 - writer, read, seen)]
                .map(|(qid, sqe, buffer)| driver.submit_data(qid, sqe, buffer).expect("sent"));
            for token in tokens {
                assert!(driver.wait(token).expect("completed").status().is_success());
            }
            driver.transport().mem_read(seen.address, &mut bytes);
            let first = bytes[0];
            assert!(
                [round - 1, round].contains(&first),
                "{first} in round {round}"
            );
            assert!(
                bytes.iter().all(|&byte| byte == first),
                "seed {seed}, round {round}: a part of a write"
            );
        }
    }
}
