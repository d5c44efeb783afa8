//! Submission queue entries of all kinds, on a controller with queues.

use crate::{
    commands::{command, create_cq, create_sq},
    host::Host,
    input::Input,
};

/// Commands of one input.
const COMMANDS: u32 = 200;

/// Enables a controller with two I/O queue pairs and gives it entries: right ones, damaged ones,
/// and 64 bytes of anything. Each completes once.
pub fn sqe(data: &[u8]) {
    let input = &mut Input::new(data);
    let mut host = Host::new(input);
    host.enable(16, 16, 0);
    for qid in [1, 2] {
        let commands = [create_cq(qid, 16, qid), create_sq(qid, 32, qid)];
        for sqe in commands {
            assert!(host.submit(0, sqe, None, true));
            host.settle();
        }
    }
    assert_eq!(host.sqids(), [0, 1, 2]);
    for _ in 0..COMMANDS {
        if input.is_empty() {
            break;
        }
        let choice = input.u8();
        let qid = u16::from(choice & 3) % 3;
        let mut sqe = command(&mut host, input, qid);
        if choice & 0x80 != 0 {
            let raw = input.bytes(64);
            zerocopy::IntoBytes::as_mut_bytes(&mut sqe)[..raw.len()].copy_from_slice(raw);
        }
        let submitted = host.submit(qid, sqe, None, choice & 4 == 0);
        if !submitted || choice & 8 != 0 {
            host.settle();
        } else if choice & 16 != 0 {
            host.machine.poll(usize::from(choice >> 5 & 3), 4);
        }
        host.watch();
    }
    host.settle();
    host.mend();
}
