//! Models of late requests, concurrent with other operations.

use super::*;

/// Begins a drain that serves late requests, as the controller does.
fn begin_drain(gate: &Gate) {
    gate.begin_drain(true);
    gate.milestones.reach(event::CLOSED);
    gate.scan();
}

/// Enters as a late request does.
fn enter_late(gate: &Gate) -> Option<&'static Shard> {
    if gate.shards()[0].enter(|| ()) {
        Some(&gate.shards()[0])
    } else {
        gate.shards()[0].enter_late()
    }
}

/// P1: once the drain has ended and the gate is idle, no request is admitted and none is in flight.
///
/// Seeded: `enter_late` that checks L before it adds itself, instead of using the result of the
/// addition; no second check after `end_drain`.
#[test]
fn a_late_request_is_waited_for_or_refused() {
    check(|| {
        let gate = Lease::new(1, 0);
        let over = Arc::new(AtomicUsize::new(0));
        let request = beside(&gate, {
            let over = Arc::clone(&over);
            move |gate| {
                let Some(entered) = enter_late(gate) else {
                    return false;
                };
                // Relaxed: only the gate may order these.
                assert_eq!(over.load(Ordering::Relaxed), 0, "admitted after the end");
                entered.leave();
                true
            }
        });
        begin_drain(&gate);
        wait_for(&gate, event::DRAINED);
        gate.end_drain();
        gate.milestones.take_back(event::IDLE);
        gate.scan();
        wait_for(&gate, event::IDLE);
        over.store(1, Ordering::Relaxed);
        let admitted = request.join().unwrap();
        assert_eq!(gate.admitted(), u64::from(admitted));
        assert_eq!(gate.in_flight(), 0);
    });
}

/// A request that arrives as a drain that serves late requests begins is served: its own shard or
/// the late one admits it.
///
/// Seeded: `close_with` that sets L after it has closed the shards.
#[test]
fn no_request_is_refused_while_late_ones_are_served() {
    check(|| {
        let gate = Lease::new(2, 0);
        let request = beside(&gate, |gate| {
            enter_late(gate).expect("it is served").leave()
        });
        begin_drain(&gate);
        request.join().unwrap();
        wait_for(&gate, event::DRAINED);
    });
}

/// A late request is refused, or cut by the force.
///
/// Seeded: `force` that sets F before it clears L, and does not cut the late shard.
#[test]
fn a_late_request_is_cut_or_refused() {
    check(|| {
        let gate = Lease::new(1, 0);
        begin_drain(&gate);
        let request = beside(&gate, |gate| {
            if let Some(entered) = gate.shards()[0].enter_late() {
                wait_in(&entered, Slot::NONE, interest::FORCED);
                entered.leave();
            }
        });
        cut(&gate);
        assert!(gate.shards()[0].enter_late().is_none());
        request.join().unwrap();
        assert_eq!(gate.in_flight(), 0);
    });
}

/// A refused late request that comes and goes does not hide the last leave.
///
/// Seeded: a refused `enter_late` that does not scan.
#[test]
fn a_refused_late_request_does_not_hide_the_last_leave() {
    check(|| {
        let gate = Lease::new(1, 0);
        assert!(gate.shards()[0].enter(|| ()));
        gate.close();
        gate.milestones.reach(event::CLOSED);
        let request = beside(&gate, |gate| {
            assert!(gate.shards()[0].enter_late().is_none())
        });
        let last = beside(&gate, |gate| gate.shards()[0].leave());
        wait_for(&gate, event::DRAINED);
        request.join().unwrap();
        last.join().unwrap();
        assert_eq!((gate.in_flight(), gate.admitted()), (0, 1));
    });
}
