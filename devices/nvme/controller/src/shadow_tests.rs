use super::*;

const BUFFERS: ShadowBuffers = ShadowBuffers {
    shadow: 0x1000,
    event: 0x2000,
};
/// Queue 3's tail: two doorbells a queue, 4 bytes each.
const AT: u64 = 3 * 8;

fn memory() -> GuestRam {
    GuestRam::from_ranges(&[(GuestAddress(0), 0x10000)]).expect("memory")
}

fn put(memory: &GuestRam, address: u64, value: u32) {
    memory
        .write_obj(value.to_le(), GuestAddress(address))
        .expect("mapped");
}

fn get(memory: &GuestRam, address: u64) -> u32 {
    let value = memory.read_obj(GuestAddress(address)).expect("mapped");
    u32::from_le(value)
}

fn registers() -> Doorbells {
    let registers = Doorbells::new(4, 1);
    registers.open(3, Side::SqTail, 0);
    registers
}

fn next(bell: &mut Bell, registers: &Doorbells, memory: &GuestRam) -> Option<u32> {
    let rung = bell.next(registers, memory).expect("mapped");
    rung.map(|rung| rung.value)
}

#[test]
fn a_new_queue_starts_at_0_whatever_lies_there_and_ignores_its_register() {
    let (memory, registers) = (memory(), registers());
    put(&memory, BUFFERS.shadow + AT, 77);
    let mut bell = Bell::shadow(3, Side::SqTail, &memory, BUFFERS).expect("mapped");
    assert_eq!(next(&mut bell, &registers, &memory), None);
    registers.ring(3, Side::SqTail, 9);
    assert_eq!(next(&mut bell, &registers, &memory), None);
    put(&memory, BUFFERS.shadow + AT, 2);
    assert!(bell.unseen(&registers, &memory));
    assert_eq!(next(&mut bell, &registers, &memory), Some(2));
    assert_eq!(next(&mut bell, &registers, &memory), None);
}

#[test]
fn the_event_index_is_the_last_value_seen_once_armed_even_a_wrong_one() {
    let (memory, registers) = (memory(), registers());
    let mut bell = Bell::shadow(3, Side::SqTail, &memory, BUFFERS).expect("mapped");
    put(&memory, BUFFERS.shadow + AT, 0xFFFF_FFFF);
    let rung = bell
        .next(&registers, &memory)
        .expect("mapped")
        .expect("rung");
    bell.refuse(&registers, rung);
    assert_eq!(get(&memory, BUFFERS.event + AT), 0, "only armed when asked");
    bell.arm(&memory).expect("mapped");
    assert_eq!(get(&memory, BUFFERS.event + AT), 0xFFFF_FFFF);
    assert_eq!(next(&mut bell, &registers, &memory), None, "judged once");
}

#[test]
fn a_queue_that_turns_takes_its_register_and_its_entry() {
    let (memory, registers) = (memory(), registers());
    let mut bell = Bell::trapped(3, Side::SqTail);
    registers.ring(3, Side::SqTail, 4);
    assert_eq!(next(&mut bell, &registers, &memory), Some(4));
    bell.turn(&memory, BUFFERS, 4).expect("mapped");
    assert_eq!(get(&memory, BUFFERS.shadow + AT), 4);
    assert_eq!(get(&memory, BUFFERS.event + AT), 4);
    // A host that had not seen the completion yet.
    registers.ring(3, Side::SqTail, 6);
    assert_eq!(next(&mut bell, &registers, &memory), Some(6));
    // One that rings after it has stored, and stores again before anyone looked.
    registers.ring(3, Side::SqTail, 7);
    put(&memory, BUFFERS.shadow + AT, 8);
    assert_eq!(next(&mut bell, &registers, &memory), Some(7));
    assert_eq!(next(&mut bell, &registers, &memory), Some(8));
    assert_eq!(next(&mut bell, &registers, &memory), None);
}

/// A value that was taken, and good.
fn take(bell: &mut Bell, registers: &Doorbells, memory: &GuestRam) -> (u32, bool) {
    let rung = bell.next(registers, memory).expect("mapped");
    let rung = rung.expect("rung");
    (rung.value, bell.follow(rung))
}

#[test]
fn a_queue_of_before_follows_its_entry_once_the_host_stores_there() {
    let (memory, registers) = (memory(), registers());
    let mut bell = Bell::trapped(3, Side::SqTail);
    bell.turn(&memory, BUFFERS, 0).expect("mapped");
    // Registers count as long as the host writes nothing else.
    for tail in [1, 2, 3] {
        registers.ring(3, Side::SqTail, tail);
        assert_eq!(take(&mut bell, &registers, &memory), (tail, false));
    }
    // The last register that was written alone is taken before the entry.
    registers.ring(3, Side::SqTail, 4);
    put(&memory, BUFFERS.shadow + AT, 5);
    assert_eq!(take(&mut bell, &registers, &memory), (4, false));
    assert_eq!(take(&mut bell, &registers, &memory), (5, true));
    // A posted write of before that arrives now, which would turn the tail back.
    registers.ring(3, Side::SqTail, 4);
    assert_eq!(next(&mut bell, &registers, &memory), None);
    put(&memory, BUFFERS.shadow + AT, 6);
    assert_eq!(take(&mut bell, &registers, &memory), (6, false), "once");
    bell.turn(&memory, BUFFERS, 6).expect("mapped");
    registers.ring(3, Side::SqTail, 7);
    assert_eq!(next(&mut bell, &registers, &memory), None, "given again");
}

#[test]
fn the_admin_queue_never_follows_its_entry() {
    let memory = memory();
    let registers = Doorbells::new(4, 1);
    registers.open(0, Side::SqTail, 0);
    let mut bell = Bell::trapped(0, Side::SqTail);
    bell.turn(&memory, BUFFERS, 0).expect("mapped");
    put(&memory, BUFFERS.shadow, 1);
    assert_eq!(take(&mut bell, &registers, &memory), (1, false));
    registers.ring(0, Side::SqTail, 2);
    assert_eq!(take(&mut bell, &registers, &memory), (2, false));
}

#[test]
fn turning_again_to_the_same_buffers_keeps_what_the_host_stored() {
    let (memory, registers) = (memory(), registers());
    let mut bell = Bell::shadow(3, Side::SqTail, &memory, BUFFERS).expect("mapped");
    put(&memory, BUFFERS.shadow + AT, 5);
    bell.turn(&memory, BUFFERS, 0).expect("mapped");
    assert_eq!(next(&mut bell, &registers, &memory), Some(5));
    let other = ShadowBuffers {
        shadow: 0x3000,
        event: 0x4000,
    };
    bell.turn(&memory, other, 5).expect("mapped");
    assert_eq!(next(&mut bell, &registers, &memory), None);
    put(&memory, BUFFERS.shadow + AT, 6);
    assert_eq!(next(&mut bell, &registers, &memory), None, "the old buffer");
    put(&memory, other.shadow + AT, 7);
    assert_eq!(next(&mut bell, &registers, &memory), Some(7));
}

#[test]
fn memory_that_is_gone_is_a_fault_of_the_queue() {
    let (memory, registers) = (memory(), registers());
    let bell = Bell::shadow(3, Side::SqTail, &memory, BUFFERS).expect("mapped");
    let small = GuestRam::from_ranges(&[(GuestAddress(0), 0x1000)]).expect("memory");
    let fault = QueueFault {
        qid: 3,
        address: BUFFERS.shadow + AT,
    };
    assert_eq!(bell.look(&registers, &small), Err(fault));
    assert!(bell.unseen(&registers, &small));
    let edge = ShadowBuffers {
        shadow: u64::MAX,
        event: 0,
    };
    assert!(Bell::shadow(3, Side::SqTail, &memory, edge).is_err());
}
