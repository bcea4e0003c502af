//! Models of the end of a gate's use, and of its next life.

use super::*;

/// Invariant 11: of the end of the last lease and the last leave of each shard, one gives the gate
/// back.
///
/// Seeded: `orphan` that loads the word and then sets the bits; `leave_last` that scans although the
/// shard is orphaned; a shard that is given up although it has entries.
#[test]
fn the_last_lease_or_the_last_leave_gives_the_gate_back() {
    check(|| {
        let gate = Lease::new(2, 0).gate();
        for shard in gate.shards() {
            assert!(shard.enter(|| ()));
        }
        let leaving: Vec<_> = (gate.shards().iter())
            .map(|shard| thread::spawn(|| shard.leave()))
            .collect();
        gate.orphan();
        leaving.into_iter().for_each(|left| left.join().unwrap());
        assert_eq!(gate.openings.load(Ordering::Relaxed), 1, "given back once");
        // As good as new.
        assert!(gate.shards().iter().all(|shard| shard.phase() == 0));
        assert_eq!(gate.late.phase() & CLOSED, CLOSED);
        assert_eq!(gate.in_flight() + gate.admitted(), 0);
        assert!(gate.orphan(), "and given back again");
    });
}

/// Invariant 12: an entry that has left may still scan. Its scan publishes nothing for the next
/// user of the gate.
///
/// Seeded: `reset` that counts no opening; `reset` that clears the milestones before it takes `state`.
#[test]
fn a_scan_of_an_earlier_life_publishes_nothing() {
    check(|| {
        let gate = Lease::new(1, 0).gate();
        let shard = &gate.shards()[0];
        assert!(shard.enter(|| ()));
        gate.close();
        gate.milestones().publish(event::CLOSED);
        let leaving = thread::spawn(|| shard.leave());
        if !gate.orphan() {
            // The entry has given the gate back, and its thread has no more to do.
            leaving.join().unwrap();
            return;
        }
        assert!(shard.enter(|| ()), "the next life");
        assert_eq!(gate.milestones().reached(), 0);
        assert!(gate.pause());
        leaving.join().unwrap();
        assert!(!gate.milestones().has(event::IDLE | event::DRAINED));
        shard.leave();
        assert!(gate.milestones().has(event::IDLE));
    });
}
