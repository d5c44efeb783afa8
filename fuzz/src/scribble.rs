//! Guest memory that another thread changes at its own pace.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    thread,
};

use storage::GuestRam;
use vm_memory::{Bytes, GuestAddress};

use crate::{
    commands::{command, create_cq, create_sq},
    host::Host,
    input::Input,
    machine::{DATA, DATA_BYTES, QUEUES, QUEUES_BYTES},
};

/// Commands of one input.
const COMMANDS: u32 = 60;

/// A piece of work for the thread.
struct Job {
    memory: Arc<GuestRam>,
    seed: u64,
    stop: Arc<AtomicBool>,
}

/// The thread: it takes a job and says when it has stopped.
struct Scribbler {
    jobs: SyncSender<Job>,
    done: std::sync::Mutex<Receiver<()>>,
}

impl Scribbler {
    /// The process's one.
    fn get() -> &'static Self {
        static SCRIBBLER: OnceLock<Scribbler> = OnceLock::new();
        SCRIBBLER.get_or_init(|| {
            let (jobs, todo) = sync_channel(1);
            let (said, done) = channel();
            thread::spawn(move || work(&todo, &said));
            Self {
                jobs,
                done: done.into(),
            }
        })
    }

    /// Lets the thread write to `memory` while `work` runs.
    fn during(&self, memory: Arc<GuestRam>, seed: u64, work: impl FnOnce()) {
        // One at a time: tests run in several threads.
        let done = self.done.lock().expect("no panic");
        let stop = Arc::new(AtomicBool::new(false));
        let job = Job {
            memory,
            seed,
            stop: stop.clone(),
        };
        self.jobs.send(job).expect("the thread lives");
        work();
        stop.store(true, Ordering::Release);
        done.recv().expect("the thread lives");
    }
}

fn work(todo: &Receiver<Job>, said: &Sender<()>) {
    while let Ok(job) = todo.recv() {
        let mut state = job.seed | 1;
        while !job.stop.load(Ordering::Acquire) {
            for _ in 0..16 {
                scribble_once(&job.memory, &mut state);
            }
        }
        if said.send(()).is_err() {
            return;
        }
    }
}

/// Writes eight bytes that a queue entry, a list or a range may hold.
fn scribble_once(memory: &GuestRam, state: &mut u64) {
    // xorshift64.
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    let random = *state;
    let (base, bytes) = if random & 1 == 0 {
        (DATA, DATA_BYTES)
    } else {
        (QUEUES, QUEUES_BYTES)
    };
    // Mostly where the entries and the first lists are.
    let within = if random & 6 == 0 { bytes } else { 16 << 10 };
    let address = (base + (random >> 8) % within) & !7;
    let value = match random >> 3 & 7 {
        0 => 0,
        1 => random,
        2 => random & 0xFFFF,
        3 => u64::MAX,
        4 => 1 << (random >> 58),
        _ => ((random >> 20) % DATA_BYTES) & !0xFFF,
    };
    let _ = memory.write_obj(value, GuestAddress(address));
}

/// Gives a controller commands while a thread writes to its queues, lists and data. Nothing it
/// does can be foretold; it must not panic, must come to rest, and a reset mends it.
pub fn scribble(data: &[u8]) {
    let input = &mut Input::new(data);
    let mut host = Host::new(input);
    host.enable(16, 16, 0);
    for qid in [1, 2] {
        for sqe in [create_cq(qid, 16, qid), create_sq(qid, 32, qid)] {
            assert!(host.submit(0, sqe, None, true));
            host.settle();
        }
    }
    let memory = host.share_memory();
    let seed = input.u64();
    Scribbler::get().during(memory, seed, || {
        for _ in 0..COMMANDS {
            if input.is_empty() {
                break;
            }
            let choice = input.u8();
            let qid = u16::from(choice & 3) % 3;
            let sqe = command(&mut host, input, qid);
            if !host.submit(qid, sqe, None, true) || choice & 0x0C == 0 {
                for shard in 0..host.machine.shards() {
                    host.machine.poll(shard, 16);
                }
                for qid in 0..3 {
                    host.consume(qid);
                }
            }
        }
        host.settle();
    });
    host.mend();
}
