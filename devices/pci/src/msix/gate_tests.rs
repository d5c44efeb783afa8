//! The gate's rules, first one thread at a time, then under loom, which runs every
//! interleaving (with every value a weakly ordered load may see) of a few operations.
//!
//! Loom's atomics come in through [`Word`], so these run with plain `cargo test`.

use std::sync::Arc as StdArc;
use std::sync::atomic::AtomicUsize as StdUsize;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU8 as LoomU8, AtomicUsize};
use loom::thread;

use super::*;

#[test]
fn an_edge_at_an_open_gate_is_delivered_and_leaves_nothing() {
    let gate: Gate = Gate::closed();
    assert!(!gate.open());
    assert_eq!(gate.signal(), Edge::Deliver);
    assert_eq!(gate.signal(), Edge::Deliver);
    assert!(!gate.is_pending());
}

#[test]
fn edges_at_a_closed_gate_become_one_delivered_once() {
    let gate: Gate = Gate::closed();
    assert_eq!(gate.signal(), Edge::Kept);
    assert_eq!(gate.signal(), Edge::Coalesced);
    gate.close();
    assert!(gate.is_pending());
    assert!(gate.open());
    assert!(!gate.is_pending());
    assert!(!gate.open());
}

#[test]
fn a_forgotten_edge_is_not_delivered() {
    let gate: Gate = Gate::closed();
    assert_eq!(gate.signal(), Edge::Kept);
    gate.forget();
    assert!(!gate.open());
    gate.forget();
    assert_eq!(gate.signal(), Edge::Deliver);
}

impl Word for LoomU8 {
    fn new(value: u8) -> Self {
        Self::new(value)
    }

    fn load(&self, order: Ordering) -> u8 {
        self.load(order)
    }

    fn exchange(&self, current: u8, new: u8, ok: Ordering, failed: Ordering) -> Result<u8, u8> {
        self.compare_exchange(current, new, ok, failed)
    }

    fn swap(&self, value: u8, order: Ordering) -> u8 {
        self.swap(value, order)
    }

    fn fetch_or(&self, bits: u8, order: Ordering) -> u8 {
        self.fetch_or(bits, order)
    }

    fn fetch_and(&self, bits: u8, order: Ordering) -> u8 {
        self.fetch_and(bits, order)
    }
}

/// A device, a vector's gate and a guest. Relaxed everywhere but in the gate: what the gate
/// does not order is not ordered.
struct Model {
    gate: Gate<LoomU8>,
    /// The completion entries that devices have written, one bit each.
    written: AtomicUsize,
    /// Those that some delivered interrupt has let the guest see.
    seen: AtomicUsize,
    delivered: AtomicUsize,
    /// What the router has; 0 is no route.
    route: AtomicUsize,
    /// Deliveries that found no route.
    unrouted: AtomicUsize,
}

impl Model {
    fn new() -> Self {
        Self {
            gate: Gate::closed(),
            written: AtomicUsize::new(0),
            seen: AtomicUsize::new(0),
            delivered: AtomicUsize::new(0),
            route: AtomicUsize::new(0),
            unrouted: AtomicUsize::new(0),
        }
    }

    /// A device writes completion `entry` and signals.
    fn complete(&self, entry: usize) -> Edge {
        self.written.fetch_or(1 << entry, Ordering::Relaxed);
        let edge = self.gate.signal();
        if edge == Edge::Deliver {
            self.deliver();
        }
        edge
    }

    /// The router delivers; the guest looks at what there is.
    fn deliver(&self) {
        self.delivered.fetch_add(1, Ordering::Relaxed);
        if self.route.load(Ordering::Relaxed) == 0 {
            self.unrouted.fetch_add(1, Ordering::Relaxed);
        }
        // A plain load: it may see old entries unless the gate orders it after the writes.
        let seen = self.written.load(Ordering::Relaxed);
        self.seen.fetch_or(seen, Ordering::Relaxed);
    }

    /// A vCPU unmasks, as `Msix::follow` does: route, then gate.
    fn unmask(&self) {
        self.route.store(1, Ordering::Relaxed);
        if self.gate.open() {
            self.deliver();
        }
    }
}

/// Runs the devices' completions, one thread each, against what `vcpu` does on its thread.
/// It must leave the vector unmasked, or else do no more once the devices are done than
/// `finally`; then the books must balance.
///
/// `preemptions` bounds how often loom takes the processor from a thread that could go on;
/// `None` is every interleaving.
fn check(
    devices: &'static [&'static [usize]],
    vcpu: fn(&Model),
    finally: fn(&Model),
    preemptions: impl Into<Option<usize>>,
) {
    // How many interleavings ended with an edge delivered directly, or kept.
    let (direct, kept) = (StdArc::new(StdUsize::new(0)), StdArc::new(StdUsize::new(0)));
    let (direct_total, kept_total) = (direct.clone(), kept.clone());
    let mut explorer = loom::model::Builder::new();
    explorer.preemption_bound = preemptions.into();
    explorer.check(move || {
        let model = Arc::new(Model::new());
        let workers: Vec<_> = devices
            .iter()
            .map(|entries| {
                let model = model.clone();
                thread::spawn(move || {
                    entries
                        .iter()
                        .map(|entry| model.complete(*entry))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        vcpu(&model);
        let edges: Vec<Edge> = workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap())
            .collect();
        finally(&model);

        let count = |kind| edges.iter().filter(|edge| **edge == kind).count();
        let owed = count(Edge::Deliver) + count(Edge::Kept);
        assert_eq!(
            model.delivered.load(Ordering::Relaxed),
            owed,
            "lost or doubled: {edges:?}"
        );
        assert!(!model.gate.is_pending());
        assert_eq!(
            model.unrouted.load(Ordering::Relaxed),
            0,
            "delivered before its route"
        );
        assert_eq!(
            model.seen.load(Ordering::Relaxed),
            model.written.load(Ordering::Relaxed),
            "an entry whose interrupt was delivered before it could be seen: {edges:?}"
        );
        direct.fetch_add(count(Edge::Deliver), Ordering::Relaxed);
        kept.fetch_add(count(Edge::Kept), Ordering::Relaxed);
    });
    // The model is worth something only if both ways were taken.
    assert!(direct_total.load(Ordering::Relaxed) > 0);
    assert!(kept_total.load(Ordering::Relaxed) > 0);
}

/// An edge that got past an open gate unnoticed is not to be swept up by a later unmask.
fn nothing(_: &Model) {}

#[test]
fn loom_one_device_against_unmask_mask_unmask_loses_and_doubles_nothing() {
    let vcpu = |model: &Model| {
        model.unmask();
        model.gate.close();
        model.unmask();
    };
    check(&[&[0, 1]], vcpu, nothing, None);
}

#[test]
fn loom_two_devices_against_unmask_mask_lose_and_double_nothing() {
    let vcpu = |model: &Model| {
        model.unmask();
        model.gate.close();
    };
    // Without a bound this takes 20 seconds and finds no more.
    check(&[&[0], &[1]], vcpu, Model::unmask, 3);
}

#[test]
fn loom_an_edge_joined_to_a_pending_one_is_seen_by_its_delivery() {
    check(&[&[0, 1, 2]], Model::unmask, nothing, None);
}
