//! What the guest has printed and nobody has read yet.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, eventfd},
    fd::{AsFd, BorrowedFd, OwnedFd},
};

/// Bytes that wait for a reader who is slow.
pub const BUFFERED: usize = 1 << 20;
/// The last bytes that are kept for a client who is yet to come.
pub const KEPT: usize = 64 << 10;
/// How long a CPU waits, once, for a reader who takes nothing, and how long the end waits for each
/// piece; what is printed after that is lost until there is room.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Who reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reader {
    /// Somebody.
    There,
    /// A client may come.
    Awaited,
    /// Nobody ever.
    Gone,
}

struct State {
    bytes: VecDeque<u8>,
    reader: Reader,
    /// The reader had its time: nobody waits until there is room again.
    dropping: bool,
    /// Bytes that were dropped and not told of yet.
    lost: u64,
    closing: bool,
    /// When the reader took something last.
    taken: Instant,
}

/// The guest's output on its way.
pub(super) struct Output {
    state: Mutex<State>,
    room: Condvar,
    /// Wakes the thread.
    wake: OwnedFd,
}

impl Output {
    pub(super) fn new(reader: Reader) -> io::Result<Self> {
        Ok(Self {
            state: Mutex::new(State {
                bytes: VecDeque::new(),
                reader,
                dropping: false,
                lost: 0,
                closing: false,
                taken: Instant::now(),
            }),
            room: Condvar::new(),
            wake: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
        })
    }

    /// Has the thread look again.
    pub(super) fn wake(&self) {
        // A full counter is a wake-up already.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// What the thread sleeps on.
    pub(super) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Forgets wake-ups so far.
    pub(super) fn woken(&self) {
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
    }

    /// Appends what the guest prints.
    fn put(&self, bytes: &[u8]) {
        let mut state = self.lock();
        let fits = |state: &State| state.bytes.len() + bytes.len() <= BUFFERED;
        match state.reader {
            Reader::Gone => return,
            Reader::Awaited => {
                state.bytes.extend(bytes);
                let over = state.bytes.len().saturating_sub(KEPT);
                state.bytes.drain(..over);
                return;
            }
            Reader::There => {}
        }
        if !fits(&state) && !state.dropping {
            let waits = |state: &mut State| state.reader == Reader::There && !fits(state);
            let waited = self.room.wait_timeout_while(state, PATIENCE, waits);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if !fits(&state) {
            state.dropping = true;
            state.lost += bytes.len() as u64;
            return;
        }
        let sleeps = state.bytes.is_empty();
        state.bytes.extend(bytes);
        drop(state);
        if sleeps {
            self.wake();
        }
    }

    /// Appends what is ours to say, if somebody reads.
    pub(super) fn say(&self, text: &str) {
        let mut state = self.lock();
        if state.reader == Reader::There {
            state.bytes.extend(text.bytes());
        }
    }

    /// The first bytes, up to `most`.
    pub(super) fn front(&self, most: usize, into: &mut Vec<u8>) {
        into.clear();
        let state = self.lock();
        if state.reader == Reader::There {
            into.extend(state.bytes.iter().take(most));
        }
    }

    /// The first `count` bytes have been written.
    pub(super) fn consume(&self, count: usize) {
        let mut state = self.lock();
        let count = count.min(state.bytes.len());
        state.bytes.drain(..count);
        if count > 0 {
            state.taken = Instant::now();
        }
        if state.bytes.len() <= BUFFERED / 2 {
            state.dropping = false;
            let lost = std::mem::take(&mut state.lost);
            if lost > 0 {
                let told = format!("\r\n[{lost} bytes of output are lost: nobody read them]\r\n");
                state.bytes.extend(told.bytes());
            }
            self.room.notify_all();
        }
    }

    /// A reader came, or went.
    pub(super) fn set_reader(&self, reader: Reader) {
        let mut state = self.lock();
        state.reader = reader;
        (state.dropping, state.lost) = (false, 0);
        state.taken = Instant::now();
        match reader {
            Reader::There => {}
            Reader::Awaited => {
                let over = state.bytes.len().saturating_sub(KEPT);
                state.bytes.drain(..over);
            }
            Reader::Gone => state.bytes.clear(),
        }
        self.room.notify_all();
    }

    /// The guest prints no more.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closing = true;
        state.taken = Instant::now();
        drop(state);
        self.wake();
    }

    /// How long the thread may still wait for its reader: `None`, for ever; nothing, it is to end.
    pub(super) fn time_left(&self) -> Option<Duration> {
        let state = self.lock();
        if !state.closing {
            return None;
        }
        match state.reader == Reader::There && !state.bytes.is_empty() {
            true => Some(PATIENCE.saturating_sub(state.taken.elapsed())),
            false => Some(Duration::ZERO),
        }
    }

    /// Whether something was taken within [`PATIENCE`], and there is more.
    pub(super) fn is_progressing(&self) -> bool {
        self.time_left().is_some_and(|left| !left.is_zero())
    }

    /// Nothing here can panic half way.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The guest's end.
pub(super) struct Sink(pub(super) Arc<Output>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.put(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(reader: Reader) -> Output {
        Output::new(reader).expect("an eventfd")
    }

    fn all(output: &Output) -> Vec<u8> {
        let mut bytes = Vec::new();
        output.front(usize::MAX, &mut bytes);
        bytes
    }

    #[test]
    fn the_last_is_kept_for_a_client_who_comes_later() {
        let output = output(Reader::Awaited);
        for n in 0..100u8 {
            output.put(&[n; 1024]);
        }
        assert!(all(&output).is_empty(), "nobody is there");
        output.set_reader(Reader::There);
        let bytes = all(&output);
        assert_eq!(bytes.len(), KEPT);
        assert_eq!((bytes.first(), bytes.last()), (Some(&36), Some(&99)));
    }

    #[test]
    fn a_reader_who_takes_nothing_stops_the_guest_once_and_is_told_what_it_missed() {
        let output = output(Reader::There);
        output.put(&vec![b'a'; BUFFERED]);
        let start = Instant::now();
        for _ in 0..1000 {
            output.put(b"b");
        }
        let waited = start.elapsed();
        assert!(waited >= PATIENCE && waited < 5 * PATIENCE, "{waited:?}");
        output.consume(BUFFERED);
        output.put(b"c");
        let text = String::from_utf8(all(&output)).expect("text");
        assert_eq!(
            text,
            "\r\n[1000 bytes of output are lost: nobody read them]\r\nc"
        );
    }

    #[test]
    fn a_reader_who_goes_frees_the_guest() {
        let output = Arc::new(output(Reader::There));
        output.put(&vec![b'a'; BUFFERED]);
        let other = Arc::clone(&output);
        let printing = std::thread::spawn(move || other.put(b"b"));
        output.set_reader(Reader::Gone);
        printing.join().expect("no panic");
        assert!(all(&output).is_empty());
    }

    #[test]
    fn the_end_waits_for_who_reads_and_for_nobody_else() {
        let there = output(Reader::There);
        there.put(b"text");
        assert_eq!(there.time_left(), None);
        there.close();
        assert!(there.is_progressing());
        there.consume(4);
        assert_eq!(there.time_left(), Some(Duration::ZERO));
        let awaited = output(Reader::Awaited);
        awaited.put(b"text");
        awaited.close();
        assert_eq!(awaited.time_left(), Some(Duration::ZERO));
    }
}
