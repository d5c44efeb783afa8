//! Real threads against the mask and unmask path. Bounded by rounds, never by time; the
//! interleavings themselves are explored one by one in the gate's loom tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::thread;

use pci::{Aperture, BarWindow, Bdf, Bus, HostBridge, MsiMessage, MsiRouter, Msix, MsixControl};

use crate::common::{Device, Recorder, full};

/// Vectors, each with its own worker: few, so that workers and vCPU truly run at once.
const VECTORS: u16 = 2;
/// Interrupts a worker sends; each waits until it has arrived.
const INTERRUPTS: usize = 500_000;
/// Looks for one interrupt before it counts as lost. A look yields, so this is far beyond
/// any scheduling delay, and a bound all the same.
const PATIENCE: usize = 10_000_000;

const ON: MsixControl = MsixControl {
    enable: true,
    function_mask: false,
};

#[derive(Default)]
struct Vector {
    delivered: AtomicUsize,
    routed: AtomicBool,
    /// What the device has written, and the last of it that an interrupt has shown.
    written: AtomicUsize,
    shown: AtomicUsize,
}

#[derive(Default)]
struct Counter {
    vectors: [Vector; VECTORS as usize],
    unrouted: AtomicUsize,
    routing: AtomicU16,
}

impl MsiRouter for Counter {
    fn route(&self, vector: u16, message: Option<MsiMessage>) {
        assert_eq!(
            self.routing.fetch_add(1, Ordering::Relaxed),
            0,
            "route is serialised"
        );
        self.vectors[usize::from(vector)]
            .routed
            .store(message.is_some(), Ordering::Relaxed);
        self.routing.fetch_sub(1, Ordering::Relaxed);
    }

    fn signal(&self, vector: u16) {
        let vector = &self.vectors[usize::from(vector)];
        if !vector.routed.load(Ordering::Relaxed) {
            self.unrouted.fetch_add(1, Ordering::Relaxed);
        }
        vector
            .shown
            .fetch_max(vector.written.load(Ordering::Relaxed), Ordering::Relaxed);
        vector.delivered.fetch_add(1, Ordering::Release);
    }
}

/// Runs `toggle` on a vCPU thread until the workers are done, at the end leaving every
/// vector open by `settle`.
fn hammer(toggle: impl Fn(&Msix, u64), settle: impl Fn(&Msix)) {
    let counter = Arc::new(Counter::default());
    let msix = Msix::new(VECTORS, counter.clone());
    msix.set_control(ON, true);
    let busy = AtomicU16::new(VECTORS);
    thread::scope(|scope| {
        for vector in 0..VECTORS {
            let (msix, busy) = (&msix, &busy);
            let state = &counter.vectors[usize::from(vector)];
            scope.spawn(move || {
                let finished = (1..=INTERRUPTS).all(|round| {
                    state.written.store(round, Ordering::Relaxed);
                    msix.signal(vector);
                    (0..PATIENCE).any(|_| {
                        let arrived = state.delivered.load(Ordering::Acquire) >= round;
                        if !arrived {
                            thread::yield_now();
                        }
                        arrived
                    })
                });
                busy.fetch_sub(1, Ordering::Relaxed);
                assert!(finished, "vector {vector} lost an interrupt");
            });
        }
        for round in 0_u64.. {
            if busy.load(Ordering::Relaxed) == 0 {
                break;
            }
            toggle(&msix, round);
            if round.is_multiple_of(64) {
                settle(&msix);
            }
        }
    });
    settle(&msix);
    for (vector, state) in (0..).zip(&counter.vectors) {
        let delivered = state.delivered.load(Ordering::Relaxed);
        assert_eq!(
            delivered, INTERRUPTS,
            "vector {vector} doubled an interrupt"
        );
        assert_eq!(state.shown.load(Ordering::Relaxed), INTERRUPTS);
        assert!(!msix.is_pending(vector));
    }
    assert_eq!(counter.unrouted.load(Ordering::Relaxed), 0);
}

fn mask(msix: &Msix, vector: u16, masked: bool) {
    msix.table_write(
        u64::from(vector) * 16 + 12,
        &u32::from(masked).to_le_bytes(),
    );
}

fn unmask_all(msix: &Msix) {
    for vector in 0..VECTORS {
        mask(msix, vector, false);
    }
}

/// Vector 0 and 1 in turn.
fn turn(round: u64) -> u16 {
    u16::from(round % 2 == 1)
}

#[test]
fn entry_masks_toggled_under_signals_lose_and_double_nothing() {
    // Masked for a moment, and every so often over several rounds.
    let toggle = |msix: &Msix, round: u64| {
        mask(msix, turn(round), true);
        if !round.is_multiple_of(7) {
            mask(msix, turn(round), false);
        }
    };
    hammer(toggle, unmask_all);
}

#[test]
fn messages_rewritten_while_masked_under_signals_lose_and_double_nothing() {
    let toggle = |msix: &Msix, round: u64| {
        let vector = turn(round);
        mask(msix, vector, true);
        msix.table_write(u64::from(vector) * 16, &(round << 2).to_le_bytes());
        mask(msix, vector, false);
    };
    hammer(toggle, unmask_all);
}

#[test]
fn function_mask_enable_and_bus_master_toggled_under_signals_lose_and_double_nothing() {
    let settle = |msix: &Msix| {
        msix.set_control(ON, true);
        unmask_all(msix);
    };
    let toggle = |msix: &Msix, round: u64| {
        let control = MsixControl {
            enable: !round.is_multiple_of(5),
            function_mask: round.is_multiple_of(3),
        };
        msix.set_control(control, !round.is_multiple_of(7));
    };
    hammer(toggle, settle);
}

#[test]
fn two_vcpus_moving_bars_leave_the_listener_with_the_last_word() {
    const ROUNDS: u32 = 2_000;
    let low = Aperture {
        base: 0xE000_0000,
        size: 0x1000_0000,
    };
    let bridge = HostBridge::new(HostBridge::DEFAULT_IDENTITY).unwrap();
    let mut bus = Bus::new(Arc::new(bridge), vec![low]);
    for device in [1, 2] {
        bus.add(device, Device::new(full(), Recorder::new()))
            .unwrap();
    }
    bus.assign_bars(low).unwrap();
    let heard = Arc::new(std::sync::Mutex::new(Vec::new()));
    let ear = heard.clone();
    bus.set_listener(move |windows: &[BarWindow]| *ear.lock().unwrap() = windows.to_vec());
    let bus = &bus;
    thread::scope(|scope| {
        for device in [1_u8, 2] {
            scope.spawn(move || {
                let bdf = Bdf::on_bus_0(device);
                for round in 0..ROUNDS {
                    let command = [if round.is_multiple_of(3) { 0_u8 } else { 2 }];
                    bus.config_write(bdf, pci::header::COMMAND, &command);
                    let base = 0xE000_0000 + (round % 16) * 0x4000;
                    bus.config_write(bdf, pci::header::BAR0, &base.to_le_bytes());
                }
            });
        }
    });
    assert_eq!(*heard.lock().unwrap(), bus.windows());
    bus.refresh();
    assert_eq!(*heard.lock().unwrap(), bus.windows());
}
