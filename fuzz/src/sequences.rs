//! Whole sequences of a host, with memory that changes while commands are in flight.

use nvme_spec::registers::{Register, Shn};
use pci::{PciFunction, capability::express::DeviceControl};

use crate::{
    commands::{admin, command, create_cq, create_sq, io},
    device::MOODS,
    host::{Host, IO_QUEUES},
    input::Input,
    machine::VECTORS,
    trace,
};

/// Steps of one input.
const STEPS: u32 = 300;

/// Does what hosts do, in any order: enables, makes and deletes queues, submits, polls shards one
/// by one, takes completions, aborts, resets, shuts down, takes bus mastering or memory away; and
/// changes entries, lists, ranges and data that commands in flight use.
pub fn host(data: &[u8]) {
    let input = &mut Input::new(data);
    let mut host = Host::new(input);
    if !input.wrong() {
        let (sq, cq) = (sizes(input), sizes(input));
        host.enable(sq, cq, input.pick(&[0, 1]));
        for qid in 1..=input.pick(&[1, 2, 0, 4]) {
            pair(&mut host, input, qid);
        }
    }
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        step(&mut host, input);
        host.watch();
    }
    host.mend();
}

/// Entries of an admin queue.
fn sizes(input: &mut Input<'_>) -> u32 {
    input.pick(&[16, 2, 3, 5, 64])
}

fn pair(host: &mut Host, input: &mut Input<'_>, qid: u16) {
    let (cq, sq) = (input.pick(&[16, 2, 5, 64]), input.pick(&[16, 2, 5, 64]));
    for sqe in [create_cq(qid, cq, qid % VECTORS), create_sq(qid, sq, qid)] {
        if host.submit(0, sqe, None, true) {
            host.settle();
        }
    }
}

fn step(host: &mut Host, input: &mut Input<'_>) {
    let choice = input.u8();
    let qid = u16::from(input.u8()) % (IO_QUEUES + 1);
    match choice % 32 {
        0..=5 => {
            let queues = host.sqids();
            let qid = queues.get(usize::from(qid) % queues.len().max(1)).copied();
            submit(host, input, qid.unwrap_or_default());
        }
        6 => submit(host, input, 0),
        7 | 8 => {
            let opcode = input.pick(&[
                nvme_spec::NvmOpcode::READ,
                nvme_spec::NvmOpcode::WRITE,
                nvme_spec::NvmOpcode::COMPARE,
            ]);
            let sqe = io(host, input, opcode);
            host.submit(qid.max(1), sqe, None, true);
        }
        9..=12 => {
            host.machine.advance(u64::from(input.u8()) * 1_000);
            let budget = 1 + u32::from(input.u8() & 15);
            trace!("poll {qid} with {budget}");
            host.machine.poll(usize::from(qid), budget);
        }
        13 => {
            host.consume(qid);
        }
        14 => host.settle(),
        15 => pair(host, input, qid.max(1)),
        16 => {
            let opcode = input.pick(&[
                nvme_spec::AdminOpcode::ABORT,
                nvme_spec::AdminOpcode::ASYNC_EVENT_REQUEST,
                nvme_spec::AdminOpcode::DELETE_IO_SQ,
                nvme_spec::AdminOpcode::DELETE_IO_CQ,
            ]);
            let sqe = admin(host, input, opcode);
            host.submit(0, sqe, None, true);
        }
        17 | 18 => {
            let (back, at, value) = (input.u8(), input.u8() & 63, input.u8());
            host.change_entry(qid, u32::from(back & 7), usize::from(at), value);
        }
        19..=21 => {
            let (address, value) = (u64::from(input.u16()), input.number());
            host.write_data(address, value);
        }
        22 => {
            let mood = input.pick(&MOODS);
            trace!("device: {mood:?}");
            host.device.set(mood);
        }
        23 => host.device.release(usize::from(input.u8() & 7)),
        24 => {
            let (head, value) = (input.bool(), input.number());
            let qid = if input.wrong() { input.u16() } else { qid };
            host.ring_any(
                qid,
                head,
                u32::try_from(value & 0xFFFF_FFFF).unwrap_or_default(),
            );
        }
        25 => {
            let on = input.bool();
            trace!("bus master: {on}");
            host.machine.set_bus_master(on);
        }
        26 => enable(host, input),
        27 => host.disable(),
        28 => host.shut_down(input.pick(&[Shn::Normal, Shn::Abrupt, Shn::None, Shn::Reserved])),
        29 => reset_function(host, input),
        30 => {
            let mapped = input.bool();
            host.map(mapped);
        }
        _ => mask(host, input),
    }
}

fn submit(host: &mut Host, input: &mut Input<'_>, qid: u16) {
    let sqe = command(host, input, qid);
    // The same identifier twice is a mistake whose commands still complete.
    let cid = (qid != 0 && input.wrong()).then(|| host.recent_cid(0));
    let rings = !input.wrong();
    host.submit(qid, sqe, cid, rings);
}

/// Resets, if the controller is enabled, and enables it again.
fn enable(host: &mut Host, input: &mut Input<'_>) {
    let hasty = input.wrong();
    let (sq, cq, mps) = (sizes(input), sizes(input), input.pick(&[0, 1]));
    host.disable();
    if hasty {
        // Without waiting for CSTS.RDY.
        host.describe(sq, cq, mps);
        host.distrust();
    } else {
        host.settle();
        host.enable(sq, cq, mps);
    }
}

/// A reset of the function, after which it is set up as by firmware.
fn reset_function(host: &mut Host, input: &mut Input<'_>) {
    let conventional = input.bool();
    trace!("function reset, conventional: {conventional}");
    let control = host.machine.device_control;
    if conventional {
        host.machine.function.reset();
    } else {
        let flr = DeviceControl::INITIATE_FLR.bits();
        let _ = host
            .machine
            .function
            .config_write(control, &flr.to_le_bytes());
    }
    host.forget_queues();
    host.watch();
    if input.bool() {
        // It takes its time to get there.
        host.machine.poll(0, 4);
        host.watch();
    }
    host.machine.start(VECTORS);
    host.watch();
    assert_eq!(host.machine.read32(Register::Cc), 0);
    host.settle();
}

/// Masks and opens vectors.
fn mask(host: &mut Host, input: &mut Input<'_>) {
    let vector = input.below(VECTORS.into());
    let masked = u32::from(input.bool());
    if input.wrong() {
        let control: u16 = input.pick(&[0x8000, 0xC000, 0x0000]);
        let at = host.machine.msix_control;
        let _ = host
            .machine
            .function
            .config_write(at, &control.to_le_bytes());
    }
    let function = &host.machine.function;
    function.bar_write(
        crate::machine::MSIX_BAR,
        vector * 16 + 12,
        &masked.to_le_bytes(),
    );
}
