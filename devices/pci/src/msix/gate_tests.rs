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
